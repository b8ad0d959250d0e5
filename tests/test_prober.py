"""One probe as the servers see it: what is sent, where redirects lead, and what stays secret."""

import base64
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme

from otel_url_monitor import __version__
from otel_url_monitor.model import (
    BasicAuth,
    BearerToken,
    Expect,
    FailureReason,
    Limits,
    Outcome,
    ProbeResult,
    Request,
    Target,
    mask_url,
)
from otel_url_monitor.prober import Prober
from servers import OK, Handler, Peer, Server, answers, in_turn, redirects, tls

AGENT = f"otel-url-monitor/{__version__}"
CANARY = "hunter2-canary"


@pytest.fixture
def prober(ca_file: Path) -> Prober:
    """With the tests' own trust."""
    return Prober(ca_file)


def probe(
    prober: Prober, url: str, *, timeout: float = 5.0, limits: Limits | None = None, **request: Any
) -> ProbeResult:
    """One probe of a URL."""
    return prober(
        Target(
            url=url, display_url=mask_url(url), timeout=timeout, limits=limits or Limits(), request=Request(**request)
        )
    )


def sent(server: Server, *, at: int = 0) -> list[str]:
    """A request that the server received, line by line."""
    return server.requests[at].decode("latin-1").split("\r\n")


def field(server: Server, name: str, *, at: int = 0) -> str | None:
    """The value of a header of a request that the server received."""
    found = [line.partition(": ")[2] for line in sent(server, at=at) if line.lower().startswith(f"{name.lower()}:")]
    assert len(found) < 2
    return found[0] if found else None


def lines(server: Server) -> list[str]:
    """The request lines, in the order of arrival."""
    return [request.partition(b"\r\n")[0].decode() for request in server.requests]


def routes(pages: dict[str, Handler]) -> Handler:
    """A server with a handler for each path."""

    def handle(peer: Peer) -> None:
        path = peer.read().split()[1].decode()
        peer.read = lambda: b""  # type: ignore[method-assign]  # the page's handler need not read again
        pages[path](peer)

    return handle


# Requests.


def test_a_plain_get(prober: Prober) -> None:
    """A probe sends a request line, three headers, and nothing else: no coding is asked for."""
    with Server(answers(OK)) as server:
        assert probe(prober, server.url("/a?b=c#d")).outcome is Outcome.SUCCESS
    expected = f"GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUser-Agent: {AGENT}\r\nAccept: */*\r\n\r\n"
    assert server.requests == [expected.encode()]


@pytest.mark.parametrize("size", [5, 2_000_000])
def test_a_post(prober: Prober, size: int) -> None:
    """A body is sent as it is, with its length, without a made-up type and without waiting for a "go on"."""
    with Server(answers(OK)) as server:
        assert probe(prober, server.url(), method="POST", body=b"a" * size).outcome is Outcome.SUCCESS
    assert sent(server)[0] == "POST / HTTP/1.1"
    assert sorted(line.partition(":")[0] for line in sent(server)[1:-2]) == [
        "Accept",
        "Content-Length",
        "Host",
        "User-Agent",
    ]
    assert (field(server, "Content-Length"), len(sent(server)[-1])) == (str(size), size)


@pytest.mark.parametrize(
    ("method", "length"),
    [("POST", "0"), ("PUT", "0"), ("PATCH", "0"), ("DELETE", None), ("OPTIONS", None), ("HEAD", None), ("GET", None)],
)
def test_a_method_without_a_body(prober: Prober, method: str, length: str | None) -> None:
    """Methods that usually carry a body say that it is empty (servers answer 411 otherwise), and have no type."""
    with Server(answers(OK)) as server:
        assert probe(prober, server.url(), method=method).outcome is Outcome.SUCCESS
    assert lines(server) == [f"{method} / HTTP/1.1"]
    assert (field(server, "Content-Length"), field(server, "Content-Type")) == (length, None)


def test_a_get_with_a_body(prober: Prober) -> None:
    """A body does not turn a GET into a POST."""
    with Server(answers(OK)) as server:
        probe(prober, server.url(), body=b"query", headers=(("Content-Type", "text/plain"),))
    assert (lines(server), sent(server)[-1], field(server, "Content-Type")) == (
        ["GET / HTTP/1.1"],
        "query",
        "text/plain",
    )


