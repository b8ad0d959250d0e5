"""What is answered at which path, by driving the application as a server does."""

import asyncio
import gzip
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.applications import Starlette

from factories import Metrics, make_hop, make_result, make_targets
from otel_url_monitor import __version__
from otel_url_monitor.exposition import Exposition, Format, Renderer
from otel_url_monitor.web import create_app
from otel_url_monitor.web.app import negotiate

TEXT, OPENMETRICS = Format(), Format(openmetrics=True)
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6," + PROMETHEUS
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    pieces: Sequence[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


async def ask(app: Starlette, path: str, method: str = "GET", **headers: str) -> Answer:
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw, "query_string": b"", "client": ("::1", 1)}
    await app(scope, receive, send)
    start, *pieces = sent
    assert [piece.get("more_body", False) for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    decoded = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], decoded, [piece["body"] for piece in pieces])


def get(app: Starlette, path: str, method: str = "GET", **headers: str) -> Answer:
    return asyncio.run(ask(app, path, method, **headers))


def make_app(
    metrics: Metrics | None = None,
    renderer: Renderer | None = None,
    complaints: Sequence[str] = (),
    is_ready: bool = True,
    faults: Sequence[str] = (),
) -> Starlette:
    metrics = metrics or Metrics(make_targets(2))
    exposition = Exposition(renderer or metrics.renderer)

    async def reload() -> Sequence[str]:
        return faults

    return create_app(exposition, metrics.results, lambda: complaints, lambda: is_ready, reload)


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        (BROWSER, False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; version=1.0.0", True),
        (PROMETHEUS, True),
        (PROTOBUF, True),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0.2,text/*;q=0.9", False),
        ("application/openmetrics-text;q=0.2,*/*;q=0.9", False),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.1,*/*;q=0.9", True),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.1,*/*;q=0.2",
            True,
        ),
        ("application/openmetrics-text,text/plain", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text; Q=1.0, text/plain; q=0.5", True),
        ("application/openmetrics-text;q=often", False),
        (",;q,,", False),
    ],
)
def test_the_format_follows_the_accept_header(accept: str, openmetrics: bool) -> None:
    """OpenMetrics goes to whoever asks for it and does not prefer text; everybody else gets text."""
    assert negotiate(accept, "") == Format(openmetrics=openmetrics)


@pytest.mark.parametrize(
    ("accept_encoding", "compressed"),
    [
        ("", False),
        ("identity", False),
        ("gzip", True),
        ("GZIP", True),
        ("br, gzip;q=0.5", True),
        ("deflate, br, zstd", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("*", True),
        ("*;q=0", False),
        ("identity, *;q=0.1", True),
    ],
)
def test_compression_follows_the_accept_encoding_header(accept_encoding: str, compressed: bool) -> None:
    """Who takes gzip gets gzip."""
    assert negotiate("", accept_encoding) == Format(compressed=compressed)


def test_metrics_as_text() -> None:
    """A plain request gets the text format, typed as Prometheus knows it."""
    answer = get(make_app(), "/metrics")
    assert answer.status == 200
    assert answer.headers == {
        "content-type": "text/plain; version=0.0.4; charset=utf-8",
        "content-length": str(len(answer.body)),
        "vary": "Accept, Accept-Encoding",
    }
    assert "url_monitor_targets 2.0\n" in answer.body.decode()
    assert len(list(parse_text(answer.body.decode()))) > 10


def test_metrics_as_openmetrics() -> None:
    """Prometheus itself gets OpenMetrics, compressed, and it parses."""
    answer = get(make_app(), "/metrics", accept=PROMETHEUS, accept_encoding="gzip")
    assert answer.headers == {
        "content-type": "application/openmetrics-text; version=1.0.0; charset=utf-8",
        "content-length": str(len(answer.body)),
        "content-encoding": "gzip",
        "vary": "Accept, Accept-Encoding",
    }
    assert len(list(parse_openmetrics(gzip.decompress(answer.body).decode()))) > 10


def test_compression_changes_nothing() -> None:
    """The compressed body is the plain one, compressed."""
    app = make_app(renderer=_Fixed(b"the same bytes"))
    plain, compressed = get(app, "/metrics"), get(app, "/metrics", accept_encoding="gzip")
    assert gzip.decompress(compressed.body) == plain.body == b"the same bytes"


def test_head_has_no_body() -> None:
    """A HEAD request gets the headers alone."""
    app = make_app(renderer=_Fixed(b"x" * 1000))
    answer = get(app, "/metrics", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == "1000"


def test_a_large_body_goes_out_in_pieces() -> None:
    """A slow reader of a large exposition is handed a little at a time."""
    body = bytes(range(256)) * 1000
    answer = get(make_app(renderer=_Fixed(body)), "/metrics")
    assert answer.body == body
    assert max(map(len, answer.pieces)) <= 64 * 1024
    assert len(answer.pieces) > 3


def test_a_slow_render_holds_nothing_up() -> None:
    """While an exposition is rendered, which may take a second, every other request is answered."""
    renderer = _Slow()

    async def scenario() -> None:
        app = make_app(renderer=renderer)
        scrape = asyncio.create_task(ask(app, "/metrics"))
        assert await asyncio.to_thread(renderer.entered.wait, 10)
        for _ in range(3):
            assert (await ask(app, "/-/healthy")).status == 200
        assert not scrape.done()
        renderer.may_go.set()
        assert (await scrape).body == b"slow"

    asyncio.run(scenario())


def test_what_is_ready_is_answered_without_a_thread() -> None:
    """An exposition that was rendered a moment ago is served even while another one is being rendered."""
    renderer = _Slow()
    renderer.may_go.set()

    async def scenario() -> None:
        app = make_app(renderer=renderer)
        await ask(app, "/metrics")
        renderer.may_go.clear()
        renderer.entered.clear()
        scrape = asyncio.create_task(ask(app, "/metrics", accept=PROMETHEUS))
        assert await asyncio.to_thread(renderer.entered.wait, 10)
        assert (await ask(app, "/metrics")).body == b"slow"
        renderer.may_go.set()
        await scrape

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("complaints", "status", "body"),
    [
        ((), 200, b"healthy\n"),
        (("worker 0 has not answered for 20 s",), 503, b"worker 0 has not answered for 20 s\n"),
        (("one", "two"), 503, b"one\ntwo\n"),
    ],
)
def test_health(complaints: Sequence[str], status: int, body: bytes) -> None:
    """Health says what is wrong with the monitor itself, in words, or that nothing is."""
    answer = get(make_app(complaints=complaints), "/-/healthy")
    assert (answer.status, answer.body) == (status, body)


@pytest.mark.parametrize(("is_ready", "status", "body"), [(True, 200, b"ready\n"), (False, 503, b"not ready\n")])
def test_readiness(is_ready: bool, status: int, body: bytes) -> None:
    """Readiness is having a configuration and not being about to stop."""
    answer = get(make_app(is_ready=is_ready), "/-/ready")
    assert (answer.status, answer.body) == (status, body)


def test_the_landing_page_leads_on() -> None:
    """The root page says what is monitored and links to everything else."""
    targets = make_targets(3)
    metrics = Metrics(targets).probed(make_result(targets[0], make_hop()))
    answer = get(make_app(metrics), "/")
    page = answer.body.decode()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert f"otel-url-monitor {__version__}" in page
    assert "3 targets configured, 1 probed so far." in page
    for path in ("/metrics", "/-/healthy", "/-/ready"):
        assert f'<a href="{path}">' in page
        assert get(make_app(metrics), path).status == 200


@pytest.mark.parametrize(("path", "method", "status"), [("/metric", "GET", 404), ("/metrics", "POST", 405)])
def test_anything_else_is_refused(path: str, method: str, status: int) -> None:
    """An unknown path is not found, and nothing here can be changed."""
    assert get(make_app(), path, method).status == status


class _Fixed(Renderer):
    def __init__(self, body: bytes) -> None:
        self._body = body

    def render(self, *, openmetrics: bool) -> bytes:
        return self._body


class _Slow(Renderer):
    """Renders until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.may_go = threading.Event()

    def render(self, *, openmetrics: bool) -> bytes:
        self.entered.set()
        assert self.may_go.wait(10)
        return b"slow"
