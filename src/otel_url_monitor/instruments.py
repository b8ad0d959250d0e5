"""Every instrument, one row each: its name, unit, description, and how its value follows from the results."""

import ipaddress
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from otel_url_monitor import __version__
from otel_url_monitor.model import Certificate, Hop, MetricsLevel, Phases, ProbeResult, Target
from otel_url_monitor.results import Results, TargetState

_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)

_NEXT_ATTRIBUTE = re.compile(r", (?=[A-Za-z0-9.]+ = )")
_DNS_NAME = re.compile(r"DNS:([^,]+)")

_PHASES = tuple(Phases.__dataclass_fields__)

_MAX_LABEL = 256
"""Characters of a certificate's names that may become a label value: they are the target's to choose."""

Labels = tuple[tuple[str, str], ...]
Value = tuple[float, Labels]
"""A value and the labels it carries beside the target's identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One instrument.

    Attributes:
        name: the OpenTelemetry name.
        exposed: the Prometheus name that the reader makes of it.
        kind: gauge, counter or histogram.
        unit: UCUM; empty where the name must not get a suffix.
        labels: labels beside the identity (per-target instruments) or at all (self-metrics).
        level: from which `metrics.level` on; `None` for self-metrics, which are always there.
        values: what a target's state says; `None` for self-metrics and histograms.
    """

    name: str
    exposed: str
    kind: str
    description: str
    unit: str = ""
    labels: tuple[str, ...] = ()
    level: MetricsLevel | None = None
    values: Callable[[TargetState], Iterable[Value]] | None = field(default=None, repr=False)


class SelfReport(Protocol):
    """What the service knows of itself; every method is quick and called from any thread."""

    def workers(self) -> Sequence["WorkerReport"]:
        """The prober processes, worker 0 first."""

    def render_seconds(self) -> float | None:
        """How long the last exposition took to render, `None` before the first."""

    def push_failures(self) -> int:
        """Requests to push metrics that failed."""

    def headroom(self) -> int:
        """Attribute sets the fullest instrument can still take."""

    def config_loaded_at(self) -> float:
        """Unix seconds at which the running configuration was loaded."""

    def shard(self) -> tuple[int, int]:
        """Which shard this is, from 0, and of how many."""

    def config_is_current(self) -> bool:
        """Whether the last attempt to load the configuration succeeded."""


class WorkerReport(Protocol):
    """What is known of one prober process."""

    restarts: int
    cpu_seconds: float
    resident_bytes: int
    in_flight: int
    export_failures: int
    lost_spans: int


def _of_hop(value: Callable[[Hop], float | None]) -> Callable[[TargetState], Iterator[Value]]:
    """A gauge over the last hop of a known result; `None` leaves the series out."""
    return _of_result(lambda result: value(result.hops[-1]) if result.hops else None)


def _of_first_hop(value: Callable[[Hop], float | None]) -> Callable[[TargetState], Iterator[Value]]:
    """The same over the first hop: what is said of the configured host, not of where it redirects to."""
    return _of_result(lambda result: value(result.hops[0]) if result.hops else None)


def _of_result(value: Callable[[ProbeResult], float | None]) -> Callable[[TargetState], Iterator[Value]]:
    def values(state: TargetState) -> Iterator[Value]:
        if (result := state.known) is not None and (found := value(result)) is not None:
            yield found, ()

    return values


def _up(result: ProbeResult) -> float:
    return float(bool(result.hops) and result.hops[-1].completed and result.status == 200)


def _response_ms(result: ProbeResult) -> float | None:
    return round(result.duration * 1000, 3) if result.status else None  # libcurl counts in microseconds


def _earliest_expiry(hop: Hop) -> float | None:
    return min((certificate.not_after for certificate in hop.chain), default=None)


def _shown_chain(result: ProbeResult) -> Hop | None:
    """The last hop on which a certificate was shown."""
    return next((hop for hop in reversed(result.hops) if hop.chain), None)


def _certificate_expiry(result: ProbeResult) -> float | None:
    hop = _shown_chain(result)
    return _earliest_expiry(hop) if hop else None


