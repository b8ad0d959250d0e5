"""The SDK as we set it up: limits, resource, environment."""

import os
import subprocess
import sys
import uuid
from collections import Counter

import pytest
from opentelemetry.metrics import Observation

from factories import (
    SPAN_ID,
    STARTED_AT,
    TRACE_ID,
    URL,
    Metrics,
    make_certificate,
    make_hop,
    make_result,
    make_target,
    make_targets,
    sample_names,
)
from otel_url_monitor.instruments import ROWS
from otel_url_monitor.model import MetricsLevel, Outcome
from otel_url_monitor.telemetry import ATTRIBUTE_SETS, SnapshotReader, Telemetry

COUNT = 5000


def test_five_thousand_targets_show_five_thousand_series() -> None:
    """No target is lost to the SDK's limit of 2,000 attribute sets, and the headroom tells what is used."""
    targets = make_targets(COUNT)
    metrics = Metrics(targets, MetricsLevel.MINIMAL)
    assert metrics.telemetry.attribute_sets() == 0
    metrics.probed(*(make_result(target, make_hop()) for target in targets))
    series = _series(metrics)
    assert {name: count for name, count in series.items() if name.startswith(("probe_", "sample_"))} == {
        "sample_external_url_up": COUNT,
        "sample_external_url_response_ms": COUNT,
        "probe_success": COUNT,
        "probe_duration_seconds": COUNT,
        "probe_http_status_code": COUNT,
    }
    assert series["url_monitor_probe_results_total"] == 3 * COUNT
    assert "overflow" not in metrics.text()
    assert metrics.telemetry.attribute_sets() == 3 * COUNT
    assert metrics.lines("url_monitor_attribute_sets_headroom") == [
        f"url_monitor_attribute_sets_headroom {ATTRIBUTE_SETS - 3 * COUNT:.1f}"
    ]


def _series(metrics: Metrics) -> Counter[str]:
    lines = metrics.text().split("\n")
    return Counter(line.partition("{")[0] for line in lines if not line.startswith("#"))


def test_histograms_have_the_same_limit() -> None:
    """A histogram too has a series for each of more targets than the SDK would keep."""
    targets = make_targets(2500)
    metrics = Metrics(targets, MetricsLevel.FULL).probed(*(make_result(target, make_hop()) for target in targets))
    assert _series(metrics)["url_monitor_probe_latency_seconds_count"] == 2500


def test_nothing_is_read_twice() -> None:
    """A read gives what was collected then, and nothing when there is nothing, not the data of the read before."""
    values = [Observation(1)]
    telemetry = Telemetry()
    telemetry.meter().create_observable_gauge("some.gauge", callbacks=[lambda _options: values])
    assert telemetry.reader.read() is not None
    values.clear()
    assert telemetry.reader.read() is None


def test_a_reader_without_a_provider_has_nothing() -> None:
    """A reader that nobody feeds says so instead of failing."""
    assert SnapshotReader().read() is None


def test_what_is_forgotten() -> None:
    """Targets that went and labels that nobody shows any more leave no attribute set; counters and histograms go on."""
    stays, goes = make_target("https://example.com/stays"), make_target("https://example.com/goes")
    metrics = Metrics([stays, goes], MetricsLevel.FULL)
    for number in range(100):
        shown = make_hop(chain=(make_certificate(STARTED_AT, sha256=f"{number:064x}"),))
        metrics.probed(make_result(stays, shown, trace_id=TRACE_ID), make_result(goes, shown)).text()
    assert metrics.telemetry.attribute_sets() == 200
    before = metrics.openmetrics()
    metrics.at(MetricsLevel.FULL)
    assert metrics.telemetry.attribute_sets() == 2 * len(Outcome)
    assert _of_targets(metrics.openmetrics()) == _of_targets(before)
    metrics.results.set_targets([stays])
    metrics.at(MetricsLevel.FULL)
    assert _of_targets(metrics.openmetrics()) == [line for line in _of_targets(before) if "/goes" not in line]
    metrics.probed(make_result(stays, make_hop(), trace_id=TRACE_ID))
    (count,) = metrics.lines("url_monitor_probe_latency_seconds_count")
    assert count == 'url_monitor_probe_latency_seconds_count{url="https://example.com/stays"} 101.0'


