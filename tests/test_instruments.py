"""The metric contract: what each series says after which probe, as lines of the exposition."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from factories import (
    STARTED_AT,
    URL,
    Metrics,
    Worker,
    make_certificate,
    make_hop,
    make_result,
    make_target,
    sample_names,
)
from otel_url_monitor.instruments import ROWS
from otel_url_monitor.model import FailureReason, Hop, MetricsLevel, Phases, ProbeResult, SkipReason, Target
from otel_url_monitor.results import Results, TargetState

UP, RESPONSE_MS = "sample_external_url_up", "sample_external_url_response_ms"
RESULTS = "url_monitor_probe_results_total"
FULL = MetricsLevel.FULL

MINIMAL = {
    "sample_external_url_up",
    "sample_external_url_response_ms",
    "probe_success",
    "probe_duration_seconds",
    "probe_http_status_code",
    "probe_ssl_earliest_cert_expiry",
    "url_monitor_probe_results_total",
    "url_monitor_probe_last_run_timestamp_seconds",
}
STANDARD = MINIMAL | {
    "probe_http_duration_seconds",
    "probe_http_redirects",
    "probe_http_version",
    "probe_http_ssl",
    "probe_http_content_length",
    "probe_http_uncompressed_body_length",
    "probe_failed_due_to_regex",
    "url_monitor_probe_failures_total",
    "url_monitor_probe_failure_info",
    "url_monitor_probe_skipped_total",
    "url_monitor_check_success",
}
EVERYTHING = STANDARD | {
    "probe_dns_lookup_time_seconds",
    "probe_ip_protocol",
    "probe_ip_addr_hash",
    "probe_tls_version_info",
    "probe_tls_cipher_info",
    "probe_ssl_last_chain_expiry_timestamp_seconds",
    "probe_ssl_last_chain_info",
    "probe_http_last_modified_timestamp_seconds",
    "probe_timeout_seconds",
    "url_monitor_probe_latency_seconds_bucket",
    "url_monitor_probe_latency_seconds_count",
    "url_monitor_probe_latency_seconds_sum",
}
SELF = {
    "url_monitor_targets",
    "url_monitor_probes_in_flight",
    "url_monitor_schedule_lag_seconds_bucket",
    "url_monitor_schedule_lag_seconds_count",
    "url_monitor_schedule_lag_seconds_sum",
    "url_monitor_scrape_render_seconds",
    "url_monitor_attribute_sets_headroom",
    "url_monitor_config_last_reload_successful",
    "url_monitor_config_last_reload_success_timestamp_seconds",
    "url_monitor_shard_ordinal",
    "url_monitor_shards",
    "url_monitor_worker_restarts_total",
    "url_monitor_otlp_export_failures_total",
    "url_monitor_otlp_lost_spans_total",
    "url_monitor_worker_cpu_seconds_total",
    "url_monitor_worker_resident_memory_bytes",
    "url_monitor_build_info",
}


def series(metrics: Metrics, target: Target) -> dict[str, float]:
    """Every series of a target: name and labels beside the identity, and its value."""
    identity = {"url": target.display_url, **dict(target.labels)}
    found = {}
    for family in text_string_to_metric_families(metrics.text()):
        for sample in family.samples:
            if identity.items() <= sample.labels.items():
                extra = ",".join(f'{k}="{v}"' for k, v in sample.labels.items() if k not in identity)
                found[sample.name + (f"{{{extra}}}" if extra else "")] = sample.value
    return found


def probed(*hops: Hop, level: MetricsLevel = MetricsLevel.STANDARD, **fields: object) -> dict[str, float]:
    """All series of a target after one probe."""
    target = make_target()
    return series(Metrics([target], level).probed(make_result(target, *hops, **fields)), target)


def everything() -> tuple[Target, list[ProbeResult]]:
    """Two results of one target after which every per-target metric has a series."""
    target = make_target()
    hop = make_hop(
        is_tls=True,
        chain=(make_certificate(2e9),),
        verified=True,
        tls_version="TLSv1.3",
        tls_cipher="TLS_AES_128_GCM_SHA256",
        last_modified=1.6e9,
        phases=Phases(processing=0.1),
        address="192.0.2.1",
    )
    failing = make_result(target, hop, failure=FailureReason.UNEXPECTED_STATUS, checks=(("status", False),))
    return target, [failing]


@pytest.mark.parametrize(
    ("level", "expected"),
    [(MetricsLevel.MINIMAL, MINIMAL), (MetricsLevel.STANDARD, STANDARD), (MetricsLevel.FULL, EVERYTHING)],
)
def test_levels_hold_exactly_their_metrics(level: MetricsLevel, expected: set[str]) -> None:
    """Each level exposes the metrics that the contract lists for it and no others; self-metrics are always there."""
    target, results = everything()
    metrics = Metrics([target], level, workers=[Worker()]).probed(*results)
    metrics.results.record_skipped(target.id, SkipReason.OVERRUN, 1)
    ours = {name for name in sample_names(metrics.text()) if not name.startswith(("process_", "python_", "target_"))}
    assert ours == expected | SELF


def test_the_seed_metrics_exactly() -> None:
    """The two metrics of the first release are the same to the character: name, help, type, labels, value."""
    up, down = make_target("https://httpstat.us/200"), make_target("https://httpstat.us/503")
    metrics = Metrics([down, up]).probed(
        make_result(down, make_hop(503, duration=0.2), failure=FailureReason.UNEXPECTED_STATUS),
        make_result(up, make_hop(200, duration=0.329654)),
    )
    text = metrics.text()
    begin = text.index("# HELP sample_external_url_up")
    assert text[begin:].startswith(
        "# HELP sample_external_url_up tracks http status code 200, 1 for true, 0 for false\n"
        "# TYPE sample_external_url_up gauge\n"
        'sample_external_url_up{url="https://httpstat.us/503"} 0.0\n'
        'sample_external_url_up{url="https://httpstat.us/200"} 1.0\n'
        "# HELP sample_external_url_response_ms tracks response http time\n"
        "# TYPE sample_external_url_response_ms gauge\n"
        'sample_external_url_response_ms{url="https://httpstat.us/503"} 200.0\n'
        'sample_external_url_response_ms{url="https://httpstat.us/200"} 329.654\n'
        "# HELP probe_success "
    )


def test_before_the_first_probe() -> None:
    """A target that was never probed shows its three result counters at 0 and nothing else, at every level."""
    target = make_target()
    assert series(Metrics([target], FULL), target) == {
        f'{RESULTS}{{result="success"}}': 0,
        f'{RESULTS}{{result="failure"}}': 0,
        f'{RESULTS}{{result="unknown"}}': 0,
    }


def test_a_success_in_full() -> None:
    """Everything that one successful HTTP probe says at the standard level."""
    hop = make_hop(
        content_length=12, body_bytes=34, http_version=1.1, phases=Phases(resolve=0.5, connect=0.25), duration=0.75
    )
    assert probed(hop, checks=(("status", True),)) == {
        "sample_external_url_up": 1,
        "sample_external_url_response_ms": 750,
        "probe_success": 1,
        "probe_duration_seconds": 0.75,
        "probe_http_status_code": 200,
        'url_monitor_probe_results_total{result="success"}': 1,
        'url_monitor_probe_results_total{result="failure"}': 0,
        'url_monitor_probe_results_total{result="unknown"}': 0,
        "url_monitor_probe_last_run_timestamp_seconds": STARTED_AT + 0.75,
        'probe_http_duration_seconds{phase="resolve"}': 0.5,
        'probe_http_duration_seconds{phase="connect"}': 0.25,
        "probe_http_redirects": 0,
        "probe_http_version": 1.1,
        "probe_http_ssl": 0,
        "probe_http_content_length": 12,
        "probe_http_uncompressed_body_length": 34,
        "probe_failed_due_to_regex": 0,
        'url_monitor_check_success{check="status"}': 1,
    }


def test_no_response_in_full() -> None:
    """Everything that a refused connection says at the full level: blackbox_exporter's zeros, and no response time."""
    target = make_target(timeout=3.0)
    hop = make_hop(0, duration=0.001, phases=Phases(resolve=0.001))
    metrics = Metrics([target], FULL).probed(make_result(target, hop, failure=FailureReason.CONNECTION_REFUSED))
    assert series(metrics, target) == {
        "sample_external_url_up": 0,
        "probe_success": 0,
        "probe_duration_seconds": 0.001,
        "probe_http_status_code": 0,
        'url_monitor_probe_results_total{result="success"}': 0,
        'url_monitor_probe_results_total{result="failure"}': 1,
        'url_monitor_probe_results_total{result="unknown"}': 0,
        "url_monitor_probe_last_run_timestamp_seconds": STARTED_AT + 0.001,
        'probe_http_duration_seconds{phase="resolve"}': 0.001,
        "probe_http_redirects": 0,
        "probe_http_version": 0,
        "probe_http_ssl": 0,
        "probe_http_content_length": 0,
        "probe_http_uncompressed_body_length": 0,
        "probe_failed_due_to_regex": 0,
        'url_monitor_probe_failures_total{class="connect",reason="connection_refused"}': 1,
        'url_monitor_probe_failure_info{reason="connection_refused"}': 1,
        "probe_dns_lookup_time_seconds": 0.001,
        "probe_ip_protocol": 0,
        "probe_ip_addr_hash": 0,
        "probe_timeout_seconds": 3,
    }


