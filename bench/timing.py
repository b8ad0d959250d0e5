"""How far the measured times are from the truth: a server that answers after exactly 50 ms."""

import math
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pycurl

from bench.driver import Schedule, drive, in_threads
from bench.probing import require_all_sent
from bench.processes import BenchError
from bench.programs import DELAY_MS, Program, Site, blackbox, samples, service, traces_to
from bench.table import Row

_RATE = 200
# Each target's last value can be read for as long as its interval lasts. With the scraper's own period as the
# interval, every probe is read by exactly one scrape, and nothing but Prometheus' scrapes has to be made.
_INTERVAL = 5.0
_TARGETS = 1000
_SCRAPE_EVERY = 5.0
_ROUNDS = 3
_WARM_UP = 2.0
_SLOW_RATE = 10
_MAX_ADDED = 1.0

_DURATION = "probe_duration_seconds"
_RESPONSE = "sample_external_url_response_ms"
_LAST_RUN = "url_monitor_probe_last_run_timestamp_seconds"

Errors = dict[str, list[float]]
"""Absolute errors in ms, by the name of the metric that showed them."""


def timing(site: Site, seconds: float) -> tuple[list[Row], dict[str, Any]]:
    """Errors of ours while (nearly) nobody scrapes and while scraped, of the same with traces, of the peer; in turn."""
    window = seconds / _ROUNDS
    urls = site.urls(_TARGETS, "/d50")
    plain, traced, peer = _Windows(), _Windows(), []
    variables = traces_to(site.collector_port)
    floors = {rate: _floor(urls, rate, window) for rate in (_SLOW_RATE, _RATE)}
    with blackbox(site) as exporter:
        for _ in range(_ROUNDS):
            with service(site, urls, _INTERVAL) as monitor:
                plain.measure(monitor, window)
            with service(site, urls, _INTERVAL, variables) as monitor:
                traced.measure(monitor, window)
                require_all_sent(monitor)
            drive(exporter, urls, _RATE, _WARM_UP)
            peer.append(_summary({_DURATION: _peer_errors(drive(exporter, urls, _RATE, window))}))
    rows = [
        *(
            Row(measure=f"timing floor, bare libcurl, {rate}/s, {percentile}", unit="ms", peer=floor[percentile])
            for rate, floor in floors.items()
            for percentile in ("p50", "p99")
        ),
        *_rows("200/s", plain.quiet, peer),
        *_rows("200/s while scraped", plain.scraped, peer),
        *_traced_rows("200/s traced", traced.quiet, plain.quiet),
        *_traced_rows("200/s traced, while scraped", traced.scraped, plain.scraped),
    ]
    figures = {"floors": floors, "untraced": asdict(plain), "traced": asdict(traced), "blackbox_exporter": peer}
    return rows, figures


@dataclass(frozen=True, slots=True)
class _Windows:
    """The errors of a service, window by window."""

    quiet: list[dict[str, Any]] = field(default_factory=list)
    scraped: list[dict[str, Any]] = field(default_factory=list)

    def measure(self, monitor: Program, seconds: float) -> None:
        """Add a window of each."""
        self.quiet.append(_summary(_errors(_quiet_expositions(monitor, seconds))))
        self.scraped.append(_summary(_errors(_busy_expositions(monitor, seconds))))


def _rows(variant: str, ours: Sequence[dict[str, Any]], peer: Sequence[dict[str, Any]]) -> list[Row]:
    return [
        Row(
            measure=f"timing error, {variant}, {percentile}",
            unit="ms",
            ours=_middle(ours, percentile),
            peer=_middle(peer, percentile),
            **bounds,
        )
        for percentile, bounds in (("p50", {"max_ours": 0.5}), ("p99", {"max_ratio": 1.0}))
    ]


