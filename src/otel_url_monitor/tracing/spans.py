"""What the spans of one probe say.

They are built from the result alone: what the instrumentation found in URLs, headers and exceptions is left behind.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode

from otel_url_monitor import __version__
from otel_url_monitor.model import FailureReason, Hop, Outcome, ProbeResult, Target, is_literal_address

_MAX_URL = 2048
"""Characters of a URL that a span carries: a target chooses where it redirects to."""

_SCHEMA_URL = "https://opentelemetry.io/schemas/1.36.0"
_PROTOCOLS = {1.0: "1.0", 1.1: "1.1", 2.0: "2", 3.0: "3"}
_TAKEN_OVER = ("http.request.method", "http.request.method_original")
_DESCRIPTIONS = {Outcome.FAILURE: "probe failed", Outcome.UNKNOWN: "the monitor could not probe"}

_Attributes = dict[str, str | int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase of a hop; times are seconds after the hop's start."""

    name: str
    begin: float
    end: float
    has_failed: bool = False


class SpanBuilder:
    """Makes the spans of a probe. Thread-safe.

    The spans are made when the probe is over and only if they are kept; the SDK's own way costs 20 us for each,
    kept or not, this one 1 us.

    Args:
        resource: who we are.
        with_phases: whether phases are spans; attributes otherwise.
    """

    def __init__(self, resource: Resource, *, with_phases: bool) -> None:
        self._resource = resource
        self._with_phases = with_phases
        self._scope = InstrumentationScope("otel_url_monitor", __version__, _SCHEMA_URL)
        self._ids = RandomIdGenerator()

    def build(
        self,
        context: SpanContext,
        times: tuple[int, int],
        target: Target,
        result: ProbeResult,
        lag: float,
        clients: Sequence[ReadableSpan],
    ) -> list[ReadableSpan]:
        """The whole trace, root first.

        Args:
            context: of the root.
            times: start and end of the probe, Unix nanoseconds.
            target: what was probed.
            result: what was found.
            lag: seconds between the due time and the start.
            clients: the instrumentation's span of each hop.
        """
        spans = [self._root(context, times, target, result, lag)]
        for number, (client, hop) in enumerate(zip(clients, result.hops, strict=True)):
            is_last = number == len(result.hops) - 1
            phases = phases_of(hop)
            failure = result.failure if is_last else None
            spans.append(self._client(client, hop, number, failure, phases, times[1]))
            if self._with_phases:
                spans += self._phase_spans(client, hop, phases, failure)
        return spans

    def _root(
        self, context: SpanContext, times: tuple[int, int], target: Target, result: ProbeResult, lag: float
    ) -> ReadableSpan:
        attributes = _server_attributes(target.display_url) | {
            "url_monitor.result": result.outcome.value,
            "url_monitor.schedule_lag": lag,
            "user_agent.synthetic.type": "test",
        }
        if result.status:
            attributes["http.response.status_code"] = result.status
        status = _UNSET
        if result.failure is not None:
            attributes["error.type"] = result.failure.value
            status = Status(StatusCode.ERROR, _DESCRIPTIONS[result.outcome])
        name = dict(target.labels).get("name") or attributes["server.address"]
        return ReadableSpan(
            f"probe {name}",
            context=context,
            resource=self._resource,
            attributes=attributes,
            status=status,
            start_time=times[0],
            end_time=times[1],
            instrumentation_scope=self._scope,
        )

    def _client(
        self,
        span: ReadableSpan,
        hop: Hop,
        number: int,
        failure: FailureReason | None,
        phases: Sequence[Phase],
        latest: int,
    ) -> ReadableSpan:
        made = span.attributes or {}
        attributes: _Attributes = {name: str(made[name]) for name in _TAKEN_OVER if name in made}
        attributes |= _server_attributes(hop.url) | _hop_attributes(hop, number)
        error = _error_of(hop, failure)
        if error:
            attributes["error.type"] = error
        if not self._with_phases:
            attributes |= {f"url_monitor.phase.{phase.name}": phase.end - phase.begin for phase in phases}
        return ReadableSpan(
            span.name,
            context=span.context,
            parent=span.parent,
            kind=SpanKind.CLIENT,
            resource=self._resource,
            attributes=attributes,
            status=_ERROR if error else _UNSET,
            start_time=span.start_time,
            end_time=min(latest, max(span.end_time or 0, _end(hop))),  # its clock may have been set meanwhile
            instrumentation_scope=span.instrumentation_scope,
        )

    def _phase_spans(
        self, client: ReadableSpan, hop: Hop, phases: Sequence[Phase], failure: FailureReason | None
    ) -> Iterator[ReadableSpan]:
        parent = client.context
        if parent is None:
            return
        begin = _begin(hop)
        for phase in phases:
            has_failed = phase.has_failed and failure is not None
            yield ReadableSpan(
                phase.name,
                context=SpanContext(
                    parent.trace_id, self._ids.generate_span_id(), is_remote=False, trace_flags=parent.trace_flags
                ),
                parent=parent,
                resource=self._resource,
                attributes={"error.type": failure.value} if has_failed and failure else {},
                status=_ERROR if has_failed else _UNSET,
                start_time=begin + int(phase.begin * 1e9),
                end_time=begin + int(phase.end * 1e9),
                instrumentation_scope=self._scope,
            )