def test_a_method_leaves_nothing_behind(prober: Prober) -> None:
    """A GET after a POST or HEAD of the same thread is a plain GET again."""
    with Server(answers(OK)) as server:
        for method, body in (
            ("POST", b"a"),
            ("GET", None),
            ("HEAD", None),
            ("GET", None),
            ("PUT", None),
            ("GET", None),
        ):
            probe(prober, server.url(), method=method, body=body)
    plain = [request for request in server.requests if request.startswith(b"GET")]
    assert len(server.requests) == 6
    assert len(set(plain)) == 1
    assert b"Content-Length" not in plain[0]


def test_custom_headers(prober: Prober) -> None:
    """Configured headers replace the usual ones, keep their spelling, and may be empty or Latin-1."""
    headers = (
        ("Host", "virtual.example"),
        ("user-agent", "own"),
        ("Accept", "text/html"),
        ("X-Empty", ""),
        ("X-Latin", "caf\u00e9"),
        ("Accept-Encoding", "gzip"),
    )
    with Server(answers(OK)) as server:
        assert probe(prober, server.url(), headers=headers).outcome is Outcome.SUCCESS
    assert sorted(sent(server)[1:-2]) == sorted(
        [
            "Host: virtual.example",
            "user-agent: own",
            "Accept: text/html",
            "X-Empty:",
            "X-Latin: caf\u00e9",
            "Accept-Encoding: gzip",
        ]
    )


@pytest.mark.parametrize("path", ["/a/../b", "/a/./b//c", "/%7Eme/%2E%2E/", "/a%20b", "/?a=%2F&&b?c"])
def test_a_path_is_sent_as_it_is(prober: Prober, path: str) -> None:
    """Dots, double slashes and percent signs of a configured path reach the server."""
    with Server(answers(OK)) as server:
        probe(prober, server.url(path))
    assert lines(server)[0].split()[1] == path


def test_a_path_beyond_ascii(prober: Prober) -> None:
    """What a URL cannot hold is percent-encoded as UTF-8, and a URL without a path asks for the root."""
    with Server(answers(OK)) as server:
        probe(prober, server.url("/caf\u00e9?q=\u00e9"))
        probe(prober, server.url(""))
    assert lines(server) == ["GET /caf%C3%A9?q=%C3%A9 HTTP/1.1", "GET / HTTP/1.1"]


def test_a_body_file_is_read_again(prober: Prober, tmp_path: Path) -> None:
    """What a body file says now is what is sent now, without one trailing newline."""
    path = tmp_path / "body"
    path.write_bytes(b"first\n")
    with Server(answers(OK)) as server:
        probe(prober, server.url(), method="POST", body_file=path)
        path.write_bytes(b"second, longer\n\n")
        probe(prober, server.url(), method="POST", body_file=path)
        path.unlink()
        assert probe(prober, server.url(), method="POST", body_file=path).failure is FailureReason.CONFIG_ERROR
    assert [request.rpartition(b"\r\n\r\n")[2] for request in server.requests] == [b"first", b"second, longer\n"]


def test_basic_authentication(prober: Prober, tmp_path: Path) -> None:
    """A password from the configuration or a file is sent in UTF-8 at the first try; a challenge changes nothing."""
    path = tmp_path / "password"
    path.write_bytes("p:\u00e4ss\r\n".encode())
    challenge = b'HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm="a", nonce="b"\r\nContent-Length: 0\r\n\r\n'
    with Server(answers(challenge)) as server:
        for auth in (
            BasicAuth(username="me", password="p:\u00e4ss"),
            BasicAuth(username="me", password_file=path),
            BasicAuth(username="me"),
        ):
            assert probe(prober, server.url(), auth=auth).status == 401
    given = [base64.b64decode((field(server, "Authorization", at=n) or "").removeprefix("Basic ")) for n in range(3)]
    assert given == ["me:p:\u00e4ss".encode(), "me:p:\u00e4ss".encode(), b"me:"]


