"""What one probe costs in CPU: our whole service beside blackbox_exporter at the same pace."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from bench.driver import drive
from bench.processes import BenchError
from bench.programs import Program, Site, blackbox, samples, service
from bench.table import Row

# Prometheus scrapes every 15 s by default of many installations; a window holds exactly one scrape of ours.
_WINDOW = 15.0
_INTERVAL = 1.0
_WARM_UP = 2.0
_RESULTS = "url_monitor_probe_results_total"


def http_probes(site: Site, seconds: float) -> tuple[list[Row], dict[str, Any]]:
    """200 plain HTTP probes per second."""
    return _compare("CPU per HTTP probe, 200/s", site, site.urls(200), seconds, max_ratio=0.75)


def https_probes(site: Site, seconds: float) -> tuple[list[Row], dict[str, Any]]:
    """100 HTTPS probes per second, each verified against the machine's whole trust store."""
    return _compare("CPU per HTTPS probe, 100/s", site, site.tls_urls(100), seconds, max_ratio=1.0)


def _compare(
    measure: str, site: Site, urls: Sequence[str], seconds: float, *, max_ratio: float
) -> tuple[list[Row], dict[str, Any]]:
    """Windows of ours and of the peer in turn, so that a noisy minute of the machine meets both."""
    windows = max(1, round(seconds / _WINDOW))
    ours, peer = [], []
    with blackbox(site) as exporter:
        for _ in range(windows):
            ours.append(_our_window(site, urls, seconds / windows))
            peer.append(_peer_window(exporter, urls, seconds / windows))
    row = Row(
        measure=measure,
        unit="ms",
        ours=statistics.median(window["cpu_ms_per_probe"] for window in ours),
        peer=statistics.median(window["cpu_ms_per_probe"] for window in peer),
        max_ratio=max_ratio,
    )
    return [row], {"ours": ours, "blackbox_exporter": peer}


def _our_window(site: Site, urls: Sequence[str], seconds: float) -> dict[str, float]:
    """The service is stopped between windows, or it would go on probing in the peer's."""
    with service(site, urls, _INTERVAL) as monitor:
        # The counter is read by the scrapes themselves: the first one is outside, the second inside of the bill.
        probes = _probes(monitor)
        cpu, started = monitor.tree_cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        probes = _probes(monitor) - probes
        cpu, elapsed = monitor.tree_cpu_seconds() - cpu, time.monotonic() - started
    due = len(urls) / _INTERVAL * elapsed
    if probes < 0.95 * due:
        raise BenchError(f"only {probes:.0f} of about {due:.0f} probes were made and succeeded")
    return {"probes": probes, "seconds": elapsed, "cpu_seconds": cpu, "cpu_ms_per_probe": cpu / probes * 1000}


def _probes(monitor: Program) -> float:
    """Probes that succeeded so far: a failing one may be cheaper, and nothing fails here."""
    return sum(
        sample.value for sample in samples(monitor.scrape().text, _RESULTS) if sample.labels["result"] == "success"
    )


def _peer_window(exporter: Program, urls: Sequence[str], seconds: float) -> dict[str, float]:
    rate = len(urls) / _INTERVAL
    drive(exporter, urls, rate, _WARM_UP)
    cpu, started = exporter.tree_cpu_seconds(), time.monotonic()
    probes = len(drive(exporter, urls, rate, seconds))
    cpu, elapsed = exporter.tree_cpu_seconds() - cpu, time.monotonic() - started
    return {"probes": probes, "seconds": elapsed, "cpu_seconds": cpu, "cpu_ms_per_probe": cpu / probes * 1000}
