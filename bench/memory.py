"""What becomes of memory when every probe is traced and the collector is away: refusing, or silent.

A service that traces nothing runs beside them, to tell what tracing does from what any service does.
"""

import socket
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.processes import BenchError, free_port, process_tree, resident_bytes
from bench.programs import Program, Site, samples, service
from bench.table import Row

_TARGETS = 200
_INTERVAL = 1.0
_READINGS = 10
# One reading per minute with the default of 30 s.
_LENGTHS = 20
# The queue is full after about 10 s; a minute more is for what fills itself more slowly.
_SETTLED = 2
_WARM_UP_SCRAPES = 3
# MB per minute. The main process comes and goes by 3 MB with each push; 84 bytes kept of every probe would be as much.
_MAX_SLOPE = 1.0
_CONTROL = "not asked for"
_LOST_SPANS = "url_monitor_otlp_lost_spans_total"
_MB = 1024 * 1024

Readings = list[dict[str, float]]
"""Megabytes of each process, and the minute."""


def memory(site: Site, seconds: float) -> tuple[list[Row], dict[str, Any]]:
    """All at the same time: they do not share memory, and it takes ten minutes."""
    urls = site.urls(_TARGETS)
    with ExitStack() as stack:
        variables = {
            "refusing": _everything_to(free_port()),
            "silent": _everything_to(stack.enter_context(_silent_port())),
            _CONTROL: {},
        }
        monitors = {
            kind: stack.enter_context(service(site, urls, _INTERVAL, asked)) for kind, asked in variables.items()
        }
        readings = _read(monitors, seconds * _LENGTHS)
    rows = [row for kind, found in readings.items() for row in _rows(kind, found)]
    return rows, readings


def _everything_to(port: int) -> dict[str, str]:
    """Metrics are pushed in vain, too."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}


@contextmanager
def _silent_port() -> Iterator[int]:
    """A loopback port where the system takes connections and nobody ever reads from them."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        yield int(listener.getsockname()[1])


def _read(monitors: dict[str, Program], seconds: float) -> dict[str, Readings]:
    readings: dict[str, Readings] = {kind: [] for kind in monitors}
    for _ in range(_WARM_UP_SCRAPES):
        for monitor in monitors.values():
            monitor.scrape()
        time.sleep(1.5)  # longer than a rendered answer is kept
    started = time.monotonic()
    for number in range(1, _READINGS + 1):
        time.sleep(max(0.0, started + number * seconds / _READINGS - time.monotonic()))
        for kind, monitor in monitors.items():
            readings[kind].append(reading := _reading(monitor) | {"minute": (time.monotonic() - started) / 60})
            print(f"  {kind}: " + ", ".join(f"{name} {value:.1f}" for name, value in reading.items()), file=sys.stderr)
    for kind, found in readings.items():
        if kind != _CONTROL and not found[0]["lost_spans"]:
            raise BenchError(f"{kind}: no span was lost before the first reading: the queue was not full")
    return readings


def _reading(monitor: Program) -> dict[str, float]:
    """The scrape comes after the memory is read: it is part of the service's life, and its peak is not."""
    main, *workers = process_tree(monitor.pid)
    memory = {"main_mb": resident_bytes([main]) / _MB, "workers_mb": resident_bytes(workers) / _MB}
    lost = sum(sample.value for sample in samples(monitor.scrape().text, _LOST_SPANS))
    return memory | {"lost_spans": lost}


def _rows(kind: str, readings: Readings) -> list[Row]:
    totals = [reading["main_mb"] + reading["workers_mb"] for reading in readings]
    minutes = [reading["minute"] for reading in readings]
    slope = _slope(minutes[_SETTLED - 1 :], totals[_SETTLED - 1 :])
    name = f"resident memory, collector {kind}"
    return [
        Row(measure=f"{name}, minute {minutes[0]:.2g}", unit="MB", ours=totals[0]),
        Row(measure=f"{name}, minute {minutes[-1]:.2g}", unit="MB", ours=totals[-1]),
        Row(measure=f"{name}, growth per minute", unit="MB", ours=slope, max_ours=_MAX_SLOPE),
    ]


def _slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    return statistics.linear_regression(xs, ys).slope