def test_a_token_file_is_read_again(prober: Prober, tmp_path: Path) -> None:
    """A renewed token is used by the next probe, also when the file was replaced by a link swap."""
    path, link = tmp_path / "token", tmp_path / "link"
    path.write_text("first\n")
    link.symlink_to(path)
    with Server(answers(OK)) as server:
        target = Target(url=server.url(), display_url="u", request=Request(auth=BearerToken(file=link)))
        prober(target)
        path.write_text("other\n")
        prober(target)
        (tmp_path / "swapped").write_text("third\n")
        os.utime(tmp_path / "swapped", ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
        (tmp_path / "new").symlink_to(tmp_path / "swapped")
        (tmp_path / "new").replace(link)
        prober(target)
    assert [field(server, "Authorization", at=n) for n in range(3)] == ["Bearer first", "Bearer other", "Bearer third"]


def test_a_reconfigured_target_is_sent_anew(prober: Prober) -> None:
    """A target whose headers changed at a reload keeps its identity, not its old request."""
    with Server(answers(OK)) as server:
        for value in ("old", "new"):
            probe(prober, server.url(), headers=(("X-A", value),))
    assert [field(server, "X-A", at=n) for n in range(2)] == ["old", "new"]


def test_the_environment_has_no_say(prober: Prober, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Proxies of the environment and passwords of ~/.netrc are not used."""
    (tmp_path / ".netrc").write_text("default login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    with Server(answers(OK)) as proxy, Server(answers(OK)) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url())
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        assert probe(prober, server.url()).outcome is Outcome.SUCCESS
    assert (proxy.connections, len(server.requests), field(server, "Authorization")) == (0, 1, None)


def test_every_probe_connects_anew(prober: Prober) -> None:
    """A server that would keep a connection open is still asked on a new one, once a probe."""

    def keep_open(peer: Peer) -> None:
        while peer.read():
            peer.send(OK.replace(b"Connection: close\r\n", b""))

    with Server(keep_open) as server:
        for _ in range(3):
            probe(prober, server.url())
    assert (server.connections, len(server.requests)) == (3, 3)


def test_every_probe_makes_the_whole_handshake(prober: Prober, ca: trustme.CA) -> None:
    """No TLS session is resumed: the certificate is shown and verified every time."""
    resumed = []

    def handle(peer: Peer) -> None:
        answers(OK)(peer)
        resumed.append(peer.connection.session_reused)  # type: ignore[attr-defined]  # of a TLS socket

    with Server(handle, tls(ca.issue_cert("127.0.0.1"))) as server:
        results = [probe(prober, server.url()) for _ in range(3)]
    assert resumed == [False] * 3
    assert [len(result.hops[0].chain) for result in results] == [1] * 3


# Redirects.


def test_hops_are_recorded(prober: Prober) -> None:
    """Every request on the way is a hop with its own status, and the last one is the probe's."""
    with (
        Server(answers(OK)) as last,
        Server(redirects(last.url("/c?token=x"), status=307)) as second,
        Server(redirects(second.url("/b#part"), status=301)) as first,
    ):
        result = probe(prober, first.url("/a"))
    assert [(hop.url, hop.status) for hop in result.hops] == [
        (first.url("/a"), 301),
        (second.url("/b"), 307),
        (last.url("/c?token=REDACTED"), 200),
    ]
    assert (result.outcome, result.status, result.checks) == (Outcome.SUCCESS, 200, (("status", True),))


@pytest.mark.parametrize(
    ("status", "method", "becomes"),
    [
        *((status, "GET", "GET") for status in (301, 302, 303, 307, 308)),
        *((status, "HEAD", "HEAD") for status in (301, 302, 303, 307, 308)),
        *((status, "POST", "GET") for status in (301, 302, 303)),
        *((status, "POST", "POST") for status in (307, 308)),
        *((status, "PUT", "PUT") for status in (301, 302, 307, 308)),
        (303, "PUT", "GET"),
        (303, "DELETE", "GET"),
        (302, "DELETE", "DELETE"),
    ],
)
def test_the_method_after_a_redirect(prober: Prober, status: int, method: str, becomes: str) -> None:
    """Methods change as browsers change them (RFC 9110 section 15.4), and the body goes with its method."""
    body = b"data" if method in ("POST", "PUT") else None
    pages = {"/": redirects("/next", status=status), "/next": answers(OK)}
    with Server(routes(pages)) as server:
        headers = (("Content-Type", "text/plain"), ("X-Own", "yes"))
        assert probe(prober, server.url(), method=method, body=body, headers=headers).outcome is Outcome.SUCCESS
    keeps_body = body is not None and becomes == method
    assert lines(server) == [f"{method} / HTTP/1.1", f"{becomes} /next HTTP/1.1"]
    assert sent(server, at=1)[-1] == ("data" if keeps_body else "")
    assert field(server, "Content-Type", at=1) == ("text/plain" if becomes == method else None)
    assert field(server, "X-Own", at=1) == "yes"


@pytest.mark.parametrize("status", [300, 304, 305, 306, 399])
def test_a_location_that_is_no_redirect(prober: Prober, status: int) -> None:
    """Other statuses of the 3xx kind are answers, whatever Location they carry."""
    with Server(redirects("/next", status=status)) as server:
        result = probe(prober, server.url())
    assert (len(result.hops), result.status, result.failure) == (1, status, FailureReason.UNEXPECTED_STATUS)


@pytest.mark.parametrize("how", ["port", "host", "scheme"])
def test_what_is_configured_stays_with_its_origin(prober: Prober, ca: trustme.CA, how: str) -> None:
    """Headers, credentials and server of a target never reach another origin, which gets a plain request."""
    wrap = tls(ca.issue_cert("127.0.0.1", "localhost"))
    host = "localhost" if how == "host" else "127.0.0.1"
    with (
        Server(answers(OK), wrap if how == "scheme" else None) as second,
        Server(redirects(second.url(host=host))) as first,
    ):
        result = probe(
            prober,
            first.url(),
            headers=(("X-Api-Key", CANARY), ("Cookie", CANARY), ("User-Agent", CANARY), ("Host", CANARY)),
            auth=BasicAuth(username="me", password=CANARY),
        )
    assert (result.outcome, CANARY.encode() in first.requests[0]) == (Outcome.SUCCESS, True)
    expected = f"GET / HTTP/1.1\r\nHost: {host}:{second.port}\r\nUser-Agent: {AGENT}\r\nAccept: */*\r\n\r\n"
    assert second.requests == [expected.encode()]


def test_secrets_do_not_come_back(prober: Prober) -> None:
    """Once another origin had its say, the first one is asked without the configured headers too."""
    away: list[str] = []
    pages = {"/": redirects(lambda: away[0]), "/back": answers(OK)}
    with Server(routes(pages)) as first, Server(redirects(first.url("/back"))) as second:
        away.append(second.url())
        result = probe(prober, first.url(), headers=(("X-Api-Key", CANARY),))
    assert (result.outcome, lines(first)) == (Outcome.SUCCESS, ["GET / HTTP/1.1", "GET /back HTTP/1.1"])
    assert [CANARY.encode() in request for request in (*first.requests, *second.requests)] == [True, False, False]


@pytest.mark.parametrize("status", [307, 308])
def test_a_body_never_reaches_another_origin(prober: Prober, status: int) -> None:
    """A redirect that would repeat the body elsewhere is not followed."""
    with Server(answers(OK)) as second, Server(redirects(second.url(), status=status)) as first:
        result = probe(prober, first.url(), method="POST", body=CANARY.encode())
    assert (result.failure, len(result.hops), result.status) == (FailureReason.REDIRECT_BLOCKED, 1, status)
    assert second.connections == 0


def test_a_body_that_is_dropped_may_cross(prober: Prober) -> None:
    """A POST answered by 303 to another origin is followed as a GET without the body."""
    with Server(answers(OK)) as second, Server(redirects(second.url(), status=303)) as first:
        assert probe(prober, first.url(), method="POST", body=CANARY.encode()).outcome is Outcome.SUCCESS
    assert lines(second) == ["GET / HTTP/1.1"]
    assert CANARY.encode() not in second.requests[0]


def test_credentials_of_a_location_are_dropped(prober: Prober) -> None:
    """A redirect cannot make a probe log in anywhere, nor get a password recorded."""
    with (
        Server(answers(OK)) as second,
        Server(redirects(lambda: f"http://me:{CANARY}@127.0.0.1:{second.port}/")) as first,
    ):
        result = probe(prober, first.url())
    assert result.outcome is Outcome.SUCCESS
    assert (field(second, "Authorization"), CANARY in repr(result)) == (None, False)


def test_cookies_live_for_one_probe(prober: Prober) -> None:
    """A cookie of one hop is sent on the next of the same probe; the next probe starts without."""
    cookies = "Set-Cookie: a=b; Path=/\r\nSet-Cookie: other=x; Domain=other.example\r\nSet-Cookie: safe=y; Secure\r\n"
    pages = {"/": redirects("/next", headers=cookies), "/next": redirects("/last"), "/last": answers(OK)}
    with Server(routes(pages)) as server:
        target = Target(url=server.url(), display_url="u")
        assert [prober(target).outcome for _ in range(2)] == [Outcome.SUCCESS] * 2
        assert [field(server, "Cookie", at=at) for at in range(6)] == [None, "a=b", "a=b"] * 2
        probe(prober, server.url("/last"))
        assert field(server, "Cookie", at=6) is None


def test_cookies_end_when_the_server_says_so(prober: Prober) -> None:
    """A cookie that a later hop deletes is not sent any more, and one that it changes has the new value."""
    pages = {
        "/": redirects("/2", headers="Set-Cookie: a=1\r\nSet-Cookie: b=1\r\n"),
        "/2": redirects("/3", headers="Set-Cookie: a=; Max-Age=0\r\nSet-Cookie: b=2\r\n"),
        "/3": answers(OK),
    }
    with Server(routes(pages)) as server:
        probe(prober, server.url())
    assert [field(server, "Cookie", at=at) for at in range(3)] == [None, "a=1; b=1", "b=2"]


def test_configured_cookies_stay(prober: Prober) -> None:
    """A configured Cookie header is sent on every hop of its origin, before what the server set."""
    pages = {
        "/": redirects("/2"),
        "/2": redirects("/3", headers="Set-Cookie: a=b\r\n"),
        "/3": redirects("/4"),
        "/4": answers(OK),
    }
    with Server(routes(pages)) as server:
        probe(prober, server.url(), headers=(("Cookie", "own=1"),))
    assert [field(server, "Cookie", at=at) for at in range(4)] == ["own=1", "own=1", "own=1; a=b", "own=1; a=b"]


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("next", "/dir/next"),
        ("/next", "/next"),
        ("../next", "/next"),
        ("?q=1", "/dir/page?q=1"),
        ("//127.0.0.1:{port}/next", "/next"),
        ("HTTP://127.0.0.1:{port}/next", "/next"),
        ("http://127.0.0.1:{port}", "/"),
        ("/a b", "/a%20b"),
        ("/caf\u00e9", "/caf%C3%A9"),
        ("/%zz", "/%25zz"),
        ("/next#part", "/next"),
        ("/next?u=http://a/../b", "/next?u=http://a/../b"),
    ],
)
def test_locations(prober: Prober, location: str, path: str) -> None:
    """Relative, odd and non-ASCII locations lead where a browser would go."""

    def handle(peer: Peer) -> None:
        first = peer.read().startswith(b"GET /dir/page HTTP")
        where = location.format(port=server.port)
        moved = f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode()
        peer.send(moved if first else OK)

    with Server(handle) as server:
        result = probe(prober, server.url("/dir/page"))
    assert (result.outcome, lines(server)[1]) == (Outcome.SUCCESS, f"GET {path} HTTP/1.1")


