"""Probes with a trace: a root for each, the instrumentation's span for each hop, and the choice of what is kept."""

import os
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from opentelemetry import context as context_api
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.propagate import set_global_textmap
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from requests import PreparedRequest

from otel_url_monitor.model import Outcome, Probe, ProbeResult, Target, TracePolicy, origin
from otel_url_monitor.tracing.sender import SpanSender
from otel_url_monitor.tracing.spans import SpanBuilder

_RATIO_BITS = 56  # what W3C Trace Context Level 2 promises to be random


@dataclass(slots=True)
class _Current:
    """The probe that a thread is making.

    Attributes:
        origin: of the target's URL, `None` when it is not to be told of the trace.
        propagates: whether the request about to be sent carries the trace's context.
        clients: the finished spans of its hops, as the instrumentation made them.
    """

    origin: tuple[str, str | None, int] | None
    propagates: bool = False
    clients: list[ReadableSpan] = field(default_factory=list)


class TracedProbe:
    """Makes probes as another does, each with a trace. Thread-safe; one per process, because it instruments requests.

    Args:
        probe: makes the probe.
        sender: takes the traces that are kept.
        resource: attributes of the service, the same in all of its processes.
        propagates: whether targets may be told of a trace at all.
    """

    def __init__(self, probe: Probe, sender: SpanSender, resource: Mapping[str, Any], *, propagates: bool) -> None:
        self._probe = probe
        self.sender = sender
        self._policy = TracePolicy()
        self._resource = Resource(resource)
        self._propagates = propagates
        self._builder = SpanBuilder(self._resource, with_phases=self._policy.phases)
        self._ids = RandomIdGenerator()
        self._outcomes: dict[str, Outcome] = {}
        self._own = threading.local()
        self._instrument()

    def __call__(self, target: Target, lag: float) -> ProbeResult:
        """Probe once, in a trace of its own."""
        flags = TraceFlags(TraceFlags.SAMPLED)  # what becomes of it is known at the end only
        root = SpanContext(
            self._ids.generate_trace_id(), self._ids.generate_span_id(), is_remote=False, trace_flags=flags
        )
        current = self._own.current = _Current(origin(target.url) if self._tells(target) else None)
        token = context_api.attach(set_span_in_context(NonRecordingSpan(root), context_api.Context()))
        begin, started = time.time_ns(), time.perf_counter_ns()
        try:
            result = self._probe(target, lag)
        finally:
            context_api.detach(token)
            self._own.current = None
        if not self._keeps(root.trace_id, result):
            return result
        times = begin, begin + time.perf_counter_ns() - started
        if not self.sender.put(self._builder.build(root, times, target, result, lag, current.clients)):
            return result
        return replace(result, trace_id=f"{root.trace_id:032x}", span_id=f"{root.span_id:016x}")

    def follow(self, target_ids: Collection[str], policy: TracePolicy) -> None:
        """Probe by this policy from now on, and forget the last outcome of all other targets."""
        self._policy = policy
        self._builder = SpanBuilder(self._resource, with_phases=policy.phases)
        for known in self._outcomes.keys() - target_ids:
            self._outcomes.pop(known, None)

    def _tells(self, target: Target) -> bool:
        has_own = any(name.lower() == "traceparent" for name, _ in target.request.headers)
        return self._propagates and target.propagate and not has_own

    def _keeps(self, trace_id: int, result: ProbeResult) -> bool:
        before, self._outcomes[result.target_id] = self._outcomes.get(result.target_id), result.outcome
        return (
            result.failure is not None
            or before not in (None, result.outcome)
            or result.duration > self._policy.keep_slower_than
            or trace_id & ((1 << _RATIO_BITS) - 1) < self._policy.success_ratio * (1 << _RATIO_BITS)
        )

    def _instrument(self) -> None:
        os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http"  # read once, when the first instrumentation starts
        unlimited = SpanLimits(  # what is made here is not exported; without this the environment would be asked
            max_attributes=SpanLimits.UNSET,
            max_events=SpanLimits.UNSET,
            max_links=SpanLimits.UNSET,
            max_span_attributes=SpanLimits.UNSET,
            max_event_attributes=SpanLimits.UNSET,
            max_link_attributes=SpanLimits.UNSET,
            max_attribute_length=SpanLimits.UNSET,
            max_span_attribute_length=SpanLimits.UNSET,
        )
        provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource({}), span_limits=unlimited, shutdown_on_exit=False
        )
        provider.add_span_processor(_Collector(self._own))
        set_global_textmap(_Propagator(self._own))
        RequestsInstrumentor().instrument(
            tracer_provider=provider,
            meter_provider=NoOpMeterProvider(),  # its histogram would be 17 series for each outcome
            request_hook=self._judge_request,
            excluded_urls="",
            skip_dep_check=True,
        )

    def _judge_request(self, _span: Span, request: PreparedRequest) -> None:
        current: _Current | None = getattr(self._own, "current", None)
        if current is not None:
            current.propagates = current.origin is not None and current.origin == origin(request.url or "")


class _Collector(SpanProcessor):
    """Leaves each finished span with the probe that its thread is making."""

    def __init__(self, own: threading.local) -> None:
        self._own = own

    def on_end(self, span: ReadableSpan) -> None:
        """Called in the thread that made the request."""
        current: _Current | None = getattr(self._own, "current", None)
        if current is not None:
            current.clients.append(span)


class _Propagator(TextMapPropagator):
    """W3C trace context, for those who are to know."""

    def __init__(self, own: threading.local) -> None:
        self._own = own
        self._inner = TraceContextTextMapPropagator()

    def inject(
        self,
        carrier: CarrierT,
        context: context_api.Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        """Add the current span's context if the request may carry it."""
        current: _Current | None = getattr(self._own, "current", None)
        if current is not None and current.propagates:
            self._inner.inject(carrier, context, setter)

    def extract(
        self,
        carrier: CarrierT,  # noqa: ARG002 - nobody asks us for spans
        context: context_api.Context | None = None,
        getter: Getter[CarrierT] = default_getter,  # noqa: ARG002
    ) -> context_api.Context:
        """The context as it is."""
        return context or context_api.Context()

    @property
    def fields(self) -> set[str]:
        """Header names that may be set."""
        return self._inner.fields
