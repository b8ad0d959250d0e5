"""What a scrape costs at 1,000 targets: our service beside the stock OpenTelemetry Prometheus reader."""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench.processes import (
    BenchError,
    cpu_seconds,
    free_port,
    is_listening,
    process_tree,
    proportional_bytes,
    resident_bytes,
    running,
    wait_until,
)
from bench.programs import Answer, Program, Site, service
from bench.table import Row

_TARGETS = 1000
_INTERVAL = 10.0
_SCRAPE_EVERY = 5.0
# The service may need a few scrapes to see that they are regular, and both have caches to fill.
_WARM_UP_SCRAPES = 3
# A scrape is rare: this part runs longer than the others, to have a p99 that is more than the maximum of six.
_LENGTHS = 4
# Never the same gap twice in a row, and longer than a rendered answer is kept: nobody can be prepared.
_IRREGULAR_GAPS = (1.2, 1.6, 1.3, 1.5, 1.1, 1.4, 1.2, 1.5)
_FORMS = ("openmetrics", "text")
_RENDER_ROUNDS = 3
_RENDERS = 10
_RSS_BOUND_MB = 200
_MB = 1024 * 1024


def scraping(site: Site, seconds: float) -> tuple[list[Row], dict[str, Any]]:
    """Latency over HTTP, CPU in the running service, CPU of nothing but the rendering, and memory."""
    renders = _renders()
    with _stock_reader(site) as stock, service(site, site.urls(_TARGETS), _INTERVAL) as monitor:
        resting = _resting_cpu(monitor, seconds)
        run = _scrape_both(monitor, stock, seconds * _LENGTHS)
        unexpected = _unexpected_latency(monitor)
        tree = process_tree(monitor.pid)
        memory = {
            "rss_mb": resident_bytes(tree) / _MB,
            "pss_mb": proportional_bytes(tree) / _MB,
            "processes": len(tree),
        }
    run["ours"]["cpu_seconds"] -= resting * run["seconds"]
    render_rows = (_render_row(form, pair) for form, pair in renders.items())
    run["ours"]["unexpected_latency_ms"] = unexpected
    rows = [*_latency_rows(run), *render_rows, _running_row(run), *_memory_rows(memory)]
    raw = {"resting_cpu_seconds_per_second": resting, "scrapes": run, "renders": renders, "memory": memory}
    return rows, raw


@contextmanager
def _stock_reader(site: Site) -> Iterator[Program]:
    port, log = free_port(), site.folder / "stock.log"
    with running([sys.executable, "-m", "bench.stock", str(port), str(_TARGETS)], log) as process:
        wait_until(lambda: is_listening(port), process, log)
        yield Program(pid=process.pid, port=port)


def _renders() -> dict[str, Any]:
    """Both ways of rendering in both formats, in turn, each time in a new process."""
    windows = [(form, way) for form in _FORMS for _ in range(_RENDER_ROUNDS) for way in ("ours", "stock")]
    figures: dict[str, Any] = {form: {"ours": [], "stock": []} for form in _FORMS}
    for form, way in windows:
        figures[form][way].append(_render_window(way, form))
    return figures


def _render_window(way: str, form: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.rendering", way, form, str(_TARGETS), str(_RENDERS)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise BenchError(f"{command!r} failed:\n{answer.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(answer.stdout)
    # The mean, not the median: a garbage collection in every third render is to be paid for.
    figures["us_per_series"] = statistics.fmean(figures["cpu_seconds"]) / figures["series"] * 1e6
    return figures


def _resting_cpu(monitor: Program, seconds: float) -> float:
    """CPU seconds per second of the main process while nobody scrapes: taking results in."""
    used, started = cpu_seconds([monitor.pid]), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds([monitor.pid]) - used) / (time.monotonic() - started)


def _scrape_both(monitor: Program, stock: Program, seconds: float) -> dict[str, Any]:
    """Scrape each every five seconds, half a period apart."""
    scrapes = max(4, round(seconds / _SCRAPE_EVERY))
    _scrape_alternately(monitor, stock, _WARM_UP_SCRAPES)
    programs = {"ours": monitor, "stock": stock}
    used = {name: cpu_seconds([program.pid]) for name, program in programs.items()}
    started = time.monotonic()
    answers = dict(zip(programs, _scrape_alternately(monitor, stock, scrapes), strict=True))
    elapsed = time.monotonic() - started
    return {"seconds": elapsed} | {
        name: {
            "cpu_seconds": cpu_seconds([program.pid]) - used[name],
            "series": _series(answers[name][-1]),
            "latency_ms": [answer.duration * 1000 for answer in answers[name]],
        }
        for name, program in programs.items()
    }


def _scrape_alternately(monitor: Program, stock: Program, scrapes: int) -> tuple[list[Answer], list[Answer]]:
    ours, peer = [], []
    started = time.monotonic()
    for number in range(scrapes):
        _sleep_until(started + number * _SCRAPE_EVERY)
        ours.append(monitor.scrape())
        _sleep_until(started + (number + 0.5) * _SCRAPE_EVERY)
        peer.append(stock.scrape())
    # The last period is a whole one too, so that every scrape brings the same share of what happens in between.
    _sleep_until(started + scrapes * _SCRAPE_EVERY)
    return ours, peer


def _unexpected_latency(monitor: Program) -> list[float]:
    """Latencies when no scrape follows from those before it, such as a person's: here the rendering is waited for."""
    latencies = []
    for gap in _IRREGULAR_GAPS:
        time.sleep(gap)
        latencies.append(monitor.scrape().duration * 1000)
    return latencies


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _series(answer: Answer) -> int:
    return sum(not line.startswith("#") for line in answer.text.splitlines())


def _latency_rows(run: dict[str, Any]) -> list[Row]:
    ours, stock = run["ours"]["latency_ms"], run["stock"]["latency_ms"]
    regular = [
        Row(
            measure=f"GET /metrics, {_TARGETS:,} targets, {name}",
            unit="ms",
            ours=_percentile(ours, share),
            peer=_percentile(stock, share),
            max_ratio=0.1,
        )
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]
    unexpected = _percentile(run["ours"]["unexpected_latency_ms"], 0.5)
    return [
        *regular,
        Row(measure="GET /metrics, unexpected, p50", unit="ms", ours=unexpected, peer=_percentile(stock, 0.5)),
    ]


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[math.ceil(share * len(values)) - 1]


def _running_row(run: dict[str, Any]) -> Row:
    """What a scrape adds to the main process, the HTTP server and gzip included."""
    ours, stock = (
        run[name]["cpu_seconds"] / len(run[name]["latency_ms"]) / run[name]["series"] * 1e6
        for name in ("ours", "stock")
    )
    return Row(measure="CPU per series and scrape, running", unit="us", ours=ours, peer=stock)


def _render_row(form: str, windows: dict[str, Any]) -> Row:
    ours, stock = (statistics.median(window["us_per_series"] for window in windows[name]) for name in ("ours", "stock"))
    return Row(measure=f"CPU per series, collect and render {form}", unit="us", ours=ours, peer=stock, max_ratio=0.75)


def _memory_rows(memory: dict[str, Any]) -> list[Row]:
    return [
        Row(measure="resident memory, all processes", unit="MB", ours=memory["rss_mb"], max_ours=_RSS_BOUND_MB),
        Row(measure="the same, shared pages counted once", unit="MB", ours=memory["pss_mb"]),
    ]