def test_a_location_that_is_not_utf_8(prober: Prober) -> None:
    """The bytes of a path come back as they were sent; a host name of that kind leads nowhere."""
    path, host = (
        b"HTTP/1.1 302 Moved\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"
        for location in (b"/caf\xe9?\xff", b"http://b\xfccher.invalid/")
    )
    with Server(answers(path, OK)) as server:
        result = probe(prober, server.url())
    assert (result.outcome, lines(server)[1]) == (Outcome.SUCCESS, "GET /caf%E9?%FF HTTP/1.1")
    with Server(answers(host)) as server:
        assert probe(prober, server.url()).failure is FailureReason.DNS_ERROR


def test_a_location_with_an_international_name(prober: Prober) -> None:
    """A name beyond ASCII is resolved in its IDNA form."""
    with Server(redirects("http://b\u00fccher.{}/".format("a" * 64))) as server:
        too_long = probe(prober, server.url())
    with Server(redirects("http://b\u00fccher..invalid/")) as server:
        empty_label = probe(prober, server.url())
    with Server(redirects("http://b\u00fccher.localhost:1/")) as server:
        found = probe(prober, server.url())
    assert (too_long.failure, empty_label.failure) == (FailureReason.DNS_ERROR, FailureReason.DNS_ERROR)
    assert found.hops[1].url == "http://xn--bcher-kva.localhost:1/"


