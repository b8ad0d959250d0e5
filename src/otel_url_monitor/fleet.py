"""The prober processes as the main process sees them: start, listen, restart, stop."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from otel_url_monitor.messages import Assignment, Report, Setup
from otel_url_monitor.sharding import partition

_logger = logging.getLogger(__name__)

SILENCE_LIMIT = 15.0
"""A prober reports five times a second; after this many seconds without a word it counts as stuck."""

_STOP_SECONDS = 2.0
_RESTART_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Waits before a restart; a prober that ran for a minute begins anew at the first."""

_STEADY_SECONDS = 60.0


@dataclass(slots=True)
class WorkerStatus:
    """What is known of one prober process.

    Attributes:
        restarts: how often it was started again.
        cpu_seconds: CPU used by all its processes so far; never falls.
        resident_bytes: memory of the present process.
        in_flight: probes being made.
        heard_at: monotonic seconds of its last sign of life.
        export_failures: requests to send spans that failed, of all its processes.
        lost_spans: spans that could not be sent, of all its processes.
    """

    restarts: int = 0
    cpu_seconds: float = 0.0
    resident_bytes: int = 0
    in_flight: int = 0
    heard_at: float = 0.0
    export_failures: int = 0
    lost_spans: int = 0


class Fleet:
    """Keeps the prober processes running. Thread-safe.

    The processes are direct children, started by `subprocess` and not by `multiprocessing`, whose resource
    tracker would outlive us. Each one ends by itself when its pipe closes, however we ended.

    Args:
        assignment: what to probe; each target goes to the worker that rendezvous hashing names.
        workers: how many processes.
        setup: what every process is told first.
        on_report: takes every report, called from a thread of each worker.
        silence_limit: seconds without a sign of life after which a worker is complained of.
    """

    def __init__(
        self,
        assignment: Assignment,
        *,
        workers: int,
        setup: Setup,
        on_report: Callable[[Report], None],
        silence_limit: float = SILENCE_LIMIT,
    ) -> None:
        self._silence_limit = silence_limit
        parts = _parts(assignment, workers)
        self._workers = [_Worker(number, setup, part, on_report) for number, part in enumerate(parts)]

    def start(self) -> None:
        """Start every process."""
        for worker in self._workers:
            worker.start()

    def assign(self, assignment: Assignment) -> None:
        """Probe this from now on."""
        for worker, part in zip(self._workers, _parts(assignment, len(self._workers)), strict=True):
            worker.assign(part)

    def stop(self) -> None:
        """End every process, within 2.5 s: asked first, killed then. No result already sent is lost."""
        for worker in self._workers:
            worker.ask_to_stop()
        deadline = time.monotonic() + _STOP_SECONDS
        for worker in self._workers:
            worker.join(deadline)

    def statuses(self) -> tuple[WorkerStatus, ...]:
        """Each worker's status, worker 0 first."""
        return tuple(worker.status for worker in self._workers)

    def complaints(self) -> tuple[str, ...]:
        """What is wrong with the workers now, in words; empty when all of them answer."""
        now = time.monotonic()
        silences = ((worker.number, now - worker.status.heard_at) for worker in self._workers)
        return tuple(
            f"worker {number} has not answered for {silence:.0f} s"
            for number, silence in silences
            if silence > self._silence_limit
        )


def _parts(assignment: Assignment, workers: int) -> list[Assignment]:
    return [replace(assignment, targets=part) for part in partition(assignment.targets, workers)]


class _Worker:
    """One prober process after another, and the thread that listens to it."""

    def __init__(self, number: int, setup: Setup, assignment: Assignment, on_report: Callable[[Report], None]) -> None:
        self.number = number
        self.status = WorkerStatus(heard_at=time.monotonic())
        self._setup = setup
        self._assignment = assignment
        self._on_report = on_report
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._connection: Connection | None = None
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name=f"worker-{number}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def assign(self, assignment: Assignment) -> None:
        # Not under the lock that a stop needs: a worker that does not read lets this wait, until a stop cuts it off.
        with self._sending:
            self._assignment = assignment
            if self._connection is not None:
                with contextlib.suppress(OSError):  # it is gone; the next one is told at its start
                    self._connection.send(assignment)

    def ask_to_stop(self) -> None:
        with self._lock:
            self._stopping.set()
            if self._socket is not None:
                # A message would wait for a worker that does not read, or land in the midst of a long assignment.
                with contextlib.suppress(OSError):  # it is gone already
                    self._socket.shutdown(socket.SHUT_WR)

    def join(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
        self._thread.join(0.5)

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            code = self._run_once()
            if self._stopping.is_set():
                return
            failures = 0 if time.monotonic() - started > _STEADY_SECONDS else failures + 1
            wait = _RESTART_SECONDS[min(failures, len(_RESTART_SECONDS)) - 1] if failures else _RESTART_SECONDS[0]
            _logger.error("worker %d ended with code %s; restarting in %.1f s", self.number, code, wait)
            self.status.restarts += 1
            self.status.in_flight = 0
            self.status.resident_bytes = 0
            self._stopping.wait(wait)

    def _run_once(self) -> int:
        """One process from start to end; its exit code, or -1 when there was none to be had."""
        try:
            ours, theirs = socket.socketpair()
            with ours:
                with theirs, self._lock:
                    if self._stopping.is_set():
                        return 0
                    process = self._process = _spawn(theirs.fileno())
                    self._socket = ours
                self._talk(Connection(os.dup(ours.fileno())))
                with self._lock:
                    self._socket = None
        except OSError as error:
            _logger.error("cannot start worker %d: %s", self.number, error.strerror)  # noqa: TRY400 - known cause
            return -1
        return process.wait()

    def _talk(self, connection: Connection) -> None:
        """Tell the process what to do and take in what it says, until it ends."""
        before = replace(self.status)
        with connection, contextlib.suppress(EOFError, OSError):
            try:
                with self._sending:
                    connection.send(self._setup)
                    connection.send(self._assignment)
                    self._connection = connection
                while True:
                    self._take(connection.recv(), before)
            finally:
                self._connection = None

    def _take(self, report: Report, before: WorkerStatus) -> None:
        self.status.heard_at = time.monotonic()
        self.status.cpu_seconds = before.cpu_seconds + report.cpu_seconds
        self.status.export_failures = before.export_failures + report.export_failures
        self.status.lost_spans = before.lost_spans + report.lost_spans
        self.status.resident_bytes = report.resident_bytes
        self.status.in_flight = report.in_flight
        try:
            self._on_report(report)
        except Exception as error:  # noqa: BLE001 - a bug in taking in one report must not end the listening
            # Where, but not what: the exception's words may hold a URL, and so a secret.
            where = "".join(traceback.format_tb(error.__traceback__))
            _logger.error("a report could not be taken in: %s\n%s", type(error).__name__, where)  # noqa: TRY400


def _spawn(descriptor: int) -> subprocess.Popen[bytes]:
    """A prober process at the other end of the pipe."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        # -P: a file of the working directory must not stand in for a module. What we could import it can, too.
        [sys.executable, "-P", "-m", "otel_url_monitor.worker", str(descriptor)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        pass_fds=(descriptor,),
        stdin=subprocess.DEVNULL,
        process_group=0,  # a terminal's Ctrl-C is for the main process
    )