def _verified_expiry(result: ProbeResult) -> float | None:
    hop = _shown_chain(result)
    return min(certificate.not_after for certificate in _issuers(hop.chain)) if hop and hop.verified else None


def _issuers(chain: Sequence[Certificate]) -> Iterator[Certificate]:
    """The leaf and, one after the other, those who issued it; a server may send certificates that did not."""
    by_subject = {certificate.subject: certificate for certificate in chain[1:]}
    certificate: Certificate | None = chain[0]
    while certificate is not None:
        yield certificate
        certificate = by_subject.pop(certificate.issuer, None)


def _chain_info(state: TargetState) -> Iterator[Value]:
    hop = _shown_chain(state.known) if state.known else None
    if hop is not None:
        yield 1.0, _certificate_labels(hop.chain[0])


def _certificate_labels(leaf: Certificate) -> Labels:
    return (
        ("fingerprint_sha256", leaf.sha256),
        ("issuer", _distinguished_name(leaf.issuer)[:_MAX_LABEL]),
        ("serialnumber", leaf.serial[:_MAX_LABEL]),
        ("subject", _distinguished_name(leaf.subject)[:_MAX_LABEL]),
        ("subjectalternative", ",".join(_DNS_NAME.findall(leaf.names))[:_MAX_LABEL]),
    )


def _distinguished_name(printed: str) -> str:
    """OpenSSL's `C = US, CN = a` as blackbox_exporter has it, `CN=a,C=US` (RFC 2253)."""
    return ",".join(part.replace(" = ", "=", 1) for part in reversed(_NEXT_ATTRIBUTE.split(printed)))


def _content_length(hop: Hop) -> float:
    return float(hop.content_length) if hop.status else 0.0


def _dns_lookup(result: ProbeResult) -> float:
    return (result.hops[0].phases.resolve or 0.0) if result.hops else 0.0


def _ip_protocol(hop: Hop) -> float:
    return float(ipaddress.ip_address(hop.address).version) if hop.address else 0.0


def _ip_hash(hop: Hop) -> float:
    """FNV-1a, 32 bit, over the address's bytes, as blackbox_exporter computes it."""
    value = 0x811C9DC5
    for byte in ipaddress.ip_address(hop.address).packed if hop.address else b"":
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return float(value) if hop.address else 0.0


def _phase_durations(state: TargetState) -> Iterator[Value]:
    if (result := state.known) is None:
        return
    for name, labels in _PHASE_LABELS:
        spent = [seconds for hop in result.hops if (seconds := getattr(hop.phases, name)) is not None]
        if spent:
            yield sum(spent), labels


_PHASE_LABELS = tuple((name, (("phase", name),)) for name in _PHASES)


def _results_total(state: TargetState) -> Iterator[Value]:
    for outcome, count in state.results.items():
        yield count, (("result", outcome.value),)


def _failures_total(state: TargetState) -> Iterator[Value]:
    for reason, count in state.failures.items():
        yield count, (("class", reason.failure_class.value), ("reason", reason.value))


def _skipped_total(state: TargetState) -> Iterator[Value]:
    for reason, count in state.skipped.items():
        yield count, (("reason", reason.value),)


def _failure_info(state: TargetState) -> Iterator[Value]:
    if (result := state.known) is not None and result.failure is not None:
        yield 1.0, (("reason", result.failure.value),)


def _check_success(state: TargetState) -> Iterator[Value]:
    if (result := state.known) is not None:
        for check, passed in result.checks:
            yield float(passed), (("check", check),)


def _last_run(state: TargetState) -> Iterator[Value]:
    if state.latest is not None:
        yield state.latest.started_at + state.latest.duration, ()


def _timeout(state: TargetState) -> Iterator[Value]:
    if state.known is not None:
        yield state.target.timeout, ()


def _tls_version(state: TargetState) -> Iterator[Value]:
    if (result := state.known) and result.hops and (version := result.hops[-1].tls_version):
        # blackbox_exporter writes it as Go does: "TLS 1.3".
        yield 1.0, (("version", version.replace("TLSv", "TLS ")),)


