"""When this machine runs short of something, no target is called down for it."""

import contextlib
import fcntl
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import trustme

from otel_url_monitor.model import BearerToken, FailureReason, Outcome, ProbeResult, Request, Target, Tls
from otel_url_monitor.prober import Prober
from servers import OK, Server, answers, tls

NO_SUCH_NAME = "http://" + "a" * 64 + ".invalid/"
"""A name that the resolver refuses by itself: the label is too long to be asked for."""


def in_child(call: str, *arguments: object, isolated: bool = False) -> list[str]:
    """The words that a function of this file prints in a process (and a network) of its own."""
    command = [sys.executable, "-c", f"import {__name__} as here; here.{call}", *map(str, arguments)]
    if isolated:
        command = ["unshare", "-rnm", *command]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), *sys.path))}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def words(result: ProbeResult) -> str:
    """Outcome and reason."""
    return f"{result.outcome}:{result.failure}"


def say(*said: object) -> None:
    """Child: the words for the parent."""
    sys.stdout.write(" ".join(map(str, said)))
    sys.stdout.flush()


def probe(prober: Prober, url: str, *, timeout: float = 5.0) -> ProbeResult:
    """One GET of a URL."""
    return prober(Target(url=url, display_url=url, timeout=timeout))


def with_few_descriptors() -> None:
    """Child: arguments are how many descriptors are left, whether to probe once before, CA file, URLs."""
    left, warm, ca_file, *urls = sys.argv[1:]
    prober = Prober(Path(ca_file))
    if warm == "True":
        for url in urls:
            probe(prober, url)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, highest + 20))
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(0))
    for descriptor in taken[len(taken) - int(left) :]:
        os.close(descriptor)
    say(*(words(probe(prober, url)) for url in urls))


def with_no_threads() -> None:
    """Child: a name is probed by a user who may not start any more threads."""
    prober = Prober(Path("/nowhere"))
    if os.geteuid() == 0:
        os.setuid(65534)  # limits do not bind root
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        say(words(probe(prober, NO_SUCH_NAME, timeout=0.3)))
    else:
        say("unlimited")


def with_a_resolver() -> None:
    """Child, in a network of its own: arguments are what its resolver does, and the URL."""
    behaviour, url, folder = sys.argv[1:]
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"lo", 0x49))  # SIOCSIFFLAGS: UP | LOOPBACK | RUNNING
    resolv_conf = Path(folder) / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", str(resolv_conf), "/etc/resolv.conf"], check=True)
    asked: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))

        def answer() -> None:
            while True:
                query, client = server.recvfrom(512)
                asked.append(query)
                if behaviour == "nxdomain":
                    server.sendto(query[:2] + b"\x81\x83" + query[4:6] + bytes(6) + query[12:], client)
                elif behaviour == "address":
                    server.sendto(here(query), client)

        threading.Thread(target=answer, daemon=True).start()
        if behaviour == "address":
            prober, counts = Prober(Path("/nowhere")), []
            for _ in range(2):
                said = words(probe(prober, url))
                counts.append(len(asked))
            say(said, counts[1] == 2 * counts[0])
            os._exit(0)
        started = time.perf_counter()
        result = probe(Prober(Path("/nowhere")), url, timeout=0.5)  # its handles are freed here, too
        say(words(result), time.perf_counter() - started <= 0.75, result.hops[0].phases.resolve)
        os._exit(0)  # the resolver's threads may wait for seconds


def here(query: bytes) -> bytes:
    """The answer 127.0.0.1 to a DNS query for an IPv4 address, and no answer to any other."""
    end = query.index(b"\0", 12) + 5
    has_answer = query[end - 4 : end - 2] == b"\0\1"
    head = query[:2] + b"\x81\x80\0\1" + (b"\0\1" if has_answer else b"\0\0") + bytes(4) + query[12:end]
    return head + (b"\xc0\x0c\0\1\0\1\0\0\x0e\x10\0\4\x7f\0\0\1" if has_answer else b"")


