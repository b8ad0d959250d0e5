"""What one probe costs in CPU: our whole service beside blackbox_exporter at the same pace."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bench.driver import drive
from bench.processes import BenchError
from bench.programs import Program, Site, blackbox, samples, service, traces_to
from bench.table import Row

# Prometheus scrapes every 15 s by default of many installations; a window holds exactly one scrape of ours.
_WINDOW = 15.0
_INTERVAL = 1.0
_WARM_UP = 2.0
_RESULTS = "url_monitor_probe_results_total"
_LOST_SPANS = "url_monitor_otlp_lost_spans_total"


def http_probes(site: Site, seconds: float) -> tuple[list[Row], dict[str, Any]]:
    """200 plain HTTP probes per second."""
    return _compare("CPU per HTTP probe, 200/s", site, site.urls(200), seconds, max_ratio=0.75)


def https_probes(site: Site, seconds: float) -> tuple[list[Row], dict[str, Any]]:
    """100 HTTPS probes per second, each verified against the machine's whole trust store."""
    return _compare("CPU per HTTPS probe, 100/s", site, site.tls_urls(100), seconds, max_ratio=1.0)


def traced_probes(site: Site, seconds: float) -> tuple[list[Row], dict[str, Any]]:
    """200 plain HTTP probes per second with a trace of each, those of a service that traces nothing, and the peer's."""
    urls, windows = site.urls(200), max(1, round(seconds / _WINDOW))
    variables = traces_to(site.collector_port)
    traced, untraced, peer = [], [], []
    with blackbox(site) as exporter:
        for _ in range(windows):
            traced.append(_our_window(site, urls, seconds / windows, variables))
            untraced.append(_our_window(site, urls, seconds / windows))
            peer.append(_peer_window(exporter, urls, seconds / windows))
    rate = "CPU per {} HTTP probe, 200/s"
    rows = [
        Row(measure=rate.format("traced"), unit="ms", ours=_middle(traced), peer=_middle(peer), max_ratio=1.0),
        Row(measure=rate.format("untraced"), unit="ms", ours=_middle(untraced), peer=_middle(peer)),
        Row(measure="CPU per trace, the difference", unit="us", ours=(_middle(traced) - _middle(untraced)) * 1000),
    ]
    return rows, {"traced": traced, "untraced": untraced, "blackbox_exporter": peer}


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
    row = Row(measure=measure, unit="ms", ours=_middle(ours), peer=_middle(peer), max_ratio=max_ratio)
    return [row], {"ours": ours, "blackbox_exporter": peer}


def _middle(windows: Sequence[dict[str, float]]) -> float:
    return statistics.median(window["cpu_ms_per_probe"] for window in windows)


def _our_window(
    site: Site, urls: Sequence[str], seconds: float, variables: Mapping[str, str] | None = None
) -> dict[str, float]:
    """The service is stopped between windows, or it would go on probing in the peer's."""
    with service(site, urls, _INTERVAL, variables) as monitor:
        # The counter is read by the scrapes themselves: the first one is outside, the second inside of the bill.
        probes = _probes(monitor)
        cpu, started = monitor.tree_cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        probes = _probes(monitor) - probes
        cpu, elapsed = monitor.tree_cpu_seconds() - cpu, time.monotonic() - started
        require_all_sent(monitor)
    due = len(urls) / _INTERVAL * elapsed
    if probes < 0.95 * due:
        raise BenchError(f"only {probes:.0f} of about {due:.0f} probes were made and succeeded")
    return {"probes": probes, "seconds": elapsed, "cpu_seconds": cpu, "cpu_ms_per_probe": cpu / probes * 1000}


def require_all_sent(monitor: Program) -> None:
    """Check that no span was lost. The queue holds 8 s of them: what is not lost was encoded and sent.

    Raises:
        BenchError: a lost span has not cost what a span costs.
    """
    lost = sum(sample.value for sample in samples(monitor.scrape().text, _LOST_SPANS))
    if lost:
        raise BenchError(f"{lost:.0f} spans were lost")


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
