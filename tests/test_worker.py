"""A prober process, spoken to over its pipe as the main process does."""

import contextlib
import os
import resource
import signal
import socket
import sys
import time
from multiprocessing.connection import Connection

import pytest

from otel_url_monitor import worker
from otel_url_monitor.messages import Assignment, Setup
from otel_url_monitor.model import FailureReason, Limits, Outcome, SkipReason, Target
from otel_url_monitor.scheduler import Probed, Skipped
from processes import Running, assert_calm, hostile, is_alive, running_command, site, stay_silent, wait_for


class Pipe:
    """Our end of the pipe, and what came out of it."""

    def __init__(self, ours: socket.socket, process: Running) -> None:
        self.process = process
        self.socket = ours
        self.connection = Connection(os.dup(ours.fileno()))
        self.reports = []

    def send(self, *messages):
        for message in messages:
            self.connection.send(message)

    def take(self, enough, seconds=10.0):
        """Take in reports until there are enough."""
        deadline = time.monotonic() + seconds
        while not enough(self):
            assert self.connection.poll(max(0.0, deadline - time.monotonic())), "no report in time"
            self.reports.append(self.connection.recv())

    def take_all(self):
        """Take in reports until the process has closed its end."""
        with contextlib.suppress(EOFError):
            while True:
                assert self.connection.poll(10)
                self.reports.append(self.connection.recv())

    @property
    def events(self):
        return [event for report in self.reports for event in report.events]

    @property
    def results(self):
        return [event.result for event in self.events if isinstance(event, Probed)]


@contextlib.contextmanager
def started(**options):
    """A worker that was told nothing yet."""
    ours, theirs = socket.socketpair()
    command = (sys.executable, "-m", "otel_url_monitor.worker", str(theirs.fileno()))
    with ours, running_command(command, pass_fds=(theirs.fileno(),), **options) as process:
        theirs.close()
        pipe = Pipe(ours, process)
        with pipe.connection:
            yield pipe


def target(url, **fields):
    return Target(url=url, display_url=url, **{"interval": 0.1, "timeout": 0.1, **fields})


SETUP = Setup(log_level=20)


def test_results_come_in_batches_with_a_sign_of_life():
    """Each result arrives once; a report comes several times a second and says what the process uses."""
    with site() as server, started() as pipe:
        wanted = target(f"{server.url}/x")
        pipe.send(SETUP, Assignment(targets=(wanted,)))
        pipe.take(lambda pipe: len(pipe.results) >= 5)
        assert {(result.target_id, result.outcome) for result in pipe.results} == {(wanted.id, Outcome.SUCCESS)}
        assert len({result.started_at for result in pipe.results}) == len(pipe.results) <= server.hits["/x"]
        assert all(0 <= event.lag < 0.1 for event in pipe.events)
        last = pipe.reports[-1]
        assert 0 < last.cpu_seconds < 10
        assert 10e6 < last.resident_bytes < 200e6


def test_a_worker_without_targets_gives_signs_of_life():
    """A worker that nothing was assigned to still reports, so that its silence means something."""
    with started() as pipe:
        pipe.send(SETUP, Assignment(targets=()))
        pipe.take(lambda pipe: len(pipe.reports) >= 3, seconds=5)
        assert pipe.events == []


def test_a_new_assignment_replaces_the_old_one():
    """Targets that are no longer assigned are probed no more."""
    with site() as server, started() as pipe:
        pipe.send(SETUP, Assignment(targets=(target(f"{server.url}/old"),)))
        pipe.take(lambda pipe: pipe.results)
        new = target(f"{server.url}/new")
        pipe.send(Assignment(targets=(new,)))
        pipe.take(lambda pipe: pipe.results[-1].target_id == new.id)
        old_hits = server.hits["/old"]
        taken = len(pipe.results)
        pipe.take(lambda pipe: len(pipe.results) >= taken + 5)
        assert {result.target_id for result in pipe.results[taken:]} == {new.id}
        assert server.hits["/old"] == old_hits


def test_an_end_that_is_asked_for_delivers_what_there_is():
    """When nothing more can come in, the last batch is sent, probes in flight count as skipped, and the code is 0."""
    with hostile(stay_silent) as silent, started() as pipe:
        hanging = target(silent.url, timeout=60.0)
        pipe.send(SETUP, Assignment(targets=(hanging,)))
        pipe.take(lambda pipe: pipe.reports and pipe.reports[-1].in_flight == 1)
        pipe.socket.shutdown(socket.SHUT_WR)
        begin = time.monotonic()
        pipe.take_all()
        assert pipe.process.process.wait(timeout=2) == 0
        assert time.monotonic() - begin < 2
        assert pipe.events == [Skipped(target_id=hanging.id, reason=SkipReason.SHUTDOWN, count=1)]
        assert pipe.reports[-1].in_flight == 0
        assert_calm(pipe.process.log)


