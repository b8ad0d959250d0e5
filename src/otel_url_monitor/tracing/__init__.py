"""A trace for every probe: spans made, judged, corrected and sent, in the prober process."""

from otel_url_monitor.tracing.probe import TracedProbe
from otel_url_monitor.tracing.sender import SpanSender

__all__ = ["SpanSender", "TracedProbe"]
