"""Built-in loopback targets, one for each thing a target can do: a monitor to look at without any network."""

import http.server
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from otel_url_monitor.model import Target, Tls

_CERTIFICATE = Path(__file__).with_name("expired.pem")
"""A certificate for localhost that ended in 2021, and its key, public on purpose: it protects nothing."""

_HTTP_PORT, _HTTPS_PORT = 5014, 5015
_FLAP_SECONDS = 20
_SLOW_SECONDS = 1.0
_INTERVAL = 5.0
_TIMEOUT = 3.0


@contextmanager
def demo_targets() -> Iterator[tuple[Target, ...]]:
    """Targets that are served on loopback for as long as the context lasts."""
    plain = _server(_HTTP_PORT)
    secure = _server(_HTTPS_PORT)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_CERTIFICATE)
    # The handshake is made in the connection's thread, not in accept(): one silent client must not stop the rest.
    secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
    for server in (plain, secure):
        threading.Thread(target=server.serve_forever, args=(0.05,), name="demo", daemon=True).start()
    try:
        yield _targets(plain.server_port, secure.server_port)
    finally:
        for server in (plain, secure):
            server.shutdown()
            server.server_close()


def flapping_status(now: float) -> int:
    """What the flapping target answers at a time in Unix seconds: 200 and 503 by turns, 20 s each."""
    return 503 if now // _FLAP_SECONDS % 2 else 200


def _targets(http_port: int, https_port: int) -> tuple[Target, ...]:
    paths = ("200", "503", "slow", "redirect", "flapping")
    secure = f"https://127.0.0.1:{https_port}/expired-certificate"
    return (
        *(_target(f"http://127.0.0.1:{http_port}/{path}") for path in paths),
        _target(secure, Tls(ca_file=_CERTIFICATE)),
        _target("http://unknown.invalid/"),
    )


def _target(url: str, tls: Tls | None = None) -> Target:
    return Target(url=url, display_url=url, interval=_INTERVAL, timeout=_TIMEOUT, tls=tls or Tls())


def _server(port: int) -> http.server.ThreadingHTTPServer:
    """On the usual port, so that the URLs are the same each time, or on any other when it is taken."""
    try:
        return _Server(("127.0.0.1", port), _Handler)
    except OSError:
        return _Server(("127.0.0.1", 0), _Handler)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that refuses our expired certificate is what the demo is about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        match self.path:
            case "/503":
                self._answer(503)
            case "/slow":
                time.sleep(_SLOW_SECONDS)
                self._answer(200)
            case "/redirect":
                self._answer(302, location="/200")
            case "/flapping":
                self._answer(flapping_status(time.time()))
            case _:
                self._answer(200)

    def _answer(self, status: int, location: str | None = None) -> None:
        body = f"{status}\n".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the monitor's own log is what matters."""
