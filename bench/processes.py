"""Start and stop processes, and read from /proc what they cost."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_START_DEADLINE = 30.0
# The service finishes its probes in flight and flushes its exporters within 5 s each.
_STOP_DEADLINE = 15.0
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class BenchError(Exception):
    """What the one who runs the benchmark can fix, or must know: no figure would mean anything."""


@contextmanager
def running(
    command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block; what it prints goes to `log`."""
    with log.open("ab") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=env)
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_DEADLINE)
    except subprocess.TimeoutExpired:
        # Children first: nobody would know them once their parent is gone.
        for pid in reversed(process_tree(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def wait_until(is_ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the process answers.

    Raises:
        BenchError: it ended, or the deadline passed; with the end of its log.
    """
    deadline = time.monotonic() + _START_DEADLINE
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            state = "is not ready" if process.poll() is None else f"ended with {process.returncode}"
            raise BenchError(f"{process.args!r} {state}:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


def is_listening(port: int) -> bool:
    """Whether somebody accepts connections on this loopback port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A loopback port that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def process_tree(root: int) -> list[int]:
    """The process and its descendants, parents before children."""
    children: dict[int, list[int]] = {}
    for pid in (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()):
        if stat := _stat(pid):
            children.setdefault(int(stat[1]), []).append(pid)
    tree = [root]
    for pid in tree:
        tree.extend(children.get(pid, ()))
    return tree


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state (field 3 of proc(5)) on; empty when the process is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time used so far, that of children which ended meanwhile included."""
    # proc(5): utime, stime, cutime and cstime are fields 14 to 17.
    return sum(int(ticks) for pid in pids for ticks in _stat(pid)[11:15]) / _TICKS_PER_SECOND


def resident_bytes(pids: Sequence[int]) -> int:
    """Resident memory; pages that several processes share are counted in each of them."""
    return sum(_kilobytes(_PROC / str(pid) / "status", "VmRSS:") for pid in pids) * 1024


def proportional_bytes(pids: Sequence[int]) -> int:
    """Resident memory with shared pages divided among those who share them."""
    return sum(_kilobytes(_PROC / str(pid) / "smaps_rollup", "Pss:") for pid in pids) * 1024


def _kilobytes(path: Path, field: str) -> int:
    lines = path.read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)