def _tls_cipher(state: TargetState) -> Iterator[Value]:
    if (result := state.known) and result.hops and (cipher := result.hops[-1].tls_cipher):
        yield 1.0, (("cipher", cipher[:_MAX_LABEL]),)


_M, _S, _F = MetricsLevel.MINIMAL, MetricsLevel.STANDARD, MetricsLevel.FULL


def _gauge(
    name: str,
    level: MetricsLevel,
    description: str,
    values: Callable[[TargetState], Iterable[Value]],
    unit: str = "",
    labels: tuple[str, ...] = (),
    exposed: str = "",
) -> Row:
    return Row(
        name=name,
        exposed=exposed or name,
        kind="gauge",
        level=level,
        description=description,
        values=values,
        unit=unit,
        labels=labels,
    )


def _counter(
    name: str,
    level: MetricsLevel,
    description: str,
    values: Callable[[TargetState], Iterable[Value]],
    labels: tuple[str, ...],
) -> Row:
    exposed = name.replace(".", "_") + "_total"
    return Row(
        name=name, exposed=exposed, kind="counter", level=level, description=description, values=values, labels=labels
    )


_DURATION = "probe_http_duration"

TARGET_ROWS: tuple[Row, ...] = (
    _gauge("sample_external_url_up", _M, "tracks http status code 200, 1 for true, 0 for false", _of_result(_up)),
    _gauge("sample_external_url_response_ms", _M, "tracks response http time", _of_result(_response_ms)),
    _gauge(
        "probe_success",
        _M,
        "Displays whether or not the probe was a success",
        _of_result(lambda result: float(result.failure is None)),
    ),
    _gauge(
        "probe_duration",
        _M,
        "Returns how long the probe took to complete in seconds",
        _of_result(lambda result: result.duration),
        "s",
        exposed="probe_duration_seconds",
    ),
    _gauge("probe_http_status_code", _M, "Response HTTP status code", _of_result(lambda result: float(result.status))),
    _gauge(
        "probe_ssl_earliest_cert_expiry",
        _M,
        "Returns earliest SSL cert expiry in unixtime, also when the certificate was not accepted",
        _of_result(_certificate_expiry),
    ),
    _counter(
        "url_monitor.probe_results",
        _M,
        "Probes made, by outcome",
        _results_total,
        ("result",),
    ),
    _gauge(
        "url_monitor.probe_last_run_timestamp",
        _M,
        "When the latest probe ended, whatever its outcome",
        _last_run,
        "s",
        exposed="url_monitor_probe_last_run_timestamp_seconds",
    ),
    _gauge(
        _DURATION,
        _S,
        "Duration of http request by phase, summed over all redirects",
        _phase_durations,
        "s",
        ("phase",),
        exposed="probe_http_duration_seconds",
    ),
    _gauge(
        "probe_http_redirects",
        _S,
        "The number of redirects followed",
        _of_result(lambda result: float(max(0, len(result.hops) - 1))),
    ),
    _gauge(
        "probe_http_version",
        _S,
        "Returns the version of HTTP of the probe response",
        _of_hop(lambda hop: hop.http_version),
    ),
    _gauge(
        "probe_http_ssl",
        _S,
        "Indicates if SSL was used for the final redirect",
        _of_hop(lambda hop: float(hop.is_tls and bool(hop.status))),
    ),
    _gauge("probe_http_content_length", _S, "Length of http content response", _of_hop(_content_length)),
    _gauge(
        "probe_http_uncompressed_body_length",
        _S,
        "Length of uncompressed response body",
        _of_hop(lambda hop: float(hop.body_bytes)),
    ),
    _gauge("probe_failed_due_to_regex", _S, "Indicates if probe failed due to regex", _of_result(lambda _result: 0.0)),
    _counter(
        "url_monitor.probe_failures",
        _S,
        "Probes that failed, by reason",
        _failures_total,
        ("class", "reason"),
    ),
    _gauge(
        "url_monitor.probe_failure_info",
        _S,
        "Why the target is failing now; absent while it is not",
        _failure_info,
        labels=("reason",),
        exposed="url_monitor_probe_failure_info",
    ),
    _counter(
        "url_monitor.probe_skipped",
        _S,
        "Probes that were due and not made, or cut off at the end",
        _skipped_total,
        ("reason",),
    ),
    _gauge(
        "url_monitor.check_success",
        _S,
        "Whether a configured check passed",
        _check_success,
        labels=("check",),
        exposed="url_monitor_check_success",
    ),
    _gauge(
        "probe_dns_lookup_time",
        _F,
        "Returns the time taken for probe dns lookup in seconds",
        _of_result(_dns_lookup),
        "s",
        exposed="probe_dns_lookup_time_seconds",
    ),
    _gauge("probe_ip_protocol", _F, "Specifies whether probe ip protocol is IP4 or IP6", _of_first_hop(_ip_protocol)),
    _gauge(
        "probe_ip_addr_hash",
        _F,
        "Specifies the hash of IP address. It's useful to detect if the IP address changes.",
        _of_first_hop(_ip_hash),
    ),
    _gauge("probe_tls_version_info", _F, "Returns the TLS version used", _tls_version, labels=("version",)),
    _gauge(
        "probe_tls_cipher_info",
        _F,
        "Returns the TLS cipher negotiated during handshake",
        _tls_cipher,
        labels=("cipher",),
    ),
    _gauge(
        "probe_ssl_last_chain_expiry_timestamp",
        _F,
        "Returns last SSL chain expiry in timestamp",
        _of_result(_verified_expiry),
        "s",
        exposed="probe_ssl_last_chain_expiry_timestamp_seconds",
    ),
    _gauge(
        "probe_ssl_last_chain_info",
        _F,
        "Contains SSL leaf certificate information",
        _chain_info,
        labels=("fingerprint_sha256", "issuer", "serialnumber", "subject", "subjectalternative"),
    ),
    _gauge(
        "probe_http_last_modified_timestamp",
        _F,
        "Returns the Last-Modified HTTP response header in unixtime",
        _of_hop(lambda hop: hop.last_modified),
        "s",
        exposed="probe_http_last_modified_timestamp_seconds",
    ),
    _gauge(
        "probe_timeout",
        _F,
        "Returns the timeout of the probe in seconds",
        _timeout,
        "s",
        exposed="probe_timeout_seconds",
    ),
)

