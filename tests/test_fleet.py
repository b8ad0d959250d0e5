"""The prober processes as their parent keeps them."""

import contextlib
import itertools
import os
import re
import signal
import sys
import threading
import time

import pytest

from otel_url_monitor.fleet import Fleet
from otel_url_monitor.messages import Assignment, Setup
from otel_url_monitor.model import SkipReason, Target
from otel_url_monitor.scheduler import Probed, Skipped
from processes import is_alive, silent_port, site, wait_for

SETUP = Setup(log_level=20)


def target(url, **fields):
    return Target(url=url, display_url=url, **{"interval": 0.1, "timeout": 0.1, **fields})


class Reports:
    """Takes reports; counts what they hold."""

    def __init__(self):
        self.taken = []

    def take(self, report):
        self.taken.append(report)

    @property
    def events(self):
        return [event for report in list(self.taken) for event in report.events]


@contextlib.contextmanager
def fleet(*targets, workers=1, on_report=None, **options):
    reports = Reports()
    made = Fleet(
        Assignment(targets=targets), workers=workers, setup=SETUP, on_report=on_report or reports.take, **options
    )
    made.start()
    made.reports = reports
    try:
        yield made
    finally:
        made.stop()


def pids(made):
    """The processes' ids; there is no public way, for nobody but a test needs one."""
    processes = [worker._process for worker in made._workers]
    return [process.pid for process in processes if process is not None]


