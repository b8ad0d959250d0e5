"""What servers do wrong, one row each, and the reason, status and time of the probe that meets it."""

import socket
import ssl
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import servers
from otel_url_monitor.model import Limits, ProbeResult, Request, Target, Tls
from otel_url_monitor.prober import Prober
from servers import OK, Handler, Peer, Server, Wrap, answers, in_turn, redirects

SHORT = 0.5
"""Seconds given to a server that will use them up."""

GRACE = 0.25
"""Seconds that a probe may take over its timeout on a busy machine."""

GET, ROOMY, VERIFIED, HEALTHY = Request(), Limits(), Tls(), answers(OK)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to misbehave.

    Attributes:
        reasons: those that are right; several where the network decides which comes.
        status: as recorded, 0 unless a complete header block came.
    """

    name: str
    handler: Handler
    reasons: tuple[str | None, ...]
    status: int
    timeout: float = 5.0
    request: Request = GET
    limits: Limits = ROOMY


def case(name: str, handler: Handler, reason: str | None, status: int, **more: object) -> Case:
    """A row; reasons are separated by `|`."""
    reasons = tuple(reason.split(" | ")) if reason else (None,)
    return Case(name=name, handler=handler, reasons=reasons, status=status, **more)  # type: ignore[arg-type]


def then(data: bytes, last: Callable[[Peer], None]) -> Handler:
    """Reads a request, sends the data, does the last thing and closes."""

    def handle(peer: Peer) -> None:
        peer.read()
        if data:
            peer.send(data)
        last(peer)

    return handle


def at_once(data: bytes) -> Handler:
    """Sends without reading, then waits for the client to leave."""

    def handle(peer: Peer) -> None:
        peer.send(data)
        peer.wait()

    return handle


def floods(data: bytes, piece: bytes) -> Handler:
    """Reads a request, sends the data, and then the piece without end."""
    return then(data, lambda peer: peer.flood(piece))


def drips(data: bytes) -> Handler:
    """Reads a request and sends the data byte by byte, its last one for ever."""

    def handle(peer: Peer) -> None:
        peer.read()
        peer.drip(data)

    return handle


def early(peer: Peer) -> None:
    """Answers before it was asked."""
    peer.send(OK)
    peer.read()


def moved_with_endless_body(peer: Peer) -> None:
    """Redirects once, with a body that never ends."""
    if b"/end" in peer.read():
        peer.send(OK)
    else:
        peer.send(head("Location: /end", status="302 Found"))
        peer.flood(b"a")


def only_path(path: str) -> Handler:
    """Answers requests for this path, and closes on all others."""

    def handle(peer: Peer) -> None:
        if peer.read().split()[1] == path.encode():
            peer.send(OK)

    return handle


def drips_chunks(peer: Peer) -> None:
    """A chunk every tenth of a second."""
    while not peer.is_gone(within=0.1):
        peer.send(b"1\r\na\r\n")


def growing() -> Handler:
    """Redirects to an ever longer path."""

    def handle(peer: Peer) -> None:
        path = peer.read().split()[1].decode()
        peer.send(f"HTTP/1.1 302 Found\r\nLocation: {path}a\r\nContent-Length: 0\r\n\r\n".encode())

    return handle


def head(*fields: str, status: str = "200 OK") -> bytes:
    """A complete header block."""
    return "\r\n".join((f"HTTP/1.1 {status}", *fields, "", "")).encode("latin-1")


CHUNKED = head("Transfer-Encoding: chunked")
LONG = head("Content-Length: 1000")
TIGHT = Limits(headers=64 * 1024)
SMALL = Limits(body=100_000)
TWICE = head("Location: /a", "Location: /a", "Content-Length: 0", status="302 Found")
BOMB = zlib.compress(bytes(4_000_000), wbits=31)

CASES = (
    # Connections.
    case("ok", answers(OK), None, 200),
    case("never_answers", then(b"", Peer.wait), "response_timeout", 0, timeout=SHORT),
    case("close_at_accept", lambda _peer: None, "connection_reset | empty_response", 0),
    case("reset_at_accept", Peer.reset, "connection_reset", 0),
    case("close_after_request", then(b"", lambda _peer: None), "empty_response", 0),
    case("reset_after_request", then(b"", Peer.reset), "connection_reset", 0),
    case("early_response", early, None, 200),
    # Header blocks that stop.
    case("fin_in_status_line", answers(b"HTTP/1.1 20"), "empty_response", 0),
    case("fin_mid_headers", answers(b"HTTP/1.1 200 OK\r\nContent-Le"), "truncated_response", 0),
    case("fin_after_a_header", answers(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"), "truncated_response", 0),
    case("reset_mid_headers", then(b"HTTP/1.1 200 OK\r\nContent-Le", Peer.reset), "connection_reset", 0),
    case("silent_mid_headers", then(b"HTTP/1.1 200 OK\r\nA: b\r\n", Peer.wait), "response_timeout", 0, timeout=SHORT),
    case("status_drip", drips(b"HTTP/1.1 200 OKKKK"), "response_timeout", 0, timeout=SHORT),
    case("header_drip", drips(b"HTTP/1.1 200 OK\r\nX-Drip: a"), "response_timeout", 0, timeout=SHORT),
    # Bodies that stop.
    case("short_body_fin", answers(LONG + b"0123456789"), "truncated_response", 200),
    case("reset_mid_body", then(LONG + b"0123456789", Peer.reset), "connection_reset", 200),
    case("body_silent", then(LONG, Peer.wait), "body_timeout", 200, timeout=SHORT),
    case("body_drip_length", then(LONG, lambda peer: peer.drip(b"aa")), "body_timeout", 200, timeout=SHORT),
    case("body_drip_chunked", then(CHUNKED, drips_chunks), "body_timeout", 200, timeout=SHORT),
    case("chunk_no_terminator", answers(CHUNKED + b"2\r\nok\r\n"), "truncated_response", 200),
    case("chunk_cut", answers(CHUNKED + b"64\r\nok"), "truncated_response", 200),
    case("chunk_size_cut", answers(CHUNKED + b"6"), "truncated_response", 200),
    case("chunk_reset", then(CHUNKED + b"64\r\nok", Peer.reset), "connection_reset", 200),
    # Too much.
    case("body_endless_chunked", floods(CHUNKED, b"4000\r\n" + b"a" * 16384 + b"\r\n"), "body_too_large", 200),
    case("body_endless_plain", floods(head(), b"a" * 4096), "body_too_large", 200),
    case("body_declared_10g", floods(head("Content-Length: 10737418240"), b"a"), "body_too_large", 200),
    case(
        "body_declared_over_limit", then(head("Content-Length: 100001"), Peer.wait), "body_too_large", 200, limits=SMALL
    ),
    case("body_of_the_limit", answers(head("Content-Length: 100000") + b"a" * 100_000), None, 200, limits=SMALL),
    case("body_over_the_limit", answers(head() + b"a" * 100_001), "body_too_large", 200, limits=SMALL),
    case(
        "headers_endless", floods(b"HTTP/1.1 200 OK\r\n", b"X-A: aaaaaaaaaaaaaaaaaaaaaaaaa\r\n"), "header_too_large", 0
    ),
    case("headers_10000x100", answers(head(*[f"X-{n}: {'a' * 90}" for n in range(10_000)])), "header_too_large", 0),
    case("headers_150x100", answers(head(*[f"X-{n}: {'a' * 90}" for n in range(150)], "Content-Length: 0")), None, 200),
    case("header_line_70k", answers(head("X-A: " + "a" * 70_000, "Content-Length: 0")), None, 200),
    case("header_line_70k_tight", answers(head("X-A: " + "a" * 70_000)), "header_too_large", 0, limits=TIGHT),
    case("header_line_10mb", floods(b"HTTP/1.1 200 OK\r\nX-A: ", b"a"), "header_too_large", 0),
    case("100_continue_flood", floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "header_too_large", 0),
    case("103_flood", floods(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), "header_too_large", 0),
    case("trailer_flood", floods(CHUNKED + b"0\r\n", b"X-Trailer: aaaaaaaaaaaaaaaaaaaaa\r\n"), "header_too_large", 200),
    case("empty_lines_first", floods(b"", b"\r\n"), "protocol_error", 0),
    # Not HTTP, or not quite.
    case("not_http_ssh", at_once(b"SSH-2.0-OpenSSH_9.6\r\n"), "protocol_error", 0),
    case("not_http_smtp", answers(b"220 mail ESMTP\r\n"), "protocol_error", 0),
    case("http09_body", answers(b"<html>hello</html>"), "protocol_error", 0),
    case("http_3_without_quic", answers(b"HTTP/3.0 200 OK\r\n\r\n"), None, 200),
    case("header_no_colon", answers(head("this is not a header")), "protocol_error", 0),
    case("header_binary", answers(b"HTTP/1.1 200 OK\r\nX-A: \xff\xfe\x80\r\nContent-Length: 0\r\n\r\n"), None, 200),
    case("header_nul", answers(b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 0\r\n\r\n"), "protocol_error", 0),
    case("header_bare_lf", answers(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"), None, 200),
    case("status_000", answers(head(status="000 Odd")), "protocol_error", 0),
    case("status_text", answers(head(status="abc Odd")), "protocol_error", 0),
    case("status_999", answers(head(status="999 Odd")), "unexpected_status", 999),
    case("status_9999999", answers(head(status="9999999 Odd")), "unexpected_status", 999),
    case("length_conflict", answers(head("Content-Length: 2", "Content-Length: 5") + b"ok"), "protocol_error", 0),
    case("length_negative", answers(head("Content-Length: -2") + b"ok"), "protocol_error", 0),
    case("length_garbage", answers(head("Content-Length: abc") + b"ok"), "protocol_error", 0),
    case("length_overflow", answers(head("Content-Length: 1" + "0" * 26) + b"ok"), "body_too_large", 0),
    case(
        "length_and_chunked", answers(head("Content-Length: 9", "Transfer-Encoding: chunked") + b"0\r\n\r\n"), None, 200
    ),
    case("chunk_bad_hex", answers(CHUNKED + b"zz\r\nok\r\n"), "protocol_error", 200),
    case("chunk_overflow", answers(CHUNKED + b"f" * 20 + b"\r\nok\r\n"), "protocol_error", 200),
    case("chunk_extension", answers(CHUNKED + b"2;a=b\r\nok\r\n0\r\n\r\n"), None, 200),
    case("chunk_extension_endless", floods(CHUNKED + b"2;", b"a"), "body_timeout", 200, timeout=SHORT),
    case(
        "chunk_extension_drip", then(CHUNKED + b"2;", lambda peer: peer.drip(b"aa")), "body_timeout", 200, timeout=SHORT
    ),
    case("coding_of_transfer_unknown", answers(head("Transfer-Encoding: frobnicate")), "protocol_error", 0),
    case(
        "coding_of_transfer_binary",
        answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \xff\x1b[31m\r\n\r\n"),
        "protocol_error",
        0,
    ),
    case("trailer_like_a_status", answers(CHUNKED + b"2\r\nok\r\n0\r\nHTTP/1.1 503: no\r\nA: b\r\n\r\n"), None, 200),
    # Codings that nobody asked for stay as they are.
    case("gzip_is_plain", answers(head("Content-Encoding: gzip", "Content-Length: 5") + b"hello"), None, 200),
    case("gzip_bomb", answers(head("Content-Encoding: gzip") + BOMB), None, 200, limits=SMALL),
    case("coding_unknown", answers(head("Content-Encoding: xyz", "Content-Length: 2") + b"ok"), None, 200),
    # Statuses with rules of their own.
    case("103_then_200", answers(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK), None, 200),
    case("100_then_200", answers(b"HTTP/1.1 100 Continue\r\n\r\n" + OK), None, 200),
    case(
        "103_then_silence", then(b"HTTP/1.1 103 Early Hints\r\n\r\n", Peer.wait), "response_timeout", 0, timeout=SHORT
    ),
    case("103_then_fin", answers(b"HTTP/1.1 103 Early Hints\r\n\r\n"), "empty_response", 0),
    case("101_unasked", then(head(status="101 Switching Protocols"), Peer.wait), "response_timeout", 0, timeout=SHORT),
    case("204_with_body", answers(head("Content-Length: 5", status="204 No Content") + b"hello"), None, 204),
    case("204_declared_10g", answers(head("Content-Length: 10737418240", status="204 No Content")), None, 204),
    case("205", answers(head("Content-Length: 0", status="205 Reset Content")), None, 205),
    case(
        "304_declared_10g",
        answers(head("Content-Length: 10737418240", status="304 Not Modified")),
        "unexpected_status",
        304,
    ),
    case("304", answers(head("Content-Length: 1000", status="304 Not Modified")), "unexpected_status", 304),
    case("head", answers(LONG), None, 200, request=Request(method="HEAD")),
    case("head_of_a_giant", answers(head("Content-Length: 10737418240")), None, 200, request=Request(method="HEAD")),
    case("head_chunked", answers(CHUNKED), None, 200, request=Request(method="HEAD")),
    case("head_with_body", answers(LONG + b"a" * 1000), None, 200, request=Request(method="HEAD")),
    case("extra_after_body", answers(OK + b"HTTP/1.1 500 Smuggled\r\n\r\n"), None, 200),
    case(
        "401_challenge",
        answers(head("WWW-Authenticate: Basic realm=a", "Content-Length: 0", status="401 No")),
        "unexpected_status",
        401,
    ),
    case(
        "401_negotiate",
        answers(head("WWW-Authenticate: Negotiate", "Content-Length: 0", status="401 No")),
        "unexpected_status",
        401,
    ),
    case(
        "503_retry_after",
        answers(head("Retry-After: 99999999", "Content-Length: 0", status="503 No")),
        "unexpected_status",
        503,
    ),
    case("404_body_cut", answers(head("Content-Length: 10", status="404 No") + b"a"), "truncated_response", 404),
    # Redirects.
    case("redirect_self", redirects("/"), "too_many_redirects", 302),
    case("redirect_growing", growing(), "too_many_redirects", 302),
    case("redirect_file", redirects("file:///etc/passwd"), "redirect_blocked", 302),
    case("redirect_gopher", redirects("gopher://127.0.0.1:1/_x"), "redirect_blocked", 302),
    case("redirect_javascript", redirects("javascript:alert(1)"), "redirect_blocked", 302),
    case("redirect_no_host", redirects("https:///nowhere"), "redirect_invalid", 302),
    case("redirect_bad_port", redirects("http://127.0.0.1:99999/"), "redirect_invalid", 302),
    case("redirect_port_0", redirects("http://127.0.0.1:0/"), "redirect_invalid", 302),
    case("redirect_bad_bracket", redirects("http://[::1/"), "redirect_invalid", 302),
    case("redirect_bad_label", redirects("http://*.\u00e4.example/"), "redirect_invalid", 302),
    case("redirect_empty", redirects(""), "unexpected_status", 302),
    case("redirect_no_location", answers(head("Content-Length: 0", status="302 Found")), "unexpected_status", 302),
    case("redirect_1mb_location", redirects("/" + "a" * 1_000_000), "header_too_large", 0),
    case("redirect_60k_location", redirects("/" + "a" * 60_000), "header_too_large", 0, limits=TIGHT),
    case(
        "redirect_body_silent",
        then(head("Location: /", "Content-Length: 9", status="302 Found"), Peer.wait),
        "body_timeout",
        302,
        timeout=SHORT,
    ),
    case(
        "redirect_cut", answers(head("Location: /", "Content-Length: 9", status="302 Found")), "truncated_response", 302
    ),
    case("redirect_empty_endless", floods(head("Location:", status="302 Found"), b"a"), "body_too_large", 302),
    case(
        "redirect_same_twice",
        in_turn(
            answers(head("Location: /a", "Location: /a", "Content-Length: 0", status="302 Found")), only_path("/a")
        ),
        None,
        200,
    ),
    case("redirect_twice", answers(head("Location: /a", "Location: /b", status="302 Found")), "protocol_error", 0),
    case("redirect_endless_body", moved_with_endless_body, None, 200),
    case(
        "redirect_declared_10g",
        answers(head("Location: /a", "Content-Length: 10737418240", status="302 Found") + b"a", OK),
        None,
        200,
    ),
    case(
        "redirect_cookie_odd",
        answers(
            head(
                "Location: /",
                "Set-Cookie: a=b; Expires=Wed, 01 Jan 99999 00:00:00 GMT; Max-Age=" + "9" * 5000,
                "Content-Length: 0",
                status="302 Found",
            ),
            OK,
        ),
        None,
        200,
    ),
)


@dataclass(frozen=True, kw_only=True)
class TlsCase:
    """One way to fail at TLS, or to just pass.

    Attributes:
        wrap: makes the handshake of the server, from the trusted CA and a folder for files.
        certificates: how many are recorded of the chain.
        is_handshaken: whether the handshake is recorded as completed.
    """

    name: str
    wrap: Callable[[trustme.CA, Path], Wrap]
    reasons: tuple[str | None, ...]
    certificates: int = 1
    is_handshaken: bool = False
    handler: Handler = HEALTHY
    timeout: float = 5.0
    tls: Tls = VERIFIED
    status: int = 0
    limits: Limits = ROOMY


def tls_case(name: str, wrap: Callable[[trustme.CA, Path], Wrap], reason: str | None, **more: object) -> TlsCase:
    """A row; reasons are separated by `|`."""
    return TlsCase(name=name, wrap=wrap, reasons=tuple(reason.split(" | ")) if reason else (None,), **more)  # type: ignore[arg-type]


def days(count: float) -> datetime:
    """That many days from now."""
    return datetime.now(UTC) + timedelta(days=count)


def issued(ca: trustme.CA, name: str = "127.0.0.1", **more: object) -> Wrap:
    """A server with a certificate of this CA."""
    return servers.tls(ca.issue_cert(name, **more))  # type: ignore[arg-type]


def without_intermediate(ca: trustme.CA, folder: Path) -> Wrap:
    leaf = ca.create_child_ca().issue_cert("127.0.0.1")
    return servers.own_chain(folder, leaf.cert_chain_pems[0].bytes(), key=leaf.private_key_pem.bytes())


def self_signed(_ca: trustme.CA, folder: Path) -> Wrap:
    key = ec.generate_private_key(ec.SECP256R1())
    return servers.own_chain(folder, servers.certificate_pem("127.0.0.1", key), key=servers.key_pem(key))


def self_signed_chain(_ca: trustme.CA, folder: Path) -> Wrap:
    other = trustme.CA()
    leaf = other.issue_cert("127.0.0.1")
    pems = (leaf.cert_chain_pems[0].bytes(), other.cert_pem.bytes())
    return servers.own_chain(folder, *pems, key=leaf.private_key_pem.bytes())


def weak_key(ca: trustme.CA, folder: Path) -> Wrap:
    key = rsa.generate_private_key(65537, 1024)
    signer = servers.serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
    issuer = x509.load_pem_x509_certificate(ca.cert_pem.bytes()).subject
    pem = servers.certificate_pem("127.0.0.1", key, signer=signer, issuer=issuer)  # type: ignore[arg-type]
    return servers.own_chain(folder, pem, key=servers.key_pem(key))


def only(version: ssl.TLSVersion) -> Callable[[trustme.CA, Path], Wrap]:
    """A server that speaks one version of TLS."""

    def wrap(ca: trustme.CA, _folder: Path) -> Wrap:
        context = servers.server_context()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
        ca.issue_cert("127.0.0.1").configure_cert(context)
        return servers.handshake(context)

    return wrap


def demands_client_certificate(version: ssl.TLSVersion) -> Callable[[trustme.CA, Path], Wrap]:
    """A server for mutual TLS."""

    def wrap(ca: trustme.CA, _folder: Path) -> Wrap:
        context = servers.server_context()
        context.maximum_version = version
        ca.issue_cert("127.0.0.1").configure_cert(context)
        ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return servers.handshake(context)

    return wrap


def plainly(deed: Callable[[socket.socket], object]) -> Callable[[trustme.CA, Path], Wrap]:
    """A server that does this after the client's hello, instead of a handshake."""

    def wrap(_ca: trustme.CA, _folder: Path) -> Wrap:
        def meet(connection: socket.socket) -> socket.socket:
            connection.recv(65536)
            deed(connection)
            raise ConnectionAbortedError

        return meet

    return wrap