@pytest.mark.parametrize("told", [0, 1, 2], ids=["before the set-up", "before the targets", "at work"])
def test_a_worker_ends_when_the_main_process_is_gone(told):
    """A closed pipe ends the worker within 2 s and without a word, whatever it was doing."""
    with site() as server, started() as pipe:
        pipe.send(*(SETUP, Assignment(targets=(target(server.url),)))[:told])
        if told == 2:
            pipe.take(lambda pipe: pipe.results)
        pipe.connection.close()
        pipe.socket.close()
        assert pipe.process.process.wait(timeout=2) == 0
        assert pipe.process.log == ""


def test_half_a_message_is_an_end_and_not_a_traceback():
    """A main process that is killed while it sends a long assignment leaves no traceback."""
    with started() as pipe:
        pipe.send(SETUP)
        pipe.take(lambda pipe: pipe.reports)
        pipe.socket.sendall(b"\x00\x10\x00\x00half")
        pipe.connection.close()
        pipe.socket.close()
        assert pipe.process.process.wait(timeout=2) == 0
        assert pipe.process.log == ""


def test_signals_to_a_worker_are_the_main_process_s_business():
    """SIGTERM and SIGINT do not end a worker: the main process does, in its order."""
    with started() as pipe:
        pipe.send(SETUP, Assignment(targets=()))
        pipe.take(lambda pipe: pipe.reports)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(pipe.process.pid, number)
        seen = len(pipe.reports)
        pipe.take(lambda pipe: len(pipe.reports) > seen + 2)
        assert is_alive(pipe.process.pid)


def test_a_log_that_nobody_reads_does_not_hold_up_probing():
    """With stderr full, what a probe has to log is dropped, and the next probe is made."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"." * 4096)
    os.set_blocking(writing, True)
    with started(stderr=writing) as pipe:
        # A target that no configuration makes lets the probe raise, which is logged with the place.
        pipe.send(SETUP, Assignment(targets=(target("http://127.0.0.1:1/", limits=None),)))
        pipe.take(lambda pipe: len(pipe.results) >= 10)
        assert {result.failure for result in pipe.results} == {FailureReason.INTERNAL_ERROR}
        pipe.socket.shutdown(socket.SHUT_WR)
        pipe.take_all()
        assert pipe.process.process.wait(timeout=3) == 0
    os.close(reading)
    os.close(writing)


def test_the_log_of_a_worker_looks_like_the_main_process_s():
    """What a worker has to say is a line of JSON, too."""
    with started() as pipe:
        pipe.send(SETUP, Assignment(targets=(target("http://127.0.0.1:1/", interval=60.0, timeout=60.0, limits=None),)))
        pipe.send(Assignment(targets=(target("http://127.0.0.1:1/", limits=None),)))
        pipe.take(lambda pipe: pipe.results)
        line = wait_for(lambda: pipe.process.log.partition("\n")[0], "a line")
        assert line.startswith('{"time": ')
        assert '"level": "error", "logger": "otel_url_monitor.scheduler"' in line


def test_modules_come_from_where_the_monitor_is_installed(tmp_path):
    """A file of the working directory that is named like a module takes no part."""
    (tmp_path / "requests.py").write_text("raise SystemExit('the wrong module')")
    command = (sys.executable, "-P", "-m", "otel_url_monitor", "run", "http://127.0.0.1:1/", "--port", "0")
    with running_command(command, cwd=tmp_path) as service:
        service.wait_for_sample("url_monitor_worker_resident_memory_bytes", 1, worker="0")
        assert "wrong module" not in service.log


def test_the_descriptor_limit_is_raised_and_respected(tmp_path):
    """As many probes are in flight as descriptors and threads are there for, and at least one."""
    missing = tmp_path / "missing"
    assert worker._max_in_flight(1024, missing) == 192
    assert worker._max_in_flight(10, missing) == 1
    (tmp_path / "max").write_text("max\n")
    assert worker._max_in_flight(1024, tmp_path / "max") == 192
    (tmp_path / "pids").write_text("364\n")
    assert worker._max_in_flight(1024, tmp_path / "pids") == 100


def test_few_descriptors_make_probes_late_and_not_failed():
    """With 100 descriptors 7 probes fly at once; what does not fit counts as saturated, nothing as unknown."""

    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

    with hostile(stay_silent) as silent, started(preexec_fn=limit) as pipe:
        targets = tuple(target(f"{silent.url}{n}", interval=0.2, timeout=0.2, limits=Limits()) for n in range(40))
        pipe.send(SETUP, Assignment(targets=targets))
        pipe.take(lambda pipe: len(pipe.results) >= 40)
        assert max(report.in_flight for report in pipe.reports) == 7
        assert {result.failure for result in pipe.results} == {FailureReason.RESPONSE_TIMEOUT}
        reasons = {event.reason for event in pipe.events if isinstance(event, Skipped)}
        assert SkipReason.SATURATED in reasons
