"""What the main process and a prober process say to each other, pickled, over one pipe."""

from dataclasses import dataclass

from otel_url_monitor.model import Target
from otel_url_monitor.scheduler import Probed, Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Main to prober: the complete set of targets to probe from now on."""

    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Main to prober, once, first.

    Attributes:
        tls_facts: whether the TLS version and cipher are recorded.
        log_level: of the standard library's logging.
    """

    tls_facts: bool
    log_level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Prober to main, several times a second: what happened since the last one, and a sign of life.

    Attributes:
        in_flight: probes being made.
        cpu_seconds: CPU used by the process so far.
        resident_bytes: memory of the process.
    """

    events: tuple[Probed | Skipped, ...]
    in_flight: int
    cpu_seconds: float
    resident_bytes: int