def drip_record(connection: socket.socket) -> None:
    Peer(connection, []).drip(b"\x16\x03\x03\x40\x00\x02\x00")


def reset(connection: socket.socket) -> None:
    Peer(connection, []).reset()


def wait(connection: socket.socket) -> None:
    Peer(connection, []).wait()


def many_names(ca: trustme.CA, _folder: Path) -> Wrap:
    return servers.tls(ca.issue_cert("127.0.0.1", *[f"host-{n}.example.org" for n in range(1500)]))


def h2(ca: trustme.CA, _folder: Path) -> Wrap:
    return servers.tls(ca.issue_cert("127.0.0.1"), protocols=("h2",))


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame (RFC 9113 section 4.1)."""
    return len(payload).to_bytes(3, "big") + struct.pack(">BBL", kind, flags, stream) + payload


DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS = 1, 4
H2_200 = frame(SETTINGS) + frame(HEADERS, END_HEADERS, 1, b"\x88")


def h2_says(data: bytes, *last: Callable[[Peer], object]) -> Handler:
    """Sends the frames once the client's request has come, does the last thing, and waits for the client to leave."""

    def handle(peer: Peer) -> None:
        while b"*/*" not in peer.connection.recv(65536):
            pass
        peer.send(data)
        for deed in last:
            deed(peer)
        peer.wait()

    return handle