LATENCY = Row(
    name="url_monitor.probe_latency",
    exposed="url_monitor_probe_latency_seconds",
    kind="histogram",
    unit="s",
    level=_F,
    description="How long complete exchanges took, redirects included",
)


def _self(
    name: str, exposed: str, description: str, unit: str = "", *, kind: str = "gauge", labels: tuple[str, ...] = ()
) -> Row:
    return Row(name=name, exposed=exposed, kind=kind, description=description, unit=unit, labels=labels)


TARGETS = _self("url_monitor.targets", "url_monitor_targets", "Targets configured")
IN_FLIGHT = _self("url_monitor.probes_in_flight", "url_monitor_probes_in_flight", "Probes being made now")
LAG = _self(
    "url_monitor.schedule_lag",
    "url_monitor_schedule_lag_seconds",
    "How long after its due time a probe started",
    "s",
    kind="histogram",
)
RENDER = _self(
    "url_monitor.scrape_render", "url_monitor_scrape_render_seconds", "How long the exposition before this took", "s"
)
HEADROOM = _self(
    "url_monitor.attribute_sets_headroom",
    "url_monitor_attribute_sets_headroom",
    "Attribute sets that the fullest instrument can still take before series would be lost",
)
RELOADED = _self(
    "url_monitor.config_last_reload_successful",
    "url_monitor_config_last_reload_successful",
    "Whether the last attempt to load the configuration succeeded",
)
RELOADED_AT = _self(
    "url_monitor.config_last_reload_success_timestamp",
    "url_monitor_config_last_reload_success_timestamp_seconds",
    "When the running configuration was loaded",
    "s",
)
SHARD_ORDINAL = _self(
    "url_monitor.shard_ordinal", "url_monitor_shard_ordinal", "Which shard this is, from 0; 0 without shards"
)
SHARDS = _self("url_monitor.shards", "url_monitor_shards", "How many shards there are; 1 without shards")
RESTARTS = _self(
    "url_monitor.worker_restarts",
    "url_monitor_worker_restarts_total",
    "Prober processes started again after they ended",
    kind="counter",
)
EXPORT_FAILURES = _self(
    "url_monitor.otlp_export_failures",
    "url_monitor_otlp_export_failures_total",
    "Requests to the OTLP endpoint that were not answered by success, repetitions included",
    kind="counter",
)
LOST_SPANS = _self(
    "url_monitor.otlp_lost_spans",
    "url_monitor_otlp_lost_spans_total",
    "Spans of kept traces that could not be sent",
    kind="counter",
)
WORKER_CPU = _self(
    "url_monitor.worker_cpu",
    "url_monitor_worker_cpu_seconds_total",
    "CPU used by a prober process",
    "s",
    kind="counter",
    labels=("worker",),
)
WORKER_MEMORY = _self(
    "url_monitor.worker_resident_memory",
    "url_monitor_worker_resident_memory_bytes",
    "Resident memory of a prober process",
    "By",
    labels=("worker",),
)
BUILD = _self(
    "url_monitor.build_info",
    "url_monitor_build_info",
    "The version that is running",
    labels=("version", "python_version"),
)