@pytest.mark.parametrize(
    ("hops", "failure", "up", "success"),
    [
        ((make_hop(200),), None, 1, 1),
        ((make_hop(302), make_hop(200)), None, 1, 1),
        ((make_hop(204),), None, 0, 1),
        ((make_hop(404),), None, 0, 1),
        ((make_hop(200),), FailureReason.UNEXPECTED_STATUS, 1, 0),
        ((make_hop(200),), FailureReason.TOO_SLOW, 1, 0),
        ((make_hop(200, completed=False),), FailureReason.TRUNCATED_RESPONSE, 0, 0),
        ((make_hop(200), make_hop(0)), FailureReason.CONNECT_TIMEOUT, 0, 0),
        ((make_hop(0),), FailureReason.TLS_EXPIRED, 0, 0),
    ],
)
def test_up_and_success(hops: tuple[Hop, ...], failure: FailureReason | None, up: float, success: float) -> None:
    """`up` is a completed exchange with a final 200, whatever the checks say; `probe_success` is the verdict."""
    found = probed(*hops, failure=failure)
    assert (found[UP], found["probe_success"]) == (up, success)


@pytest.mark.parametrize(
    ("hops", "milliseconds"),
    [
        ((make_hop(200, duration=0.0125),), 12.5),
        ((make_hop(301, duration=0.5), make_hop(503, duration=0.25)), 750.0),
        ((make_hop(200, duration=0.5, completed=False),), 500.0),
        ((make_hop(0),), None),
        ((make_hop(301), make_hop(0)), None),
    ],
)
def test_response_ms(hops: tuple[Hop, ...], milliseconds: float | None) -> None:
    """The response time is the whole exchange in milliseconds, absent when no complete header block came."""
    assert probed(*hops, failure=FailureReason.UNEXPECTED_STATUS).get(RESPONSE_MS) == milliseconds


