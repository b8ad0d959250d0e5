"""Servers on loopback that behave as a test wants them to: one handler, one port, one thread per connection."""

import contextlib
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

Wrap = Callable[[socket.socket], socket.socket]
"""What happens to a connection before HTTP: a TLS handshake."""


class Peer:
    """The server's end of one connection. Used by one thread."""

    def __init__(self, connection: socket.socket, requests: list[bytes]) -> None:
        self.connection = connection
        self._requests = requests

    def read(self) -> bytes:
        """One request, as it came, kept in `Server.requests`; empty when the client left."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.connection.recv(65536)
            if not piece:
                return data
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        while len(body) < int(fields.get(b"content-length", 0)):
            body += self.connection.recv(65536)
        self._requests.append(head + b"\r\n\r\n" + body)
        return self._requests[-1]

    def send(self, data: bytes) -> None:
        """All of it."""
        self.connection.sendall(data)

    def flood(self, piece: bytes, *, at_once: int = 65536) -> None:
        """The piece again and again, as fast as it is taken, until the client leaves."""
        pieces = piece * max(1, at_once // len(piece))
        while True:
            self.send(pieces)

    def drip(self, data: bytes, *, every: float = 0.1) -> None:
        """One byte at a time, the last of them again and again, until the client leaves."""
        position = 0
        while not self.is_gone(within=every):
            self.send(data[position : position + 1])
            position = min(position + 1, len(data) - 1)

    def is_gone(self, *, within: float) -> bool:
        """Whether the client leaves during these seconds; what it sends meanwhile is dropped."""
        self.connection.settimeout(within)
        try:
            return not self.connection.recv(65536)
        except TimeoutError:
            return False
        finally:
            self.connection.settimeout(None)

    def wait(self) -> None:
        """Nothing, until the client leaves."""
        while self.connection.recv(65536):
            pass

    def reset(self) -> None:
        """End the connection by RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


Handler = Callable[[Peer], None]


class Server:
    """A TCP server on 127.0.0.1, from `with` on.

    Args:
        handler: run in a thread for each connection, which is closed when it returns.
        wrap: applied to a connection first; when it fails the connection is closed.

    Attributes:
        requests: what was read so far, in the order of arrival.
        connections: how many were accepted.
        port: where it listens.
    """

    def __init__(self, handler: Handler, wrap: Wrap | None = None) -> None:
        self._handler = handler
        self._wrap = wrap
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self.connections = 0

    def url(self, path: str = "/", *, host: str = "127.0.0.1") -> str:
        """A URL of this server."""
        return f"{'https' if self._wrap else 'http'}://{host}:{self.port}{path}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.add(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            wrapped = self._wrap(connection) if self._wrap else connection
            with wrapped:
                self._handler(Peer(wrapped, self.requests))
        connection.close()
        self._open.discard(connection)


def answers(*responses: bytes) -> Handler:
    """Reads a request, sends the next of the responses (the last one from then on) and closes."""
    left = list(responses)

    def handle(peer: Peer) -> None:
        peer.read()
        peer.send(left.pop(0) if len(left) > 1 else left[0])

    return handle


def redirects(location: str | Callable[[], str], *, status: int = 302, headers: str = "") -> Handler:
    """Reads a request and redirects it."""

    def handle(peer: Peer) -> None:
        peer.read()
        target = location if isinstance(location, str) else location()
        head = f"HTTP/1.1 {status} Moved\r\nLocation: {target}\r\n{headers}Content-Length: 0\r\n\r\n"
        peer.send(head.encode("utf-8"))

    return handle


def in_turn(*handlers: Handler) -> Handler:
    """The next of the handlers for each connection."""
    left = list(handlers)

    def handle(peer: Peer) -> None:
        left.pop(0)(peer)

    return handle


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port that refuses connections, and that nobody else can take meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextlib.contextmanager
def unanswering_port() -> Iterator[int]:
    """A port that drops every SYN, because the backlog of the listener is full."""
    with contextlib.ExitStack() as sockets, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = sockets.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def tls(certificate: trustme.LeafCert, *, client_ca: trustme.CA | None = None, protocols: tuple[str, ...] = ()) -> Wrap:
    """A TLS handshake with this certificate, and with a client certificate demanded when a CA is given."""
    context = server_context()
    certificate.configure_cert(context)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if client_ca is not None:
        client_ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return handshake(context)


def server_context() -> ssl.SSLContext:
    """For servers that show whatever they are given, the weak included."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def handshake(context: ssl.SSLContext) -> Wrap:
    """A TLS handshake on a server's connection."""

    def wrap(connection: socket.socket) -> socket.socket:
        return context.wrap_socket(connection, server_side=True)

    return wrap


def own_chain(folder: Path, *pems: bytes, key: bytes) -> Wrap:
    """A TLS handshake that shows exactly these certificates."""
    path = folder / "chain.pem"
    path.write_bytes(key + b"".join(pems))
    context = server_context()
    context.load_cert_chain(path)
    return handshake(context)


Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def key_pem(key: Key) -> bytes:
    """A private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_pem(
    address: str,
    key: Key,
    *,
    signer: Key | None = None,
    issuer: x509.Name | None = None,
) -> bytes:
    """A certificate for an IP address, self-signed unless a signer is given."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(signer or key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
