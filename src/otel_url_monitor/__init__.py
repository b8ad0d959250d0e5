"""Black-box URL monitor: probes on background loops, OpenTelemetry instruments, Prometheus exposition."""

__version__ = "0.1.0"