def program(path, text):
    """An executable file."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_every_target_goes_to_exactly_one_worker():
    """Three workers report each target, each of them from one of them only."""
    with site() as server:
        targets = [target(f"{server.url}/{n}", interval=0.5, timeout=0.5) for n in range(30)]
        seen = {}

        def take(report):
            for event in report.events:
                if isinstance(event, Probed):
                    seen.setdefault(event.result.target_id, set()).add(threading.current_thread().name)

        with fleet(*targets, workers=3, on_report=take):
            wait_for(lambda: len(seen) == 30, "all targets are probed")
    assert set(seen) == {each.id for each in targets}
    assert {len(names) for names in seen.values()} == {1}
    assert {name for names in seen.values() for name in names} == {"worker-0", "worker-1", "worker-2"}


def test_a_stop_delivers_the_last_batch():
    """What was in flight when the fleet is stopped has been reported as skipped once `stop` is back."""
    with silent_port() as silent:
        hanging = target(silent, timeout=60.0)
        with fleet(hanging) as made:
            wait_for(lambda: made.statuses()[0].in_flight == 1, "the probe hangs")
            begin = time.monotonic()
            made.stop()
            assert time.monotonic() - begin < 1.5
            assert made.reports.events[-1] == Skipped(target_id=hanging.id, reason=SkipReason.SHUTDOWN, count=1)
            assert not any(map(is_alive, pids(made)))


def test_a_stop_at_any_moment_leaves_nothing():
    """Stopping again and again, during the start of processes or after it, leaves none and takes under 2.5 s."""
    for delay in (0.0, 0.005, 0.05, 0.1, 0.3):
        with fleet(workers=3) as made:
            time.sleep(delay)  # the moment is the point, not a state
            begin = time.monotonic()
            made.stop()
            assert time.monotonic() - begin < 2.5
            assert not any(map(is_alive, pids(made)))


def test_a_worker_that_does_not_read_is_killed():
    """A worker that is stopped while a long assignment is on its way to it neither blocks the stop nor stays."""
    targets = [target("http://127.0.0.1:1/" + "x" * 500 + str(n), interval=60.0) for n in range(3000)]
    with fleet(*targets) as made:
        (pid,) = wait_for(lambda: pids(made), "the process")
        os.kill(pid, signal.SIGSTOP)
        begin = time.monotonic()
        made.stop()
        assert time.monotonic() - begin < 2.7
        assert not is_alive(pid)


def test_a_killed_worker_is_started_again():
    """The next process follows in moments, counts as a restart, and the CPU counter goes on from where it was."""
    cpu, results = [], []

    def take(report):
        cpu.append(made.statuses()[0].cpu_seconds)
        results.extend(report.events)

    with site() as server, fleet(target(server.url), on_report=take) as made:
        for restarts in (1, 2):
            wait_for(lambda: made.statuses()[0].cpu_seconds > sum(cpu[:1]), "a report")
            (pid,) = pids(made)
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: pids(made) != [pid], "another process")
            assert made.statuses()[0].restarts == restarts
            used, taken = made.statuses()[0].cpu_seconds, len(results)
            wait_for(lambda taken=taken: len(results) > taken, "probing goes on")
            assert made.statuses()[0].cpu_seconds > used + 0.03  # the new process has loaded its modules
        made.stop()
    assert all(before <= after for before, after in itertools.pairwise(cpu))


def test_a_worker_that_cannot_live_is_tried_with_growing_waits(tmp_path, monkeypatch, caplog):
    """Processes that end at once are started again after 0.1, 0.5 and 1 s; the complaint names the worker."""
    starts = tmp_path / "starts"
    monkeypatch.setattr(sys, "executable", program(tmp_path / "dying", f"date +%s.%N >> {starts}; exit 3"))
    with fleet(silence_limit=0.3) as made:
        assert made.complaints() == ()
        wait_for(lambda: starts.exists() and len(starts.read_text().split()) == 4, "three restarts")
        (complaint,) = made.complaints()
        assert re.fullmatch(r"worker 0 has not answered for \d+ s", complaint)
    moments = [float(line) for line in starts.read_text().split()]
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert [gap >= least for gap, least in zip(gaps, (0.1, 0.5, 1.0), strict=True)] == [True] * 3
    assert caplog.messages[:3] == [
        f"worker 0 ended with code 3; restarting in {seconds} s" for seconds in ("0.1", "0.5", "1.0")
    ]


def test_a_missing_interpreter_is_said_and_survived(tmp_path, monkeypatch, caplog):
    """When no process can be started at all, the log says why, and it is tried again."""
    executable = sys.executable
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with fleet() as made:
        wait_for(lambda: made.statuses()[0].restarts >= 1, "a restart")
        assert "cannot start worker 0: No such file or directory" in caplog.messages
        monkeypatch.setattr(sys, "executable", executable)
        wait_for(lambda: made.statuses()[0].cpu_seconds > 0, "a worker lives")


def test_a_long_silence_is_complained_of_until_it_ends():
    """A stopped worker is named after the limit; when it goes on, the complaint is gone, and it is the same process."""
    with fleet(workers=2, silence_limit=0.6) as made:
        wait_for(lambda: all(status.cpu_seconds for status in made.statuses()), "both report")
        (_, pid) = pids(made)
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: made.complaints() == ("worker 1 has not answered for 1 s",), "a complaint")
        os.kill(pid, signal.SIGCONT)
        wait_for(lambda: made.complaints() == (), "all is well again")
        assert pids(made)[1] == pid


def test_a_report_that_cannot_be_taken_in_is_not_the_end(caplog):
    """What only we can have got wrong is logged with its traceback, and the next report is taken."""
    calls = []

    def take(report):
        calls.append(report)
        if len(calls) == 1:
            raise ValueError("no")

    with fleet(on_report=take):
        wait_for(lambda: len(calls) >= 3, "more reports")
    assert any(line.startswith("a report could not be taken in: ValueError\n") for line in caplog.messages)


@pytest.mark.parametrize("workers", [1, 4])
def test_a_fleet_has_as_many_statuses_as_workers(workers):
    """Self-metrics have one series per worker from the start, before any of them has said a word."""
    made = Fleet(Assignment(targets=()), workers=workers, setup=SETUP, on_report=lambda report: None)
    assert len(made.statuses()) == workers
    assert made.complaints() == ()