@pytest.mark.parametrize("reason", [FailureReason.LOCAL_RESOURCE, FailureReason.INTERNAL_ERROR])
def test_unknown_says_nothing_of_the_target(reason: FailureReason) -> None:
    """When we ran short, every result of the target is absent and only the counter and the time of the run move."""
    target, results = everything()
    metrics = Metrics([target]).probed(*results)
    before = series(metrics, target)
    metrics.probed(make_result(target, make_hop(), failure=reason, started_at=STARTED_AT + 60, duration=0.5))
    assert series(metrics, target) == {
        'url_monitor_probe_results_total{result="success"}': 0,
        'url_monitor_probe_results_total{result="failure"}': 1,
        'url_monitor_probe_results_total{result="unknown"}': 1,
        "url_monitor_probe_last_run_timestamp_seconds": STARTED_AT + 60.5,
        'url_monitor_probe_failures_total{class="content",reason="unexpected_status"}': 1,
    }
    metrics.probed(*results)
    after = series(metrics, target)
    assert after.keys() == before.keys()


def test_failure_info_is_there_while_failing() -> None:
    """The reason of a failure shows only as long as it lasts, and only the present one."""
    target = make_target()
    metrics = Metrics([target])
    name = "url_monitor_probe_failure_info"
    shown = []
    for failure in (FailureReason.DNS_ERROR, FailureReason.TLS_EXPIRED, None, FailureReason.OTHER):
        metrics.probed(make_result(target, make_hop(), failure=failure))
        shown.append(metrics.lines(name))
    assert shown == [
        [f'{name}{{reason="dns_error",url="{URL}"}} 1.0'],
        [f'{name}{{reason="tls_expired",url="{URL}"}} 1.0'],
        [],
        [f'{name}{{reason="_OTHER",url="{URL}"}} 1.0'],
    ]