def _of_targets(exposition: str) -> list[str]:
    """The lines that say something of targets."""
    return [line for line in exposition.split("\n") if "example.com" in line]


def test_a_lower_level_says_less_and_a_higher_one_more() -> None:
    """The level follows at once, down and up again; what is shown of a counter is what it was."""
    target = make_target()
    metrics = Metrics([target], MetricsLevel.FULL).probed(make_result(target, make_hop()))
    full = metrics.lines(*(row.exposed for row in ROWS if row.level is not None))
    names = {level: sample_names(metrics.at(level).text()) for level in reversed(MetricsLevel)}
    assert names[MetricsLevel.MINIMAL] < names[MetricsLevel.STANDARD] < names[MetricsLevel.FULL]
    assert "url_monitor_probe_latency_seconds_count" in names[MetricsLevel.FULL]
    assert "url_monitor_probe_latency_seconds_count" not in names[MetricsLevel.STANDARD]
    assert metrics.at(MetricsLevel.FULL).lines(*(row.exposed for row in ROWS if row.level is not None)) == full


def test_who_we_are() -> None:
    """The resource names the service, its version and an instance of its own."""
    resource = Telemetry().resource_attributes
    assert resource["service.name"] == "otel-url-monitor"
    assert resource["telemetry.sdk.name"] == "opentelemetry"
    assert uuid.UUID(str(resource["service.instance.id"]))
    assert resource["service.instance.id"] != Telemetry().resource_attributes["service.instance.id"]


def test_the_operator_s_words_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say replaces our own answers."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "probes")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=pod-1,deployment.environment=prod")
    (line,) = Metrics([make_target()]).lines("target_info")
    for label in ('service_name="probes"', 'service_instance_id="pod-1"', 'deployment_environment="prod"'):
        assert label in line


PROGRAM = """
from factories import Metrics, make_hop, make_result, make_target
target = make_target()
print(Metrics([target]).probed(make_result(target, make_hop())).text())
"""


@pytest.mark.parametrize(
    "settings",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_METRICS_EXEMPLAR_FILTER": "always_off"},
        {"OTEL_ATTRIBUTE_COUNT_LIMIT": "1", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_push_settings_leave_the_exposition_alone(settings: dict[str, str]) -> None:
    """The variables that switch push and tracing off, or limit them, take nothing away from /metrics."""
    path = os.pathsep.join(part for part in sys.path if part)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **settings, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f'\nsample_external_url_up{{url="{URL}"}} 1.0\n' in done.stdout
    assert f'\nprobe_success{{url="{URL}"}} 1.0\n' in done.stdout
    assert "\nurl_monitor_targets 1.0\n" in done.stdout
    assert done.stderr == ""


def test_a_variable_that_is_not_text_does_not_break_the_exposition() -> None:
    """A resource attribute with bytes that are not UTF-8 shows a question mark and costs nothing else."""
    path = os.pathsep.join(part for part in sys.path if part)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environb, b"OTEL_RESOURCE_ATTRIBUTES": b"team=\xff", b"PYTHONPATH": path.encode()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'team="?"' in done.stdout
    assert f'\nsample_external_url_up{{url="{URL}"}} 1.0\n' in done.stdout


def test_exemplars_are_not_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_METRICS_EXEMPLAR_FILTER is about push as well: the way from a bucket to a trace stays."""
    monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", "always_off")
    target = make_target()
    metrics = Metrics([target], MetricsLevel.FULL).probed(make_result(target, make_hop(), trace_id=TRACE_ID))
    assert f'# {{trace_id="{TRACE_ID}",span_id="{SPAN_ID}"}} 0.25 ' in metrics.openmetrics()


def test_a_stopped_provider_is_quiet() -> None:
    """Stopping ends the provider and its reader without a word."""
    metrics = Metrics([make_target()])
    metrics.text()
    metrics.telemetry.shutdown()
