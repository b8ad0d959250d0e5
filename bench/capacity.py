"""What a pod needs: CPU, memory and the longest scrape by number of targets and interval."""

import statistics
import time
from typing import Any

from bench.processes import BenchError, process_tree, resident_bytes
from bench.programs import Program, Site, samples, service
from bench.table import Row

# Targets, seconds between two probes of each, and whether over TLS.
_FLEETS = (
    (200, 15.0, False),
    (1000, 15.0, False),
    (1000, 15.0, True),
    (2000, 15.0, False),
    (2000, 60.0, True),
    (5000, 15.0, False),
    (5000, 60.0, False),
)
_SCRAPE_EVERY = 10.0
_MB = 1024 * 1024


def capacity(site: Site, seconds: float) -> tuple[list[Row], dict[str, Any]]:
    """One fleet after the other, scraped at random moments, so that the scraper always waits for the render."""
    raw = {}
    rows = []
    for count, interval, is_tls in _FLEETS:
        urls = site.tls_urls(count) if is_tls else site.urls(count)
        with service(site, urls, interval) as monitor:
            found = _measure(monitor, count / interval, seconds)
        name = f"{count} {'https' if is_tls else 'http'} targets every {interval:g} s"
        raw[name] = found
        rows += [
            Row(measure=f"{name}: CPU", unit="cores", ours=found["cores"]),
            Row(measure=f"{name}: memory", unit="MB", ours=found["mb"]),
            Row(measure=f"{name}: scrape rendered on demand", unit="ms", ours=found["scrape_ms"]),
        ]
    return rows, raw


def _measure(monitor: Program, rate: float, seconds: float) -> dict[str, float]:
    monitor.scrape()
    probes, cpu, started = _probes(monitor), monitor.tree_cpu_seconds(), time.monotonic()
    durations = []
    while time.monotonic() < started + seconds:
        # Never twice the same wait: a regular scraper would find its exposition ready.
        time.sleep(_SCRAPE_EVERY * (0.5 + len(durations) % 7 / 6))
        durations.append(monitor.scrape().duration)
    elapsed, cpu = time.monotonic() - started, monitor.tree_cpu_seconds() - cpu
    probes = _probes(monitor) - probes
    if probes < 0.9 * rate * elapsed:
        raise BenchError(f"only {probes:.0f} of about {rate * elapsed:.0f} probes were made and succeeded")
    return {
        "cores": cpu / elapsed,
        "mb": resident_bytes(process_tree(monitor.pid)) / _MB,
        "scrape_ms": statistics.median(durations) * 1000,
    }


def _probes(monitor: Program) -> float:
    found = samples(monitor.scrape().text, "url_monitor_probe_results_total")
    return sum(sample.value for sample in found if sample.labels["result"] == "success")