def test_a_url_that_cannot_be_requested(prober: Prober) -> None:
    """A URL that the client library refuses is a fault of the configuration; its secrets are not repeated."""
    result = prober(Target(url="https://\u2603.net/?token=canary", display_url="https://\u2603.net/?token=REDACTED"))
    assert (result.failure, result.hops) == (FailureReason.CONFIG_ERROR, ())
    assert "canary" not in repr(result)


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_the_number_of_redirects(prober: Prober, allowed: int) -> None:
    """Exactly as many redirects are followed as allowed; the next one fails the probe."""
    with Server(redirects("/")) as server:
        result = probe(prober, server.url(), max_redirects=allowed)
    assert (result.failure, len(result.hops)) == (FailureReason.TOO_MANY_REDIRECTS, allowed + 1)
    assert result.detail == f"more than {allowed} redirects"
    left = [redirects("/next")] * allowed + [answers(OK)]
    with Server(in_turn(*left)) as server:
        assert probe(prober, server.url(), max_redirects=allowed).outcome is Outcome.SUCCESS


def test_redirects_that_are_not_followed(prober: Prober) -> None:
    """With `follow_redirects: false` a redirect is the answer, its body counted, and may be the expected one."""
    moved = b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 3\r\n\r\nabc"
    with Server(answers(moved)) as server:
        refused = probe(prober, server.url(), follow_redirects=False)
        wanted = prober(
            Target(
                url=server.url(),
                display_url="u",
                request=Request(follow_redirects=False),
                expect=Expect(status=((302, 302),)),
            )
        )
    assert (refused.failure, len(refused.hops)) == (FailureReason.UNEXPECTED_STATUS, 1)
    assert (wanted.outcome, wanted.hops[0].body_bytes) == (Outcome.SUCCESS, 3)


