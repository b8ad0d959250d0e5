"""The prober process: a scheduler and a prober between two ends of a pipe, targets in and results out."""

import contextlib
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from otel_url_monitor.limits import raise_descriptor_limit
from otel_url_monitor.logs import LogWriter
from otel_url_monitor.messages import Assignment, Report, Setup
from otel_url_monitor.model import Probe, ProbeResult, Target
from otel_url_monitor.otlp import Environment, read_environment, shield
from otel_url_monitor.prober import Prober
from otel_url_monitor.scheduler import Probed, Scheduler, Skipped
from otel_url_monitor.transport import default_ca_file

if TYPE_CHECKING:
    from otel_url_monitor.tracing import TracedProbe

_logger = logging.getLogger(__name__)

_REPORT_SECONDS = 0.2
"""Results travel in batches: at 200 probes a second one wake-up of the main process serves 40 results."""

_FLUSH_SECONDS = 1.0
"""How long spans may still be sent after a stop; the main process waits for 2 s."""

_RESERVED_DESCRIPTORS = 64
_DESCRIPTORS_PER_PROBE = 5  # the connection, two of the handle, and two of a second one with a CA file of its own
_THREADS_PER_PROBE = 3  # its own, and two of libcurl's resolver


class _Outbox:
    """Events on their way to the main process. Thread-safe."""

    def __init__(self, connection: Connection, traced: "TracedProbe | None") -> None:
        self._connection = connection
        self._traced = traced
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
            sender = self._traced.sender if self._traced else None
            report = Report(
                events=events,
                in_flight=in_flight,
                cpu_seconds=time.process_time(),
                resident_bytes=_resident_bytes(),
                export_failures=sender.failures if sender else 0,
                lost_spans=sender.lost if sender else 0,
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
    environment = read_environment(os.environ)
    prober = Prober(default_ca_file(os.environ))

    def probe(target: Target, _lag: float) -> ProbeResult:
        return prober(target)

    traced = _traced(probe, environment, setup) if environment.traces else None
    outbox = _Outbox(connection, traced)
    scheduler = Scheduler(traced or probe, outbox.put, max_in_flight=_max_in_flight(raise_descriptor_limit()))
    threading.Thread(target=_report, args=(outbox, scheduler), name="report", daemon=True).start()
    with contextlib.suppress(EOFError):  # a half-closed pipe is how the main process asks for the end
        while True:
            assignment: Assignment = connection.recv()
            ids = {target.id for target in assignment.targets}
            prober.follow(ids, tls_facts=assignment.tls_facts or traced is not None)
            if traced:
                traced.follow(ids, assignment.tracing)
            scheduler.set_targets(assignment.targets)
    scheduler.stop()
    outbox.send(0)
    if traced:
        if left := traced.sender.stop(_FLUSH_SECONDS):
            _logger.warning("%d spans could not be sent before the end", left)
        outbox.send(0)
    writer.drain()


def _traced(probe: Probe, environment: Environment, setup: Setup) -> "TracedProbe":
    shield(os.environ)
    from otel_url_monitor.tracing import SpanSender, TracedProbe  # noqa: PLC0415 - 20 MB, only when asked for

    sender = SpanSender(environment, setup.resource)
    sender.start()
    return TracedProbe(probe, sender, propagates=environment.propagates)


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
