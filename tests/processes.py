"""The service as a real process, real loopback targets for it, and what a test wants to know of both."""

import contextlib
import http.server
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from prometheus_client.parser import text_string_to_metric_families

COMMAND = (sys.executable, "-m", "otel_url_monitor")
_SOURCES = Path(__file__).parent.parent / "src"
_MARK = "URL_MONITOR_TEST"

_Found = TypeVar("_Found")


def wait_for(condition: Callable[[], _Found], what: str, seconds: float = 20.0) -> _Found:
    """The first true value of a condition, asked again and again; fails the test when the time is up."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)
    return found


def require_tool(name: str) -> str:
    """The path of a program that is not ours; without it the test is skipped, or fails where all tools must be."""
    path = shutil.which(name)
    if path is None and os.environ.get("OUM_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{name} is not installed")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str, timeout: float = 10.0, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Status and body of a GET, whatever the status."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers or {})), timeout=timeout) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Samples:
    """An exposition as a scraper understands it."""

    def __init__(self, text: str) -> None:
        self.text = text
        found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        self.by_series = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}
        assert len(self.by_series) == len(found), "a series appears twice"

    def get(self, name: str, /, **labels: str) -> float | None:
        """The value of the one series with exactly these labels, `None` when there is none."""
        return self.by_series.get((name, frozenset(labels.items())))

    def labels(self, name: str) -> list[dict[str, str]]:
        """The labels of every series of that name, sorted."""
        return sorted(
            (dict(labels) for found, labels in self.by_series if found == name), key=lambda found: sorted(found.items())
        )

    def total(self, name: str, /, **labels: str) -> float:
        """The sum over the series that have at least these labels."""
        wanted = labels.items()
        return sum(value for (found, has), value in self.by_series.items() if found == name and wanted <= has)


class Running:
    """A process of ours and everything it starts; stderr goes to a file unless it is given.

    Args:
        command: what to run.
        env: variables to set beside our own environment.
        options: for `subprocess.Popen`.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> None:
        self._mark = uuid.uuid4().hex
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        environ = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
        environ |= {"PYTHONPATH": str(_SOURCES), _MARK: self._mark, **(env or {})}
        defaults: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": self._output, "stderr": self._output}
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, env=environ, **(defaults | options))
        self.pid = self.process.pid

    @property
    def log(self) -> str:
        """What was written to stdout and stderr so far."""
        return os.pread(self._output.fileno(), 1 << 26, 0).decode()

    @property
    def url(self) -> str:
        """Base URL, once it is announced."""
        found = wait_for(
            lambda: re.search(r"http://\S+(?=/metrics)", self.log) or self._must_live(), "the service is up"
        )
        return found[0].replace("localhost", "127.0.0.1")

    def _must_live(self) -> None:
        assert self.process.poll() is None, self.log

    def get(self, path: str, timeout: float = 10.0) -> tuple[int, str]:
        """Status and body of a path of the service."""
        return get(self.url + path, timeout)

    def samples(self) -> Samples:
        """What /metrics says, at most a second old."""
        status, text = self.get("/metrics")
        assert status == 200
        return Samples(text)

    def wait_for_sample(self, name: str, at_least: float, /, *, seconds: float = 20.0, **labels: str) -> Samples:
        """The samples, as soon as that series has grown so far."""

        def grown() -> Samples | None:
            samples = self.samples()
            value = samples.get(name, **labels)
            return samples if value is not None and value >= at_least else None

        return wait_for(grown, f"{name}{labels} >= {at_least:g}", seconds)

    def processes(self) -> set[int]:
        """Every living process that carries our mark: the service and whatever it or its children started."""
        return {pid for pid in _pids() if self._mark.encode() in _read(pid, "environ")}

    def workers(self) -> list[int]:
        """The prober processes, in the order of their start."""
        return sorted(self.processes() - {self.pid}, key=_started)

    def wait_for_workers(self, count: int = 1) -> list[int]:
        """The prober processes once there are that many."""
        return wait_for(lambda: len(found := self.workers()) == count and found, f"{count} workers")

    def end(self, number: int, *more: int, seconds: float = 5.0) -> float:
        """Send signals and wait for the end; how many seconds it took."""
        begin = time.monotonic()
        for each in (number, *more):
            self.process.send_signal(each)
        self.process.wait(timeout=seconds)
        return time.monotonic() - begin

    def assert_ended_well(self) -> None:
        """Exit code 0, nothing left over, and nothing said that would frighten an operator."""
        assert self.process.returncode == 0, self.log
        assert self.processes() == set()
        assert_calm(self.log)

    def close(self) -> None:
        """End whatever is left."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._output.close()


def assert_calm(log: str) -> None:
    """No traceback and no complaint of the interpreter or of the server under us."""
    for words in ("Traceback", "Exception", "Fatal Python", "never awaited", "was destroyed", "Cancel "):
        assert words not in log, log


@contextlib.contextmanager
def running(*arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> Iterator[Running]:
    """`otel-url-monitor` with these arguments; whatever it left is killed in the end."""
    with running_command((*COMMAND, *arguments), env, **options) as service:
        yield service


@contextlib.contextmanager
def running_command(command: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> Iterator[Running]:
    """Any command, with our sources to import."""
    service = Running(command, env, **options)
    try:
        yield service
    finally:
        service.close()


def run_command(*arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess:
    """`otel-url-monitor` with these arguments, to its end."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    environ |= {"PYTHONPATH": str(_SOURCES), **(env or {})}
    return subprocess.run(
        (*COMMAND, *arguments), env=environ, capture_output=True, text=True, timeout=20, check=False, **options
    )


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    found = re.search(rb"^VmRSS:\s+(\d+) kB", _read(pid, "status"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def catches(pid: int, number: int) -> bool:
    """Whether the process has taken a signal over from the kernel."""
    found = re.search(rb"^SigCgt:\t(\w+)", _read(pid, "status"), re.MULTILINE)
    return bool(found and int(found[1], 16) >> (number - 1) & 1)


def is_alive(pid: int) -> bool:
    """Whether the process runs: neither gone nor a zombie."""
    return _stat(pid)[:1] not in ([], [b"Z"])


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the state on."""
    return _read(pid, "stat").rpartition(b")")[2].split()


def _started(pid: int) -> int:
    return int(_stat(pid)[19:20][0]) if _stat(pid) else 0


class Site:
    """A loopback web server that counts; `/500` answers 500, `/redirect` goes to `/`, all else is 200.

    Attributes:
        hits: how often each path (query included) was asked for.
        seen_at: when, in Unix seconds.
        status: what all but the special paths answer.
    """

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.seen_at: defaultdict[str, list[float]] = defaultdict(list)
        self._lock = threading.Lock()
        self.status = 200
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site._count(self.path)
                status = 500 if self.path == "/500" else 302 if self.path == "/redirect" else site.status
                body = f"{status}\n".encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if status == 302:
                    self.send_header("Location", "/")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 1024

            def handle_error(self, request: object, client_address: object) -> None:
                """A monitor that is killed leaves its connections broken."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def _count(self, path: str) -> None:
        with self._lock:
            self.hits[path] += 1
            self.seen_at[path].append(time.time())

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Hostile:
    """A raw TCP server that does one thing to each connection, in a thread of its own, until it is closed."""

    def __init__(self, behave: Callable[[socket.socket, threading.Event], None]) -> None:
        self._behave = behave
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.settimeout(0.05)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(0.5)
            self._behave(connection, self._closed)

    def close(self) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()


def stay_silent(connection: socket.socket, closed: threading.Event) -> None:
    """Take the request and never answer."""
    closed.wait()


def send_garbage(connection: socket.socket, closed: threading.Event) -> None:
    """Bytes that are no HTTP, control characters among them."""
    connection.sendall(b"\x1b[31m\x00\xff\xfe not http\r\n\r\n" * 100)


def send_endless_body(connection: socket.socket, closed: threading.Event) -> None:
    """An answer that never ends."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not closed.is_set():
        connection.sendall(b"x" * 65536)


def send_endless_headers(connection: socket.socket, closed: threading.Event) -> None:
    """A header block that never ends."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not closed.is_set():
        connection.sendall(b"X-Filler: " + b"y" * 1000 + b"\r\n")


def reset(connection: socket.socket, closed: threading.Event) -> None:
    """Break the connection off with a reset."""
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


def redirect_in_circles(connection: socket.socket, closed: threading.Event) -> None:
    """A redirect to itself with a hostile reason phrase."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 302 \x1b[2J\r\nLocation: /\xff\x00\r\nContent-Length: 0\r\n\r\n")


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """A web server that counts."""
    made = Site()
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def hostile(behave: Callable[[socket.socket, threading.Event], None]) -> Iterator[Hostile]:
    """A server that does that to each connection."""
    made = Hostile(behave)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def silent_port() -> Iterator[str]:
    """The URL of a port whose connections are accepted by the kernel alone: no request is ever answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def write_config(folder: Path, targets: Sequence[str], **settings: object) -> Path:
    """A configuration file of bare URLs; settings are written as they are."""
    lines = [f"{key}: {value}" for key, value in settings.items()]
    path = folder / "monitor.yaml"
    path.write_text("\n".join([*lines, "targets:", *(f"  - {target}" for target in targets)]) + "\n")
    return path
