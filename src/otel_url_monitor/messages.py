"""What the main process and a prober process say to each other, pickled, over one pipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from otel_url_monitor.model import Target, TracePolicy
from otel_url_monitor.scheduler import Probed, Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Main to prober: what to probe from now on, and how.

    Attributes:
        targets: all of them.
        tls_facts: whether the TLS version and cipher are recorded.
        tracing: what a trace shows, and which are kept, where the environment names an endpoint.
    """

    targets: tuple[Target, ...]
    tls_facts: bool = False
    tracing: TracePolicy = field(default_factory=TracePolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Main to prober, once, first.

    Attributes:
        log_level: of the standard library's logging.
        resource: attributes of the service, the same in all of its processes.
    """

    log_level: int
    resource: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Prober to main, several times a second: what happened since the last one, and a sign of life.

    Attributes:
        in_flight: probes being made.
        cpu_seconds: CPU used by the process so far.
        resident_bytes: memory of the process.
        export_failures: requests to send spans that failed so far.
        lost_spans: spans that were kept and could not be sent, so far.
    """

    events: tuple[Probed | Skipped, ...]
    in_flight: int
    cpu_seconds: float
    resident_bytes: int
    export_failures: int = 0
    lost_spans: int = 0