SELF_ROWS: tuple[Row, ...] = (
    TARGETS,
    IN_FLIGHT,
    LAG,
    RENDER,
    HEADROOM,
    RELOADED,
    RELOADED_AT,
    SHARD_ORDINAL,
    SHARDS,
    RESTARTS,
    EXPORT_FAILURES,
    LOST_SPANS,
    WORKER_CPU,
    WORKER_MEMORY,
    BUILD,
)

ROWS: tuple[Row, ...] = (*TARGET_ROWS, LATENCY, *SELF_ROWS)
"""The whole catalogue, in the order of the exposition."""

_BY_NAME = {row.name: row for row in ROWS}


class Instruments:
    """All instruments on one meter. Thread-safe; the callbacks only read a snapshot.

    Args:
        meter: where they are made.
        results: what the per-target rows read.
        level: which rows say something.
        service: what the self-metrics read.
    """

    def __init__(self, meter: Meter, results: Results, level: MetricsLevel, service: SelfReport) -> None:
        self._results = results
        self._level = level
        self._service = service
        self._snapshot: tuple[TargetState, ...] = ()
        self._attributes: dict[str, dict[Labels, Mapping[str, str]]] = {}
        # First of all: the SDK calls back in the order of creation, so this one's look at the results is
        # what the whole collection shows, and no scrape mixes two probes of a target.
        self._observe(meter, TARGETS, self._observe_targets)
        for row in TARGET_ROWS:
            if row.level is not None and row.values is not None:
                self._observe(meter, row, self._target_callback(row.level, row.values))
        self._latency = _histogram(meter, LATENCY, _LATENCY_BUCKETS)
        self._lag = _histogram(meter, LAG, _LAG_BUCKETS)
        self._observe_service(meter)

    def record(self, state: TargetState, result: ProbeResult, lag: float) -> None:
        """Add a finished probe to the histograms; the gauges and counters follow from the results."""
        self._lag.record(lag)
        if self._level.includes(_F) and result.hops and result.hops[-1].completed:
            context = _exemplar_context(result)
            self._latency.record(result.duration, self._attributes_of(state, ()), context=context)

    def follow(self, level: MetricsLevel) -> Callable[[str, Mapping[str, str]], bool]:
        """Say from now on what belongs to that level.

        Returns:
            By an instrument's name and an attribute set, whether that must go on: the counters and histograms of the
            targets that there are now. A gauge has no past.
        """
        self._level = level
        self._attributes = {}
        identities = {frozenset(_identity(state.target).items()) for state in self._results.snapshot()}

        def is_current(name: str, attributes: Mapping[str, str]) -> bool:
            row = _BY_NAME[name]
            if row.level is None:
                return True
            if row.kind == "gauge" or (row is LATENCY and not level.includes(_F)):
                return False
            return frozenset(item for item in attributes.items() if item[0] not in row.labels) in identities

        return is_current

    def _observe(self, meter: Meter, row: Row, callback: Callable[[CallbackOptions], Iterable[Observation]]) -> None:
        create = meter.create_observable_counter if row.kind == "counter" else meter.create_observable_gauge
        create(row.name, callbacks=[callback], unit=row.unit, description=row.description)

    def _observe_targets(self, _options: CallbackOptions) -> Iterator[Observation]:
        self._snapshot = self._results.snapshot()
        yield Observation(len(self._snapshot))

    def _target_callback(
        self, level: MetricsLevel, values: Callable[[TargetState], Iterable[Value]]
    ) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def observe(_options: CallbackOptions) -> Iterator[Observation]:
            for state in self._snapshot if self._level.includes(level) else ():
                for value, labels in values(state):
                    yield Observation(value, self._attributes_of(state, labels))

        return observe

    def _attributes_of(self, state: TargetState, labels: Labels) -> Mapping[str, str]:
        """The same mapping each time, so that neither we nor the reader render labels twice."""
        kept = self._attributes.setdefault(state.target.id, {})
        attributes = kept.get(labels)
        if attributes is None:
            attributes = kept[labels] = {**_identity(state.target), **dict(labels)}
        return attributes

    def _observe_service(self, meter: Meter) -> None:
        service = self._service
        plain: tuple[tuple[Row, Callable[[], float | None]], ...] = (
            (IN_FLIGHT, lambda: sum(worker.in_flight for worker in service.workers())),
            (RENDER, service.render_seconds),
            (HEADROOM, service.headroom),
            (RELOADED, service.config_is_current),
            (RELOADED_AT, service.config_loaded_at),
            (SHARD_ORDINAL, lambda: service.shard()[0]),
            (SHARDS, lambda: service.shard()[1]),
            (RESTARTS, lambda: sum(worker.restarts for worker in service.workers())),
            (EXPORT_FAILURES, lambda: _export_failures(service)),
            (LOST_SPANS, lambda: sum(worker.lost_spans for worker in service.workers())),
        )
        for row, value in plain:
            self._observe(meter, row, _plain_callback(value))
        self._observe(meter, WORKER_CPU, _worker_callback(service, lambda worker: worker.cpu_seconds))
        self._observe(meter, WORKER_MEMORY, _worker_callback(service, lambda worker: worker.resident_bytes))
        build = {"version": __version__, "python_version": platform.python_version()}
        self._observe(meter, BUILD, lambda _options: [Observation(1, build)])