def test_failures_count_by_class_and_reason() -> None:
    """Failures are counted by class and reason, only those that occurred; unknown outcomes are none."""
    target = make_target()
    reasons = [FailureReason.DNS_ERROR, FailureReason.OTHER, FailureReason.DNS_ERROR, FailureReason.CANCELED]
    metrics = Metrics([target]).probed(*(make_result(target, make_hop(0), failure=reason) for reason in reasons))
    name = "url_monitor_probe_failures_total"
    assert metrics.lines(name) == [
        f'{name}{{class="dns",reason="dns_error",url="{URL}"}} 2.0',
        f'{name}{{class="other",reason="_OTHER",url="{URL}"}} 1.0',
    ]


def test_skipped_probes_count_by_reason() -> None:
    """Probes that were due and not made are counted by why, also before the first result."""
    target = make_target()
    metrics = Metrics([target])
    metrics.results.record_skipped(target.id, SkipReason.SHUTDOWN, 1)
    metrics.results.record_skipped(target.id, SkipReason.SATURATED, 3)
    metrics.results.record_skipped(target.id, SkipReason.OVERRUN, 2)
    name = "url_monitor_probe_skipped_total"
    assert metrics.lines(name) == [
        f'{name}{{reason="shutdown",url="{URL}"}} 1.0',
        f'{name}{{reason="saturated",url="{URL}"}} 3.0',
        f'{name}{{reason="overrun",url="{URL}"}} 2.0',
    ]


def test_phases_are_summed_over_redirects() -> None:
    """Each phase is the sum over all hops; one that happened on no hop is absent, one that took no time is 0."""
    hops = (
        make_hop(302, phases=Phases(resolve=0.25, connect=0.5, processing=1.0)),
        make_hop(200, phases=Phases(connect=0.25, tls=0.125, processing=0.0)),
    )
    prefix = "probe_http_duration_seconds"
    assert {name: value for name, value in probed(*hops).items() if name.startswith(prefix)} == {
        f'{prefix}{{phase="resolve"}}': 0.25,
        f'{prefix}{{phase="connect"}}': 0.75,
        f'{prefix}{{phase="tls"}}': 0.125,
        f'{prefix}{{phase="processing"}}': 1.0,
    }


@pytest.mark.parametrize(("hops", "redirects"), [(0, 0), (1, 0), (2, 1), (4, 3)])
def test_redirects_followed(hops: int, redirects: int) -> None:
    """The number of redirects is how many were followed."""
    assert probed(*[make_hop()] * hops, failure=FailureReason.TOO_SLOW)["probe_http_redirects"] == redirects