MTLS_12 = "tls_handshake_error"
MTLS_13 = "tls_client_cert_required | connection_reset"

TLS_CASES = (
    tls_case("trusted", lambda ca, _: issued(ca), None, is_handshaken=True, status=200),
    tls_case(
        "intermediate", lambda ca, _: issued(ca.create_child_ca()), None, certificates=2, is_handshaken=True, status=200
    ),
    tls_case("many_names", many_names, None, is_handshaken=True, status=200),
    tls_case("expired", lambda ca, _: issued(ca, not_before=days(-9), not_after=days(-1)), "tls_expired"),
    tls_case("not_yet_valid", lambda ca, _: issued(ca, not_before=days(1), not_after=days(9)), "tls_not_yet_valid"),
    tls_case("wrong_host", lambda ca, _: issued(ca, "other.example"), "tls_hostname_mismatch"),
    tls_case("self_signed", self_signed, "tls_self_signed"),
    tls_case("self_signed_in_chain", self_signed_chain, "tls_self_signed", certificates=2),
    tls_case("untrusted_root", lambda _ca, _: issued(trustme.CA()), "tls_untrusted"),
    tls_case("incomplete_chain", without_intermediate, "tls_untrusted"),
    tls_case("weak_key", weak_key, "tls_weak_certificate"),
    tls_case("tls_1_0", only(ssl.TLSVersion.TLSv1), "tls_handshake_error", certificates=0),
    tls_case("tls_1_1", only(ssl.TLSVersion.TLSv1_1), "tls_handshake_error", certificates=0),
    tls_case("tls_1_2", only(ssl.TLSVersion.TLSv1_2), None, is_handshaken=True, status=200),
    tls_case("client_certificate_1_2", demands_client_certificate(ssl.TLSVersion.TLSv1_2), MTLS_12, certificates=0),
    tls_case(
        "client_certificate_1_3",
        demands_client_certificate(ssl.TLSVersion.TLSv1_3),
        MTLS_13,
        certificates=2,
        is_handshaken=True,
    ),
    tls_case(
        "unknown_name_alert",
        plainly(lambda c: c.sendall(b"\x15\x03\x03\0\2\2\x70")),
        "tls_handshake_error",
        certificates=0,
    ),
    tls_case("silent", plainly(wait), "tls_timeout", certificates=0, timeout=SHORT),
    tls_case("drip", plainly(drip_record), "tls_timeout", certificates=0, timeout=SHORT),
    tls_case(
        "plain_http",
        plainly(lambda c: c.sendall(head(status="400 Bad Request"))),
        "tls_handshake_error",
        certificates=0,
    ),
    tls_case("close_at_hello", plainly(lambda _: None), "tls_handshake_error", certificates=0),
    tls_case("reset_at_hello", plainly(reset), "tls_handshake_error", certificates=0),
    tls_case(
        "silent_after",
        lambda ca, _: issued(ca),
        "response_timeout",
        handler=then(b"", Peer.wait),
        is_handshaken=True,
        timeout=SHORT,
    ),
    tls_case(
        "close_after", lambda ca, _: issued(ca), "empty_response", handler=then(b"", lambda _: None), is_handshaken=True
    ),
    tls_case(
        "reset_after", lambda ca, _: issued(ca), "connection_reset", handler=then(b"", Peer.reset), is_handshaken=True
    ),
    tls_case(
        "cut_body",
        lambda ca, _: issued(ca),
        "truncated_response",
        handler=answers(LONG),
        is_handshaken=True,
        status=200,
    ),
    tls_case(
        "close_without_notify",
        lambda ca, _: issued(ca),
        "truncated_response",
        handler=answers(head() + b"ok"),
        is_handshaken=True,
        status=200,
    ),
    tls_case(
        "unverified_expired",
        lambda ca, _: issued(ca, not_before=days(-9), not_after=days(-1)),
        None,
        tls=Tls(verify=False),
        is_handshaken=True,
        status=200,
    ),
    tls_case(
        "h2_ok", h2, None, handler=h2_says(H2_200 + frame(DATA, END_STREAM, 1, b"ok")), is_handshaken=True, status=200
    ),
    tls_case(
        "h2_goaway",
        h2,
        "protocol_error",
        handler=h2_says(frame(SETTINGS) + frame(GOAWAY, payload=bytes(7) + b"\x0b")),
        is_handshaken=True,
    ),
    tls_case(
        "h2_rst_stream",
        h2,
        "protocol_error",
        handler=h2_says(frame(SETTINGS) + frame(RST_STREAM, 0, 1, bytes(3) + b"\x08")),
        is_handshaken=True,
    ),
    tls_case("h2_silent", h2, "response_timeout", handler=Peer.wait, is_handshaken=True, timeout=SHORT),
    tls_case(
        "h2_settings_only", h2, "response_timeout", handler=h2_says(frame(SETTINGS)), is_handshaken=True, timeout=SHORT
    ),
    tls_case(
        "h2_ping_flood",
        h2,
        "protocol_error",
        handler=h2_says(frame(SETTINGS), lambda p: p.flood(frame(PING, payload=bytes(8)))),
        is_handshaken=True,
    ),
    tls_case(
        "h2_continuation_flood",
        h2,
        "protocol_error",
        handler=h2_says(
            frame(SETTINGS) + frame(HEADERS, 0, 1, b"\x88"), lambda p: p.flood(frame(CONTINUATION, 0, 1, b"\x40\1a\1b"))
        ),
        is_handshaken=True,
    ),
    tls_case(
        "h2_endless",
        h2,
        "body_too_large",
        handler=h2_says(H2_200, lambda p: p.flood(frame(DATA, 0, 1, b"a" * 10_000))),
        limits=Limits(body=50_000),
        is_handshaken=True,
        status=200,
    ),
    tls_case("h2_garbage", h2, "protocol_error", handler=h2_says(b"HTTP/1.1 200 OK\r\n\r\n" * 20), is_handshaken=True),
    tls_case(
        "h2_data_first",
        h2,
        "protocol_error",
        handler=h2_says(frame(SETTINGS) + frame(DATA, 0, 1, b"ok")),
        is_handshaken=True,
    ),
    tls_case(
        "h2_cut",
        h2,
        "truncated_response",
        handler=h2_says(H2_200 + frame(DATA, 0, 1, b"ok"), lambda p: p.connection.shutdown(socket.SHUT_WR)),
        is_handshaken=True,
        status=200,
    ),
)