def _identity(target: Target) -> dict[str, str]:
    return {"url": target.display_url, **dict(target.labels)}


def _histogram(meter: Meter, row: Row, buckets: Sequence[float]) -> Histogram:
    return meter.create_histogram(
        row.name, unit=row.unit, description=row.description, explicit_bucket_boundaries_advisory=buckets
    )


def _plain_callback(value: Callable[[], float | None]) -> Callable[[CallbackOptions], Iterator[Observation]]:
    def observe(_options: CallbackOptions) -> Iterator[Observation]:
        if (found := value()) is not None:
            yield Observation(float(found))

    return observe


def _worker_callback(
    service: SelfReport, value: Callable[[WorkerReport], float]
) -> Callable[[CallbackOptions], Iterator[Observation]]:
    def observe(_options: CallbackOptions) -> Iterator[Observation]:
        for number, worker in enumerate(service.workers()):
            yield Observation(value(worker), {"worker": str(number)})

    return observe


def _export_failures(service: SelfReport) -> int:
    return service.push_failures() + sum(worker.export_failures for worker in service.workers())


def _exemplar_context(result: ProbeResult) -> Context | None:
    """A context in which the SDK finds the result's trace, so that it becomes the exemplar."""
    if result.trace_id is None or result.span_id is None:
        return None
    span_context = trace.SpanContext(
        trace_id=int(result.trace_id, 16),
        span_id=int(result.span_id, 16),
        is_remote=False,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(span_context), Context())