@pytest.mark.parametrize(
    ("hop", "length"),
    [(make_hop(content_length=10), 10), (make_hop(content_length=-1), -1), (make_hop(0), 0)],
)
def test_content_length(hop: Hop, length: float) -> None:
    """The content length is the server's word, -1 when it named none and 0 without a response."""
    assert probed(hop, failure=FailureReason.TOO_SLOW)["probe_http_content_length"] == length


@pytest.mark.parametrize(
    ("hops", "ssl"),
    [
        ((make_hop(is_tls=True),), 1),
        ((make_hop(0, is_tls=True),), 0),
        ((make_hop(is_tls=True), make_hop()), 0),
        ((make_hop(), make_hop(is_tls=True)), 1),
    ],
)
def test_ssl_speaks_of_the_final_response(hops: tuple[Hop, ...], ssl: float) -> None:
    """`probe_http_ssl` is whether the final response came over TLS."""
    assert probed(*hops, failure=FailureReason.TOO_SLOW)["probe_http_ssl"] == ssl


def test_the_expiry_of_a_refused_certificate_shows() -> None:
    """A certificate that was not accepted still shows when the earliest of its chain ends; trust needs verification."""
    issuer = make_certificate(1.8e9, subject="CN=Example CA", issuer="CN=Root")
    chain = (make_certificate(2e9), make_certificate(1.5e9, subject="CN=Unrelated"), issuer)
    refused = probed(make_hop(0, is_tls=True, chain=chain), failure=FailureReason.TLS_EXPIRED, level=FULL)
    assert refused["probe_ssl_earliest_cert_expiry"] == 1.5e9
    assert "probe_ssl_last_chain_expiry_timestamp_seconds" not in refused
    accepted = probed(make_hop(is_tls=True, chain=chain, verified=True), level=FULL)
    assert accepted["probe_ssl_earliest_cert_expiry"] == 1.5e9
    # What was sent beside the chain that was verified says nothing of it.
    assert accepted["probe_ssl_last_chain_expiry_timestamp_seconds"] == 1.8e9


def test_the_certificate_of_an_earlier_hop_shows() -> None:
    """After a redirect away from TLS the certificate that was shown on the way is not forgotten."""
    hops = (make_hop(302, is_tls=True, chain=(make_certificate(2e9),)), make_hop())
    assert probed(*hops)["probe_ssl_earliest_cert_expiry"] == 2e9
    assert "probe_ssl_earliest_cert_expiry" not in probed(make_hop())


def test_certificate_labels() -> None:
    """The leaf's names become labels as blackbox_exporter has them, cut to a bounded length."""
    names = "DNS:example.com, IP Address:127.0.0.1, DNS:www.example.com"
    leaf = make_certificate(
        2e9, subject="CN = " + "x" * 1000, issuer="C = US, O = A, Inc., CN = Example CA", names=names
    )
    target = make_target()
    metrics = Metrics([target], FULL).probed(make_result(target, make_hop(chain=(leaf, make_certificate(1e9)))))
    assert metrics.lines("probe_ssl_last_chain_info") == [
        (
            f'probe_ssl_last_chain_info{{fingerprint_sha256="{"ab" * 32}",issuer="CN=Example CA,O=A, Inc.,C=US",'
            f'serialnumber="0a",subject="CN={"x" * 253}",subjectalternative="example.com,www.example.com",'
            f'url="{URL}"}} 1.0'
        )
    ]


@pytest.mark.parametrize(
    ("address", "protocol", "hashed"),
    [
        ("102.111.111.98", 4, 0x3F5076EF),  # "foob" in the test vectors of the hash's authors
        ("127.0.0.1", 4, 3668918509),
        ("2001:db8::1", 6, 1851458804),
        ("::1", 6, 1751717746),
    ],
)
def test_address(address: str, protocol: float, hashed: int) -> None:
    """The address family and blackbox_exporter's hash of the address: FNV-1a over its 4 or 16 bytes."""
    found = probed(make_hop(address=address), level=FULL)
    assert (found["probe_ip_protocol"], found["probe_ip_addr_hash"]) == (protocol, hashed)


