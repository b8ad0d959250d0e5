"""The prober process: a scheduler and a prober between two ends of a pipe, targets in and results out."""

import contextlib
import os
import resource
import signal
import sys
import threading
import time
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path

from otel_url_monitor.limits import raise_descriptor_limit
from otel_url_monitor.logs import LogWriter
from otel_url_monitor.messages import Report, Setup
from otel_url_monitor.prober import Prober
from otel_url_monitor.scheduler import Probed, Scheduler, Skipped
from otel_url_monitor.transport import default_ca_file

_REPORT_SECONDS = 0.2
"""Results travel in batches: at 200 probes a second one wake-up of the main process serves 40 results."""

_RESERVED_DESCRIPTORS = 64
_DESCRIPTORS_PER_PROBE = 5  # the connection, two of the handle, and two of a second one with a CA file of its own
_THREADS_PER_PROBE = 3  # its own, and two of libcurl's resolver


class _Outbox:
    """Events on their way to the main process. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._events: deque[Probed | Skipped] = deque()
        self._sending = threading.Lock()

    def put(self, event: Probed | Skipped) -> None:
        self._events.append(event)

    def send(self, in_flight: int) -> None:
        """Send all there is as one report.

        Raises:
            OSError: the main process is gone.
        """
        with self._sending:
            events = tuple(self._events.popleft() for _ in range(len(self._events)))
            report = Report(
                events=events,
                in_flight=in_flight,
                cpu_seconds=time.process_time(),
                resident_bytes=_resident_bytes(),
            )
            self._connection.send(report)


def main() -> None:
    """Serve the pipe whose descriptor is the first argument, until nothing more can come; then end at once."""
    # The main process alone decides when to stop: a terminal's Ctrl-C or systemd's SIGTERM reaches all of them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    with contextlib.suppress(EOFError, OSError):  # the main process is gone, and nobody is left to tell
        _serve(connection)
    os._exit(0)  # probes in flight are cut off, not waited for


def _serve(connection: Connection) -> None:
    setup: Setup = connection.recv()
    writer = LogWriter(setup.log_level)
    writer.start()
    prober = Prober(default_ca_file(os.environ), tls_facts=setup.tls_facts)
    outbox = _Outbox(connection)
    scheduler = Scheduler(prober, outbox.put, max_in_flight=_max_in_flight(raise_descriptor_limit()))
    threading.Thread(target=_report, args=(outbox, scheduler), name="report", daemon=True).start()
    with contextlib.suppress(EOFError):  # a half-closed pipe is how the main process asks for the end
        while True:
            scheduler.set_targets(connection.recv().targets)
    scheduler.stop()
    outbox.send(0)
    writer.drain()


def _report(outbox: _Outbox, scheduler: Scheduler) -> None:
    with contextlib.suppress(OSError):  # the main process is gone, which the main thread sees as well
        while True:
            outbox.send(scheduler.in_flight)
            time.sleep(_REPORT_SECONDS)


def _max_in_flight(descriptors: int, pids_max: Path = Path("/sys/fs/cgroup/pids.max")) -> int:
    """How many probes the descriptors and threads that we may have are enough for."""
    by_descriptors = (descriptors - _RESERVED_DESCRIPTORS) // _DESCRIPTORS_PER_PROBE
    try:
        by_threads = (int(pids_max.read_text()) - _RESERVED_DESCRIPTORS) // _THREADS_PER_PROBE
    except (OSError, ValueError):
        by_threads = sys.maxsize
    return max(1, min(by_descriptors, by_threads))


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