@pytest.fixture(scope="module")
def prober(ca_file: Path) -> Prober:
    """One for all rows, so that every row also meets what the row before left behind."""
    return Prober(ca_file)


def probe(prober: Prober, target: Target) -> tuple[ProbeResult, float]:
    """The result, and the seconds it took."""
    started = time.perf_counter()
    result = prober(target)
    return result, time.perf_counter() - started


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_misbehaving_server(prober: Prober, row: Case) -> None:
    """Whatever a server does, its probe ends in time and says what was wrong."""
    with Server(row.handler) as server:
        target = Target(
            url=server.url(), display_url=row.name, timeout=row.timeout, request=row.request, limits=row.limits
        )
        result, seconds = probe(prober, target)
    assert result.failure in row.reasons, result.detail
    assert result.status == row.status
    assert seconds <= row.timeout + GRACE


@pytest.mark.parametrize("row", TLS_CASES, ids=lambda row: row.name)
def test_misbehaving_tls_server(prober: Prober, ca: trustme.CA, tmp_path: Path, row: TlsCase) -> None:
    """Whatever goes wrong with TLS has a name, and the certificates that were shown are recorded."""
    with Server(row.handler, row.wrap(ca, tmp_path)) as server:
        target = Target(url=server.url(), display_url=row.name, timeout=row.timeout, tls=row.tls, limits=row.limits)
        result, seconds = probe(prober, target)
    hop = result.hops[0]
    assert result.failure in row.reasons, result.detail
    assert (result.status, len(hop.chain), hop.phases.tls is not None) == (
        row.status,
        row.certificates,
        row.is_handshaken,
    )
    assert hop.verified == (row.is_handshaken and row.tls.verify)
    assert hop.phases.connect is not None
    assert seconds <= row.timeout + GRACE