def test_tls_facts_and_last_modified() -> None:
    """TLS version and cipher as blackbox_exporter writes them, and when the content was last modified."""
    hop = make_hop(is_tls=True, tls_version="TLSv1.3", tls_cipher="TLS_AES_128_GCM_SHA256", last_modified=1.6e9)
    found = probed(hop, level=FULL)
    assert found['probe_tls_version_info{version="TLS 1.3"}'] == 1
    assert found['probe_tls_cipher_info{cipher="TLS_AES_128_GCM_SHA256"}'] == 1
    assert found["probe_http_last_modified_timestamp_seconds"] == 1.6e9


def test_dns_time_of_a_literal_address_is_zero() -> None:
    """A URL that holds an address needs no lookup: 0 seconds, as blackbox_exporter says."""
    assert probed(make_hop(address="192.0.2.1"), level=FULL)["probe_dns_lookup_time_seconds"] == 0


def test_each_check_has_a_verdict() -> None:
    """Every configured check shows whether it passed."""
    found = probed(make_hop(), checks=(("status", True), ("header:Server", False)), failure=FailureReason.TOO_SLOW)
    assert found['url_monitor_check_success{check="status"}'] == 1
    assert found['url_monitor_check_success{check="header:Server"}'] == 0


def test_labels_a_target_lacks_are_left_out() -> None:
    """A target without a name has exactly its URL, also beside one that has a name; no label is ever empty."""
    plain, named = make_target(), make_target(name="shop")
    empty = make_target("https://empty.example/", labels=(("team", ""),))
    metrics = Metrics([plain, named, empty])
    metrics.probed(*(make_result(target, make_hop()) for target in (plain, named, empty)))
    assert metrics.lines(UP) == [
        f'{UP}{{url="{URL}"}} 1.0',
        f'{UP}{{name="shop",url="{URL}"}} 1.0',
        f'{UP}{{url="https://empty.example/"}} 1.0',
    ]
    assert '=""' not in metrics.text()


def test_values_are_never_nan() -> None:
    """A value that is not a number is left out instead of exposed."""
    assert "probe_duration_seconds" not in probed(make_hop(), duration=float("nan"))


class _Shrinking(Results):
    """Results that forget the targets after the first when told to."""

    has_shrunk = False

    def snapshot(self) -> tuple[TargetState, ...]:
        states = super().snapshot()
        return states[:1] if self.has_shrunk else states


def test_a_series_that_is_gone_is_gone_at_the_next_scrape() -> None:
    """What the latest snapshot does not hold any more has no series at the next render, counters included."""
    kept, dropped = make_target("https://kept.example/"), make_target("https://dropped.example/")
    results = _Shrinking([kept, dropped])
    metrics = Metrics([], results=results)
    metrics.probed(*(make_result(target, make_hop(), failure=FailureReason.OTHER) for target in (kept, dropped)))
    assert "dropped.example" in metrics.text()
    results.has_shrunk = True
    assert "dropped.example" not in metrics.text()
    assert series(metrics, kept)["probe_success"] == 0


class _Overtaken(Results):
    """Results into which another one comes right after each look at them."""

    def __init__(self, target: Target, then: ProbeResult) -> None:
        super().__init__([target])
        self._then = then

    def snapshot(self) -> tuple[TargetState, ...]:
        states = super().snapshot()
        self.record(self._then)
        return states


def test_one_render_shows_one_moment() -> None:
    """A result that comes in during a render shows in none of its series or in all of them."""
    target = make_target()
    after = make_result(target, make_hop(500), failure=FailureReason.UNEXPECTED_STATUS)
    metrics = Metrics([], results=_Overtaken(target, after)).probed(make_result(target, make_hop()))
    first, second = series(metrics, target), series(metrics, target)
    counted = f'{RESULTS}{{result="failure"}}'
    shown = (UP, "probe_success", "probe_http_status_code", counted)
    assert [first[name] for name in shown] == [1, 1, 200, 0]
    assert [second[name] for name in shown] == [0, 0, 500, 1]


