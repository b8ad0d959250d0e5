"""The catalogue of metrics, as people and programs read it."""

import json

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from factories import Metrics, make_target
from otel_url_monitor import catalogue
from otel_url_monitor.instruments import ROWS, Row
from otel_url_monitor.model import MetricsLevel

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"
MINIMAL, STANDARD, FULL, ALWAYS = "minimal", "standard", "full", "always"

CONTRACT = {
    "sample_external_url_up": (GAUGE, MINIMAL, ["url"]),
    "sample_external_url_response_ms": (GAUGE, MINIMAL, ["url"]),
    "probe_success": (GAUGE, MINIMAL, ["url"]),
    "probe_duration_seconds": (GAUGE, MINIMAL, ["url"]),
    "probe_http_status_code": (GAUGE, MINIMAL, ["url"]),
    "probe_ssl_earliest_cert_expiry": (GAUGE, MINIMAL, ["url"]),
    "probe_http_duration_seconds": (GAUGE, STANDARD, ["url", "phase"]),
    "probe_http_redirects": (GAUGE, STANDARD, ["url"]),
    "probe_http_version": (GAUGE, STANDARD, ["url"]),
    "probe_http_ssl": (GAUGE, STANDARD, ["url"]),
    "probe_http_content_length": (GAUGE, STANDARD, ["url"]),
    "probe_http_uncompressed_body_length": (GAUGE, STANDARD, ["url"]),
    "probe_failed_due_to_regex": (GAUGE, STANDARD, ["url"]),
    "probe_dns_lookup_time_seconds": (GAUGE, FULL, ["url"]),
    "probe_ip_protocol": (GAUGE, FULL, ["url"]),
    "probe_ip_addr_hash": (GAUGE, FULL, ["url"]),
    "probe_tls_version_info": (GAUGE, FULL, ["url", "version"]),
    "probe_tls_cipher_info": (GAUGE, FULL, ["url", "cipher"]),
    "probe_ssl_last_chain_expiry_timestamp_seconds": (GAUGE, FULL, ["url"]),
    "probe_ssl_last_chain_info": (
        GAUGE,
        FULL,
        ["url", "fingerprint_sha256", "issuer", "serialnumber", "subject", "subjectalternative"],
    ),
    "probe_http_last_modified_timestamp_seconds": (GAUGE, FULL, ["url"]),
    "probe_timeout_seconds": (GAUGE, FULL, ["url"]),
    "url_monitor_probe_results_total": (COUNTER, MINIMAL, ["url", "result"]),
    "url_monitor_probe_last_run_timestamp_seconds": (GAUGE, MINIMAL, ["url"]),
    "url_monitor_probe_failures_total": (COUNTER, STANDARD, ["url", "class", "reason"]),
    "url_monitor_probe_failure_info": (GAUGE, STANDARD, ["url", "reason"]),
    "url_monitor_probe_skipped_total": (COUNTER, STANDARD, ["url", "reason"]),
    "url_monitor_check_success": (GAUGE, STANDARD, ["url", "check"]),
    "url_monitor_probe_latency_seconds": (HISTOGRAM, FULL, ["url"]),
    "url_monitor_targets": (GAUGE, ALWAYS, []),
    "url_monitor_probes_in_flight": (GAUGE, ALWAYS, []),
    "url_monitor_schedule_lag_seconds": (HISTOGRAM, ALWAYS, []),
    "url_monitor_scrape_render_seconds": (GAUGE, ALWAYS, []),
    "url_monitor_attribute_sets_headroom": (GAUGE, ALWAYS, []),
    "url_monitor_config_last_reload_successful": (GAUGE, ALWAYS, []),
    "url_monitor_config_last_reload_success_timestamp_seconds": (GAUGE, ALWAYS, []),
    "url_monitor_shard_ordinal": (GAUGE, ALWAYS, []),
    "url_monitor_shards": (GAUGE, ALWAYS, []),
    "url_monitor_worker_restarts_total": (COUNTER, ALWAYS, []),
    "url_monitor_otlp_export_failures_total": (COUNTER, ALWAYS, []),
    "url_monitor_otlp_lost_spans_total": (COUNTER, ALWAYS, []),
    "url_monitor_worker_cpu_seconds_total": (COUNTER, ALWAYS, ["worker"]),
    "url_monitor_worker_resident_memory_bytes": (GAUGE, ALWAYS, ["worker"]),
    "url_monitor_build_info": (GAUGE, ALWAYS, ["version", "python_version"]),
}


def test_it_is_the_contract() -> None:
    """Names, types, levels and labels are those that dashboards and alerts were written for, and none is missing."""
    entries = json.loads(catalogue.as_json())
    assert {entry["name"]: (entry["type"], entry["level"], entry["labels"]) for entry in entries} == CONTRACT


def test_every_metric_says_what_it_is() -> None:
    """Each entry has a description, and the two forms of the catalogue list the same metrics."""
    entries = json.loads(catalogue.as_json())
    assert all(entry["description"] and entry["otel_name"] for entry in entries)
    rows = catalogue.as_markdown().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [entry["name"] for entry in entries]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (
            Row(name="a.b", exposed="a_b_seconds", kind="gauge", description="words", level=MetricsLevel.FULL),
            "| `a_b_seconds` | gauge | `url` | full | `a.b` | words |",
        ),
        (
            Row(name="a.b", exposed="a_b_total", kind="counter", description="words", labels=("x", "y")),
            "| `a_b_total` | counter | `x` `y` | always | `a.b` | words |",
        ),
    ],
)
def test_a_row_is_a_line(row: Row, line: str) -> None:
    """Each metric is one line of a table."""
    assert catalogue.as_markdown([row]).splitlines()[2:] == [line]


def test_a_row_as_an_object() -> None:
    """Each metric is one object, with the same facts and the unit."""
    row = Row(name="a.b", exposed="a_b_seconds", kind="gauge", description="words", unit="s")
    assert json.loads(catalogue.as_json([row])) == [
        {
            "name": "a_b_seconds",
            "type": "gauge",
            "labels": [],
            "level": "always",
            "otel_name": "a.b",
            "unit": "s",
            "description": "words",
        }
    ]


def test_what_is_served_is_in_the_catalogue() -> None:
    """Type and help of every family that is served are the catalogue's."""
    rows = {row.exposed.removesuffix("_total"): row for row in ROWS}
    served = [
        family
        for family in text_string_to_metric_families(Metrics([make_target()], MetricsLevel.FULL).openmetrics())
        if family.name.startswith("url_monitor_")
    ]
    assert len(served) > 5
    for family in served:
        row = rows[family.name]
        assert (family.type, family.documentation) == (row.kind, row.description)
