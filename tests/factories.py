"""Small builders: a target, a hop, a result, and the metrics half of the service around them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from otel_url_monitor.exposition import Renderer
from otel_url_monitor.instruments import Instruments
from otel_url_monitor.model import Certificate, Hop, MetricsLevel, ProbeResult, Target
from otel_url_monitor.results import Results
from otel_url_monitor.telemetry import ATTRIBUTE_SETS, Telemetry

URL = "https://example.com/"
STARTED_AT = 1_700_000_000.0
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"


def make_target(url: str = URL, name: str | None = None, **fields: Any) -> Target:
    if name is not None:
        fields["labels"] = (("name", name),)
    return Target(url=url, **{"display_url": url, **fields})


def make_targets(count: int) -> tuple[Target, ...]:
    return tuple(make_target(f"https://example.com/{number}") for number in range(count))


def make_hop(status: int = 200, **fields: Any) -> Hop:
    return Hop(**{"url": URL, "status": status, "completed": status != 0, "duration": 0.25, **fields})


def make_result(target: Target, *hops: Hop, **fields: Any) -> ProbeResult:
    defaults = {"started_at": STARTED_AT, "duration": sum(hop.duration for hop in hops)}
    if "trace_id" in fields:
        defaults["span_id"] = SPAN_ID
    return ProbeResult(target_id=target.id, hops=hops, **{**defaults, **fields})


def make_certificate(not_after: float, **fields: Any) -> Certificate:
    defaults = {
        "subject": "CN=example.com",
        "issuer": "CN=Example CA",
        "serial": "0a",
        "not_before": 1_600_000_000.0,
        "sha256": "ab" * 32,
        "names": "DNS:example.com",
    }
    return Certificate(**{**defaults, "not_after": not_after, **fields})


@dataclass
class Worker:
    restarts: int = 0
    cpu_seconds: float = 0.0
    resident_bytes: int = 0
    in_flight: int = 0
    export_failures: int = 0
    lost_spans: int = 0


class Service:
    """A service that knows of itself what a test tells it."""

    def __init__(self, telemetry: Telemetry, *workers: Worker) -> None:
        self._telemetry = telemetry
        self._workers = workers

    def workers(self) -> Sequence[Worker]:
        return self._workers

    def render_seconds(self) -> float | None:
        return 0.5

    def push_failures(self) -> int:
        return 0

    def headroom(self) -> int:
        return ATTRIBUTE_SETS - self._telemetry.attribute_sets()

    def config_loaded_at(self) -> float:
        return STARTED_AT

    def shard(self) -> tuple[int, int]:
        return 0, 1

    def config_is_current(self) -> bool:
        return True


class Metrics:
    """Results, instruments and renderer, wired as the service wires them."""

    def __init__(
        self,
        targets: Sequence[Target],
        level: MetricsLevel = MetricsLevel.STANDARD,
        workers: Sequence[Worker] = (),
        results: Results | None = None,
    ) -> None:
        self.results = results or Results(targets)
        self.telemetry = Telemetry()
        self.service = Service(self.telemetry, *workers)
        self.instruments = Instruments(self.telemetry.meter(), self.results, level, self.service)
        self.renderer = Renderer(self.telemetry.reader)

    def probed(self, *results: ProbeResult, lag: float = 0.0) -> "Metrics":
        for result in results:
            state = self.results.record(result)
            if state is not None:
                self.instruments.record(state, result, lag)
        return self

    def at(self, level: MetricsLevel) -> "Metrics":
        self.telemetry.forget(self.instruments.follow(level))
        return self

    def text(self) -> str:
        return self.renderer.render(openmetrics=False).decode()

    def openmetrics(self) -> str:
        return self.renderer.render(openmetrics=True).decode()

    def lines(self, *names: str) -> list[str]:
        """The sample lines of these metrics, as the text format has them."""
        return [line for line in self.text().split("\n") if line.partition("{")[0].partition(" ")[0] in names]


def sample_names(exposition: str) -> set[str]:
    """The names of all series."""
    lines = (line for line in exposition.split("\n") if line and not line.startswith("#"))
    return {line.partition("{")[0].partition(" ")[0] for line in lines}