def test_latency_counts_complete_responses_in_seconds() -> None:
    """The latency histogram has its boundaries in seconds and counts only probes that got a response."""
    target = make_target()
    metrics = Metrics([target], FULL).probed(
        make_result(target, make_hop(duration=0.02)),
        make_result(target, make_hop(duration=3.0)),
        make_result(target, make_hop(0, duration=5.0), failure=FailureReason.RESPONSE_TIMEOUT),
    )
    name = "url_monitor_probe_latency_seconds"
    bounds = ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf"]
    counts = [0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2]
    assert metrics.lines(f"{name}_bucket", f"{name}_count", f"{name}_sum") == [
        *(f'{name}_bucket{{url="{URL}",le="{bound}"}} {count}.0' for bound, count in zip(bounds, counts, strict=True)),
        f'{name}_count{{url="{URL}"}} 2.0',
        f'{name}_sum{{url="{URL}"}} 3.02',
    ]


def test_lag_in_seconds() -> None:
    """How late probes start is a histogram over all targets, with boundaries in seconds."""
    target = make_target()
    metrics = Metrics([target])
    for lag in (0.0005, 0.004, 0.75, 20.0):
        metrics.probed(make_result(target, make_hop()), lag=lag)
    name = "url_monitor_schedule_lag_seconds"
    bounds = ["0.001", "0.005", "0.01", "0.05", "0.1", "0.5", "1.0", "5.0", "+Inf"]
    counts = [1, 2, 2, 2, 2, 2, 3, 3, 4]
    assert metrics.lines(f"{name}_bucket", f"{name}_count") == [
        *(f'{name}_bucket{{le="{bound}"}} {count}.0' for bound, count in zip(bounds, counts, strict=True)),
        f"{name}_count 4.0",
    ]


def test_the_service_reports_on_itself() -> None:
    """The self-metrics say how many targets and probes there are, and what each worker uses."""
    metrics = Metrics(
        [make_target()],
        workers=[Worker(2, 1.5, 12_345_678, 3), Worker(1, 2.5, 2000, 4)],
    )
    assert metrics.lines(
        "url_monitor_targets",
        "url_monitor_probes_in_flight",
        "url_monitor_config_last_reload_successful",
        "url_monitor_config_last_reload_success_timestamp_seconds",
        "url_monitor_worker_restarts_total",
        "url_monitor_worker_cpu_seconds_total",
        "url_monitor_worker_resident_memory_bytes",
    ) == [
        "url_monitor_targets 1.0",
        "url_monitor_probes_in_flight 7.0",
        "url_monitor_config_last_reload_successful 1.0",
        "url_monitor_config_last_reload_success_timestamp_seconds 1.7e+09",
        "url_monitor_worker_restarts_total 3.0",
        'url_monitor_worker_cpu_seconds_total{worker="0"} 1.5',
        'url_monitor_worker_cpu_seconds_total{worker="1"} 2.5',
        'url_monitor_worker_resident_memory_bytes{worker="0"} 1.2345678e+07',
        'url_monitor_worker_resident_memory_bytes{worker="1"} 2000.0',
    ]


def test_every_name_is_used_once() -> None:
    """No two rows share a name, on either side: of two instruments with one name the second is silently lost."""
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert len({row.exposed for row in ROWS}) == len(ROWS)


def test_names_follow_from_unit_and_kind() -> None:
    """The exposed name is the OpenTelemetry name with the suffixes of unit and kind; `_ms` gets none."""
    suffixes = {"s": "_seconds", "By": "_bytes", "": ""}
    for row in ROWS:
        total = "_total" if row.kind == "counter" else ""
        assert row.exposed == row.name.replace(".", "_") + suffixes[row.unit] + total
    assert "milliseconds" not in Metrics([make_target()]).text()
