"""Ask for probes at a given pace, as a Prometheus with many targets does."""

import http.client
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import quote

from bench.processes import BenchError
from bench.programs import Program

# 200 probes of 50 ms per second keep 10 busy; the rest is for stalls of the machine.
_THREADS = 32


class Schedule:
    """Due times from now on; each goes to one of the threads that ask. Thread-safe.

    They lie at random, always the same: our service and Prometheus place each target by a hash of its name. At even
    distances of 5 ms the answers, 50 ms later, would coincide with new requests, and nginx' clock, which is read
    once per event, would look more exact than it is.
    """

    def __init__(self, rate: float, seconds: float) -> None:
        chance = random.Random(1)
        self._due = sorted(chance.uniform(0, seconds) for _ in range(int(rate * seconds)))
        self._next_slot = itertools.count().__next__
        self._started = time.monotonic()

    def slots(self) -> Iterator[int]:
        """The number of a due time, when it has come."""
        while (slot := self._next_slot()) < len(self._due):
            time.sleep(max(0.0, self._started + self._due[slot] - time.monotonic()))
            yield slot


def in_threads(work: Callable[[], None]) -> None:
    """Run the same work in many threads and wait for all.

    Raises:
        BenchError: it failed in one of them.
    """
    errors: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised again below, in the thread that waits
            errors.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise BenchError(f"a paced request failed: {errors[0]!r}")


def drive(exporter: Program, urls: Sequence[str], rate: float, seconds: float) -> list[bytes]:
    """Probe the URLs in turn through blackbox_exporter; returns its expositions, one per probe.

    Raises:
        BenchError: it did not answer, or probes failed.
    """
    paths = [f"/probe?module=http_2xx&target={quote(url, safe='')}" for url in urls]
    schedule = Schedule(rate, seconds)
    answers: list[bytes] = []

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", exporter.port, timeout=30)
        for slot in schedule.slots():
            # No gzip here although Prometheus asks for it: compressing each answer would be held against the peer.
            connection.request("GET", paths[slot % len(paths)])
            answers.append(connection.getresponse().read())
        connection.close()

    in_threads(work)
    successes = sum(b"\nprobe_success 1\n" in answer for answer in answers)
    if successes < 0.99 * len(answers):
        raise BenchError(f"blackbox_exporter: only {successes} of {len(answers)} probes succeeded")
    return answers
