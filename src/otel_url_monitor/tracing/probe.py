"""Probes with a trace: a root for each, a span for each hop, and the choice of what is kept."""

import time
from collections.abc import Collection
from dataclasses import replace

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanContext, TraceFlags

from otel_url_monitor.model import Outcome, Probe, ProbeResult, Target, TracePolicy
from otel_url_monitor.tracing.hops import HopRecorder
from otel_url_monitor.tracing.sender import SpanSender
from otel_url_monitor.tracing.spans import Trace, phases_of

_RATIO_BITS = 56  # what W3C Trace Context Level 2 promises to be random


class TracedProbe:
    """Makes probes as another does, each with a trace. Thread-safe; one per process, because it instruments requests.

    Args:
        probe: makes the probe.
        sender: takes the traces that are kept.
        propagates: whether targets may be told of a trace at all.
    """

    def __init__(self, probe: Probe, sender: SpanSender, *, propagates: bool) -> None:
        self._probe = probe
        self.sender = sender
        self._policy = TracePolicy()
        self._propagates = propagates
        self._ids = RandomIdGenerator()
        self._outcomes: dict[str, Outcome] = {}
        self._recorder = HopRecorder()

    def __call__(self, target: Target, lag: float) -> ProbeResult:
        """Probe once, in a trace of its own."""
        flags = TraceFlags(TraceFlags.SAMPLED)  # what becomes of it is known at the end only
        root = SpanContext(
            self._ids.generate_trace_id(), self._ids.generate_span_id(), is_remote=False, trace_flags=flags
        )
        hops = self._recorder.begin(root, target.url if self._tells(target) else None)
        begin, started = time.time_ns(), time.perf_counter_ns()
        try:
            result = self._probe(target, lag)
        finally:
            self._recorder.end()
        if not self._keeps(root.trace_id, result):
            return result
        trace = Trace(
            context=root,
            times=(begin, begin + time.perf_counter_ns() - started),
            target=target,
            result=result,
            lag=lag,
            clients=hops,
            phases=[phases_of(hop) for hop in result.hops],
            phases_are_spans=self._policy.phases,
        )
        if not self.sender.put(trace):
            return result
        return replace(result, trace_id=f"{root.trace_id:032x}", span_id=f"{root.span_id:016x}")

    def follow(self, target_ids: Collection[str], policy: TracePolicy) -> None:
        """Probe by this policy from now on, and forget the last outcome of all other targets."""
        self._policy = policy
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