def test_all_hops_share_one_timeout(prober: Prober) -> None:
    """Three hops of 0.4 s do not fit into 1 s."""

    def handle(peer: Peer) -> None:
        peer.read()
        if not peer.is_gone(within=0.4):
            peer.send(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")

    with Server(handle) as server:
        started = time.perf_counter()
        result = probe(prober, server.url(), timeout=1.0)
        seconds = time.perf_counter() - started
    assert (result.failure, len(result.hops), result.status) == (FailureReason.RESPONSE_TIMEOUT, 3, 0)
    assert 0.95 <= seconds <= 1.25


def test_all_hops_share_one_budget_of_headers(prober: Prober) -> None:
    """Redirects that each stay below the limit do not stay below it together."""
    with Server(redirects("/", headers=f"X-A: {'a' * 400}\r\n")) as server:
        result = probe(prober, server.url(), limits=Limits(headers=1024))
    assert (result.failure, len(result.hops)) == (FailureReason.HEADER_TOO_LARGE, 3)
    assert result.detail == "more header bytes than the target's limit"


# Secrets.


@pytest.mark.parametrize("how", ["ok", "refused", "redirect", "blocked", "garbage", "echo", "slow", "body", "name"])
def test_secrets_are_in_no_result(prober: Prober, tmp_path: Path, how: str) -> None:
    """Whatever happens to a probe, no secret of its target is in what is kept, shown or logged of it."""
    (tmp_path / "token").write_text(CANARY)
    handlers: dict[str, Handler] = {
        "ok": answers(OK),
        "refused": answers(OK),
        "redirect": routes(
            {f"/?token={CANARY}": redirects(f"/next?api_key={CANARY}"), f"/next?api_key={CANARY}": answers(OK)}
        ),
        "blocked": redirects(f"ftp://me:{CANARY}@site.example/?token={CANARY}"),
        "garbage": answers(b"garbage"),
        "echo": redirects(f"http://127.0.0.1:99999/?token={CANARY}"),
        "slow": lambda peer: (peer.read(), peer.wait())[1],
        "body": answers(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + CANARY.encode()),
        "name": answers(OK),
    }
    with Server(handlers[how]) as server:
        url = server.url(f"/?token={CANARY}")
        if how == "name":
            url = f"http://{'a' * 64}.invalid/?token={CANARY}"
        if how == "refused":
            url = f"http://127.0.0.1:1/?token={CANARY}"
        target = Target(
            url=url,
            display_url=mask_url(url),
            timeout=0.3 if how == "slow" else 5.0,
            request=Request(
                method="POST" if how == "body" else "GET",
                headers=(("X-Api-Key", CANARY),),
                body=CANARY.encode() if how == "body" else None,
                auth=BearerToken(file=tmp_path / "token") if how == "ok" else BasicAuth(username="me", password=CANARY),
            ),
        )
        result = prober(target)
    assert (result.outcome is Outcome.SUCCESS) == (how in ("ok", "redirect"))
    assert CANARY not in repr(result) + repr(target)


def test_the_target_s_text_is_harmless(prober: Prober) -> None:
    """Control characters that a server smuggles into an error message reach neither log nor page."""
    with Server(answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \xff\x1b[31m\x07x\r\n\r\n")) as server:
        result = probe(prober, server.url())
    assert result.failure is FailureReason.PROTOCOL_ERROR
    assert result.detail.isprintable()


# Threads.


def test_fifty_probes_at_once(prober: Prober, ca: trustme.CA) -> None:
    """Each of many concurrent probes, over http and https, with cookies and redirects, gets its own answer."""

    def handle(peer: Peer) -> None:
        request = peer.read()
        number = request.split()[1].decode().strip("/")
        if number.endswith("x"):
            number = number.removesuffix("x")
            moved = f"HTTP/1.1 302 Found\r\nSet-Cookie: n={number}\r\nLocation: /{number}\r\nContent-Length: 0\r\n\r\n"
            peer.send(moved.encode())
        elif f"Cookie: n={number}\r\n".encode() in request:
            peer.send(f"HTTP/1.1 {number} Mine\r\nContent-Length: {number}\r\n\r\n".encode() + b"a" * int(number))

    numbers = [*range(200, 300), *range(400, 500)]
    random.Random(1).shuffle(numbers)  # the order is no secret
    with (
        Server(handle) as plain,
        Server(handle, tls(ca.issue_cert("127.0.0.1"))) as secure,
        ThreadPoolExecutor(50) as pool,
    ):
        urls = [(plain, secure)[number % 2].url(f"/{number}x") for number in numbers]
        results = list(pool.map(lambda url: probe(prober, url, timeout=20.0), urls))
    assert [(result.status, result.hops[-1].body_bytes) for result in results] == [
        (n, 0 if n == 204 else n) for n in numbers
    ]
    assert [result.hops[0].url for result in results] == urls
    assert {result.failure for result in results} == {None, FailureReason.UNEXPECTED_STATUS}


def test_a_location_that_only_libcurl_refuses(prober: Prober) -> None:
    """A redirect to a host that cannot be one is the target's fault, not ours."""
    with Server(redirects("http://foo!bar/")) as server:
        result = probe(prober, server.url())
    assert (result.outcome, result.failure) == (Outcome.FAILURE, FailureReason.REDIRECT_INVALID)


def test_an_overlong_location(prober: Prober) -> None:
    """A redirect to a URL of more than 64 KiB is not followed, and not kept."""
    with Server(redirects("/" + "a" * 70_000)) as server:
        result = probe(prober, server.url())
    assert (result.failure, len(result.hops)) == (FailureReason.REDIRECT_INVALID, 1)
