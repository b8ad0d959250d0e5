"""Routes: what is answered at which path."""

from collections.abc import Awaitable, Callable, Sequence

from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from otel_url_monitor import __version__
from otel_url_monitor.exposition import Exposition, Format
from otel_url_monitor.results import Results

_CHUNK = 64 * 1024
"""Bytes handed to a connection at a time: a slow reader of a large exposition holds no more than this."""


def create_app(
    exposition: Exposition,
    results: Results,
    complaints: Callable[[], Sequence[str]],
    is_ready: Callable[[], bool],
    reload: Callable[[], Awaitable[Sequence[str]]],
) -> Starlette:
    """The application.

    Args:
        exposition: what `/metrics` serves.
        results: what the page counts.
        complaints: what is wrong with us now, in words; empty when all is well.
        is_ready: whether the configuration is loaded and we are not about to stop.
        reload: loads the configuration anew; what is wrong with it, in words, empty when it is in force.
    """
    templates = Environment(loader=PackageLoader("otel_url_monitor.web"), autoescape=select_autoescape())
    page = templates.get_template("index.html")

    async def metrics(request: Request) -> Response:
        wanted = negotiate(request.headers.get("accept", ""), request.headers.get("accept-encoding", ""))
        exposition.seen(request.client.host if request.client else "", wanted)
        body = exposition.ready(wanted)
        if body is None:
            body = await run_in_threadpool(exposition.get, wanted)
        return _ExpositionResponse(body, wanted)

    async def healthy(_request: Request) -> Response:
        found = complaints()
        return PlainTextResponse("\n".join(found or ["healthy"]) + "\n", status_code=503 if found else 200)

    async def ready(_request: Request) -> Response:
        return PlainTextResponse("ready\n") if is_ready() else PlainTextResponse("not ready\n", status_code=503)

    async def reloaded(_request: Request) -> Response:
        faults = await reload()
        return PlainTextResponse("\n".join(faults or ["reloaded"]) + "\n", status_code=500 if faults else 200)

    async def index(_request: Request) -> Response:
        states = results.snapshot()
        probed = sum(state.latest is not None for state in states)
        return HTMLResponse(page.render(version=__version__, targets=len(states), probed=probed))

    return Starlette(
        routes=[
            Route("/", index),
            Route("/metrics", metrics),
            Route("/-/healthy", healthy),
            Route("/-/ready", ready),
            Route("/-/reload", reloaded, methods=["POST"]),
        ]
    )


def negotiate(accept: str, accept_encoding: str) -> Format:
    """The format a scraper asks for: OpenMetrics 1.0 when it prefers that to text, gzip when it takes it."""
    types, encodings = _qualities(accept), _qualities(accept_encoding)
    openmetrics = types.get("application/openmetrics-text", 0.0)
    text = types.get("text/plain", types.get("text/*", types.get("*/*", 0.0)))
    return Format(
        openmetrics=openmetrics > 0 and openmetrics >= text,
        compressed=encodings.get("gzip", encodings.get("*", 0.0)) > 0,
    )


def _qualities(header: str) -> dict[str, float]:
    """The quality of each member of the list, parameters aside: of several versions the best one."""
    found: dict[str, float] = {}
    for part in header.split(","):
        name = part.partition(";")[0].strip().lower()
        found[name] = max(_quality(part), found.get(name, 0.0))
    return found


def _quality(part: str) -> float:
    """The `q` of a list member (RFC 9110 section 12.4.2), 1 when absent and 0 when unreadable."""
    for parameter in part.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


class _ExpositionResponse(Response):
    """Sends a body in pieces, so that the server never buffers the whole of it for a slow reader."""

    def __init__(self, body: bytes, wanted: Format) -> None:
        headers = {"Content-Type": wanted.content_type, "Vary": "Accept, Accept-Encoding"}
        if wanted.compressed:
            headers["Content-Encoding"] = "gzip"
        super().__init__(body, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the ASGI signature
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = memoryview(self.body)
        if scope["method"] != "HEAD":
            for begin in range(0, len(body), _CHUNK):
                await send(
                    {"type": "http.response.body", "body": bytes(body[begin : begin + _CHUNK]), "more_body": True}
                )
        await send({"type": "http.response.body", "body": b"", "more_body": False})