_UNSET = Status(StatusCode.UNSET)
_ERROR = Status(StatusCode.ERROR)


def _begin(hop: Hop) -> int:
    """Unix nanoseconds."""
    return int(hop.started_at * 1e9)


def _end(hop: Hop) -> int:
    """Unix nanoseconds."""
    return _begin(hop) + int(hop.duration * 1e9)


def phases_of(hop: Hop) -> list[Phase]:
    """The phases of a hop in order; the one in which an exchange broke off, if any, is the last and has failed."""
    steps = _steps(hop)
    last = max((index for index, (_, seconds) in enumerate(steps) if seconds is not None), default=-1)
    phases: list[Phase] = []
    at = 0.0
    for name, seconds in steps[: last + 1]:
        if seconds is not None:
            phases.append(Phase(name=name, begin=at, end=at + seconds))
            at += seconds
    if hop.completed or not hop.duration:
        return phases
    begun = [name for name, _ in steps[last + 1 :] if _is_due(name, hop)]
    if begun:
        phases.append(Phase(name=begun[0], begin=at, end=max(at, hop.duration), has_failed=True))
    else:  # in the body, of which a part came
        phases[-1] = replace(phases[-1], has_failed=True)
    return phases


def _steps(hop: Hop) -> list[tuple[str, float | None]]:
    """Every phase that there may be, in order, with its seconds."""
    measured, sending = hop.phases, hop.sending
    if sending is not None and measured.processing is not None:
        sending = min(sending, measured.processing)  # an answer may begin before all is sent
    waited = None if measured.processing is None else measured.processing - (sending or 0.0)
    return [
        ("dns", measured.resolve),
        ("connect", measured.connect),
        ("tls", measured.tls),
        ("request", sending),
        ("wait", waited),
        ("transfer", measured.transfer),
    ]


def _is_due(name: str, hop: Hop) -> bool:
    """Whether an exchange like this one has such a phase at all."""
    return not (name == "dns" and is_literal_address(hop.url)) and not (name == "tls" and not hop.is_tls)


def _server_attributes(url: str) -> _Attributes:
    parts = urlsplit(url)
    return {
        "url.full": url[:_MAX_URL],
        "server.address": parts.hostname or "",
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
    }


def _hop_attributes(hop: Hop, number: int) -> _Attributes:
    attributes: _Attributes = {}
    if hop.address:
        attributes["network.peer.address"] = hop.address
    if hop.http_version:
        attributes["network.protocol.version"] = _PROTOCOLS[hop.http_version]
    if hop.status:
        attributes["http.response.status_code"] = hop.status
    if number:
        attributes["http.request.resend_count"] = number
    if hop.tls_version:
        attributes["tls.protocol.version"] = hop.tls_version.removeprefix("TLSv")
    return attributes


def _error_of(hop: Hop, failure: FailureReason | None) -> str:
    """The `error.type` of a hop: the status when it was not the expected one, our reason when none came in full."""
    if failure is None:
        return ""
    if failure is FailureReason.UNEXPECTED_STATUS:
        return str(hop.status)
    return "" if hop.completed else failure.value
