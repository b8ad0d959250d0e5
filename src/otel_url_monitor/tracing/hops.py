"""The hops of a probe, as opentelemetry-instrumentation-requests sees them: a span for each, and who is told of it."""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, NoOpTracer, NoOpTracerProvider, Span, SpanContext, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from requests import PreparedRequest

from otel_url_monitor.model import origin


class HopSpan(NonRecordingSpan):
    """A span of the instrumentation: what it says when it begins, and its times.

    What it says later is not kept: the result of the probe says it better. A span of the SDK costs 60 us more.

    Attributes:
        scope: of the instrumentation.
        name: as the instrumentation chose it.
        attributes: those it began with.
        start_time: Unix nanoseconds.
        end_time: Unix nanoseconds, 0 before the end.
    """

    def __init__(
        self, context: SpanContext, scope: InstrumentationScope, name: str, attributes: Mapping[str, Any]
    ) -> None:
        super().__init__(context)
        self.scope = scope
        self.name = name
        self.attributes = attributes
        self.start_time = time.time_ns()
        self.end_time = 0

    def end(self, end_time: int | None = None) -> None:
        """The hop is over."""
        self.end_time = end_time or time.time_ns()


@dataclass(slots=True)
class _Trail:
    """The hops of the probe that a thread is making.

    Attributes:
        root: context of the probe's root span.
        url: of the target, `None` when it is not to be told of the trace.
        propagates: whether the request about to be sent carries the trace's context.
        spans: one for each hop.
    """

    root: SpanContext
    url: str | None
    propagates: bool = False
    spans: list[HopSpan] = field(default_factory=list)


class HopRecorder:
    """Instruments requests, and records the hops of each thread's probe. Thread-safe; one per process."""

    def __init__(self) -> None:
        self._own = threading.local()
        os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http"  # read once, when the first instrumentation starts
        set_global_textmap(_Propagator(self._own))
        RequestsInstrumentor().instrument(
            tracer_provider=_HopTracerProvider(self._own),
            meter_provider=NoOpMeterProvider(),  # its histogram would be 17 series for each outcome
            request_hook=self._judge_request,
            excluded_urls="",
            skip_dep_check=True,
        )

    def begin(self, root: SpanContext, url: str | None) -> list[HopSpan]:
        """Record what this thread requests from now on, in a list that grows.

        Args:
            root: context of the span above the hops.
            url: requests to its origin carry the context of their span; `None`: none does.
        """
        trail = self._own.trail = _Trail(root, url)
        return trail.spans

    def end(self) -> None:
        """Record no more of this thread's."""
        self._own.trail = None

    def _judge_request(self, _span: Span, request: PreparedRequest) -> None:
        trail: _Trail | None = getattr(self._own, "trail", None)
        if trail is not None and trail.url is not None:
            trail.propagates = trail.url == request.url or origin(trail.url) == origin(request.url or "")


class _HopTracerProvider(NoOpTracerProvider):
    def __init__(self, own: threading.local) -> None:
        self._own = own

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,  # noqa: ARG002 - the instrumentation gives none
    ) -> Tracer:
        scope = InstrumentationScope(instrumenting_module_name, instrumenting_library_version, schema_url)
        return _HopTracer(self._own, scope)


class _HopTracer(NoOpTracer):
    """Leaves each span with the probe that its thread is making."""

    def __init__(self, own: threading.local, scope: InstrumentationScope) -> None:
        self._own = own
        self._scope = scope
        self._ids = RandomIdGenerator()

    def start_span(self, name: str, *_args: Any, attributes: Any = None, **_kwargs: Any) -> Span:
        trail: _Trail | None = getattr(self._own, "trail", None)
        if trail is None:
            return super().start_span(name)
        root = trail.root
        context = SpanContext(
            root.trace_id, self._ids.generate_span_id(), is_remote=False, trace_flags=root.trace_flags
        )
        span = HopSpan(context, self._scope, name, attributes or {})
        trail.spans.append(span)
        return span


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
        trail: _Trail | None = getattr(self._own, "trail", None)
        if trail is not None and trail.propagates:
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
