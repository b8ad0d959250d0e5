"""The peer of the exposition: the stock OpenTelemetry Prometheus reader, over the service's own instruments.

As a program it serves /metrics as the reader's documentation shows, by prometheus_client's own HTTP server:
`python -m bench.stock PORT TARGETS`.
"""

import random
import signal
import sys
import time
from collections.abc import Sequence

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import Histogram, MeterProvider, ObservableCounter, ObservableGauge
from prometheus_client import CollectorRegistry, start_http_server

from otel_url_monitor.instruments import Instruments, WorkerReport
from otel_url_monitor.model import Hop, MetricsLevel, Phases, ProbeResult, Target
from otel_url_monitor.results import Results


class Service:
    """The self-metrics of a service that does nothing."""

    def workers(self) -> Sequence[WorkerReport]:
        """No prober processes."""
        return ()

    def render_seconds(self) -> float | None:
        """A plausible time."""
        return 0.1

    def push_failures(self) -> int:
        """None."""
        return 0

    def headroom(self) -> int:
        """A plausible number."""
        return 1_000_000

    def config_loaded_at(self) -> float:
        """A plausible time."""
        return 1.7e9

    def shard(self) -> tuple[int, int]:
        """The only one."""
        return 0, 1

    def config_is_current(self) -> bool:
        """It is."""
        return True


def make_targets(count: int) -> list[Target]:
    """Targets like those of the benchmark's nginx."""
    urls = (f"http://127.0.0.1:8080/?target={number}" for number in range(count))
    return [Target(url=url, display_url=url) for url in urls]


def record_round(results: Results, targets: Sequence[Target], chance: random.Random) -> None:
    """One new result per target, as a plain page on loopback gives it."""
    for target in targets:
        results.record(_result(target, chance))


def _result(target: Target, chance: random.Random) -> ProbeResult:
    # Microseconds, as libcurl has them: a float's length is part of what rendering costs.
    connect, processing, transfer = (chance.randrange(50, 5000) / 1e6 for _ in range(3))
    duration = connect + processing + transfer
    hop = Hop(
        url=target.display_url,
        status=200,
        completed=True,
        duration=duration,
        phases=Phases(connect=connect, processing=processing, transfer=transfer),
        address="127.0.0.1",
        http_version=1.1,
        content_length=3,
        body_bytes=3,
    )
    return ProbeResult(
        target_id=target.id, started_at=time.time(), duration=duration, hops=(hop,), checks=(("status", True),)
    )


def make_instruments(meter: Meter, results: Results) -> Instruments:
    """The service's instruments at the default level."""
    return Instruments(meter, results, MetricsLevel.STANDARD, Service())


def stock_registry(results: Results) -> CollectorRegistry:
    """The registry of a stock reader over the instruments."""
    registry = CollectorRegistry()
    # Two settings are not the stock's: without them 1,000 targets would overflow the SDK's 2,000 attribute
    # sets, and three more labels per series would make the peer look worse.
    reader = PrometheusMetricReader(
        scope_info_enabled=False,
        registry=registry,
        cardinality_limits={Histogram: 1_000_000, ObservableCounter: 1_000_000, ObservableGauge: 1_000_000},
    )
    provider = MeterProvider(metric_readers=[reader])
    make_instruments(provider.get_meter("bench"), results)
    return registry


def main() -> None:
    """Serve until SIGTERM."""
    port, count = (int(argument) for argument in sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    targets = make_targets(count)
    results = Results(targets)
    record_round(results, targets, random.Random(1))
    registry = stock_registry(results)
    start_http_server(port, addr="127.0.0.1", registry=registry)
    signal.pause()


if __name__ == "__main__":
    main()