def _traced_rows(variant: str, traced: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]]) -> list[Row]:
    """With tracing, and how much that is above the windows without it."""
    p50, p99 = (_middle(traced, name) for name in ("p50", "p99"))
    added = p99 - _middle(plain, "p99")
    return [
        Row(measure=f"timing error, {variant}, p50", unit="ms", ours=p50),
        Row(measure=f"timing error, {variant}, p99", unit="ms", ours=p99),
        Row(measure=f"timing error, {variant}, p99 above untraced", unit="ms", ours=added, max_ours=_MAX_ADDED),
    ]


def _middle(windows: Sequence[dict[str, Any]], percentile: str) -> float:
    """The median over the windows, of the metric that is worse when a program has two for the same time."""
    return max(statistics.median(float(window[name][percentile]) for window in windows) for name in windows[0])


def _summary(errors: Errors) -> dict[str, Any]:
    return {name: _percentiles(values) for name, values in errors.items()}


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        raise BenchError("the service showed no times at all")
    ordered = sorted(values)
    rank = {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in (("p50", 0.5), ("p99", 0.99))}
    return {"samples": len(ordered)} | rank | {"max": ordered[-1]}


def _quiet_expositions(monitor: Program, seconds: float) -> Iterator[str]:
    """A single scrape at the end.

    It brings the values of the interval before it, in which nobody scraped: the scrape that fetches them cannot
    have disturbed them.
    """
    time.sleep(max(seconds, _INTERVAL))
    yield monitor.scrape().text


def _busy_expositions(monitor: Program, seconds: float) -> Iterator[str]:
    """A scrape every five seconds; each shows the probes made while the one before it was being answered."""
    started = time.monotonic()
    for number in range(1, max(1, round(seconds / _SCRAPE_EVERY)) + 1):
        time.sleep(max(0.0, started + number * _SCRAPE_EVERY - time.monotonic()))
        yield monitor.scrape().text


def _errors(expositions: Iterable[str]) -> Errors:
    """Every probe once: two scrapes may show the same one."""
    # All are fetched before the first is parsed, so that parsing does not compete with the probes.
    found: dict[str, dict[tuple[str, float], float]] = {_DURATION: {}, _RESPONSE: {}}
    for exposition in list(expositions):
        run = {sample.labels["url"]: sample.value for sample in samples(exposition, _LAST_RUN)}
        for name, to_ms in ((_DURATION, 1000.0), (_RESPONSE, 1.0)):
            for sample in samples(exposition, name):
                url = sample.labels["url"]
                found[name][url, run[url]] = abs(sample.value * to_ms - DELAY_MS)
    return {name: list(errors.values()) for name, errors in found.items()}


def _peer_errors(answers: Sequence[bytes]) -> list[float]:
    return [abs(samples(answer.decode(), _DURATION)[0].value * 1000 - DELAY_MS) for answer in answers]


def _floor(urls: Sequence[str], rate: float, seconds: float) -> dict[str, float]:
    """What bare libcurl shows of the same server: the part of everybody's error that is not theirs. Not subtracted.

    nginx counts its timers in whole milliseconds, and a machine nearly at rest wakes up later than one at work,
    so it is read twice: at a slow pace, and at the pace of the comparison.
    """
    schedule = Schedule(rate, seconds)
    times: list[float] = []

    def work() -> None:
        handle = pycurl.Curl()
        times.extend(_exchange(handle, urls[slot % len(urls)]) for slot in schedule.slots())
        handle.close()

    in_threads(work)
    return _percentiles([abs(time_ms - DELAY_MS) for time_ms in times])


def _exchange(handle: pycurl.Curl, url: str) -> float:
    """One request over a new connection; its total time in ms on libcurl's clock."""
    handle.reset()
    options: dict[int, object] = {pycurl.URL: url, pycurl.FRESH_CONNECT: 1, pycurl.FORBID_REUSE: 1}
    for option, value in options.items():
        handle.setopt(option, value)
    handle.setopt(pycurl.WRITEFUNCTION, len)  # takes the body and keeps nothing
    handle.perform()
    return float(handle.getinfo(pycurl.TOTAL_TIME_T)) / 1000