@pytest.mark.parametrize("is_warm", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_few_descriptors(ca: trustme.CA, ca_file: Path, left: int, is_warm: bool) -> None:
    """With hardly a descriptor left a healthy target is unknown or up, never down."""
    with Server(answers(OK)) as plain, Server(answers(OK), tls(ca.issue_cert("127.0.0.1"))) as secure:
        said = in_child("with_few_descriptors()", left, is_warm, ca_file, plain.url(), secure.url())
    assert set(said) <= {"success:None", "unknown:local_resource"}
    assert left > 0 or set(said) == {"unknown:local_resource"}


@pytest.mark.parametrize("is_warm", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("left", [0, 2])
def test_few_descriptors_while_resolving(ca_file: Path, left: int, is_warm: bool) -> None:
    """A resolver that cannot open its files says "no such host": nothing is known of the host then."""
    assert in_child("with_few_descriptors()", left, is_warm, ca_file, NO_SUCH_NAME) == ["unknown:local_resource"]


def test_no_threads() -> None:
    """A resolver that gets no thread times out: that is no trouble of the target's name servers."""
    (said,) = in_child("with_no_threads()")
    if said == "unlimited":
        pytest.skip("this system does not limit the threads of the user nobody")
    assert said == "unknown:local_resource"


@pytest.mark.parametrize(
    ("behaviour", "url", "said"),
    [
        ("silent", "http://site.example/", ["failure:dns_timeout", "True", "None"]),
        ("nxdomain", "http://site.example/", ["failure:dns_error", "True", "None"]),
        ("address", "http://site.example:1/", ["failure:connection_refused", "True"]),
        ("silent", "http://192.0.2.1/", ["failure:network_unreachable", "True", "None"]),
    ],
    ids=["silent", "nxdomain", "asked_every_time", "no_route"],
)
def test_resolvers(tmp_path: Path, behaviour: str, url: str, said: list[str]) -> None:
    """A resolver that says no or nothing and a missing route have names of their own; an answer is asked for anew."""
    if subprocess.run(["unshare", "-rnm", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system gives no network namespaces to its users")
    assert in_child("with_a_resolver()", behaviour, url, tmp_path, isolated=True) == said


def test_a_name_that_does_not_exist(ca_file: Path) -> None:
    """With everything at hand, an unknown name is the target's failure."""
    assert words(probe(Prober(ca_file), NO_SUCH_NAME)) == "failure:dns_error"


@pytest.mark.parametrize("kind", ["missing", "folder", "garbage", "default"])
def test_unreadable_ca_file(ca: trustme.CA, ca_file: Path, tmp_path: Path, kind: str) -> None:
    """A CA file that cannot be used is ours to repair: the verdict is unknown, the detail names the file."""
    path = tmp_path / "roots.pem"
    if kind == "garbage":
        path.write_text("canary\n-----BEGIN CERTIFICATE-----\ncanary\n-----END CERTIFICATE-----\n")
    elif kind == "folder":
        path.mkdir()
    prober = Prober(path if kind == "default" else ca_file)
    with Server(answers(OK), tls(ca.issue_cert("127.0.0.1"))) as server:
        own = Tls() if kind == "default" else Tls(ca_file=path)
        result = prober(Target(url=server.url(), display_url="u", tls=own))
    assert (result.outcome, result.failure) == (Outcome.UNKNOWN, FailureReason.CONFIG_ERROR)
    assert str(path) in result.detail
    assert "canary" not in result.detail


@pytest.mark.parametrize("content", [None, "can\r\nary: yes", "canary\n\n", "can\0ary"])
def test_unusable_secret_file(ca_file: Path, tmp_path: Path, content: str | None) -> None:
    """A token file that is missing or holds more than a token is named, and not one byte is sent."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content.encode())
    with Server(answers(OK)) as server:
        target = Target(url=server.url(), display_url="u", request=Request(auth=BearerToken(file=path)))
        result = Prober(ca_file)(target)
    assert (result.outcome, result.failure, result.hops) == (Outcome.UNKNOWN, FailureReason.CONFIG_ERROR, ())
    assert str(path) in result.detail
    assert "can" not in result.detail.replace("cannot", "").replace(str(path), "")
    assert server.connections == 0
