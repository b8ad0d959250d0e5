"""A loopback server that takes OTLP over HTTP, or misbehaves as it is told, and what came in as plain records."""

import contextlib
import gzip
import http.server
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from processes import Samples, wait_for

_DECODERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}
Series = tuple[str, frozenset[tuple[str, str]]]
"""Name and labels."""

_VARYING = ("url_monitor.schedule_lag", "url_monitor.phase.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span as it came in.

    Attributes:
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        parent_id: 16 hex digits, empty for a root.
        start: Unix nanoseconds.
        end: Unix nanoseconds.
        status: empty, ERROR or ERROR and its description.
        extras: events, links, and what was dropped, all together.
        resource: who made it.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start: int
    end: int
    attributes: Mapping[str, Any]
    status: str
    extras: int
    resource: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A data point as it came in; for a histogram `value` is the sum.

    Attributes:
        buckets: counts of a histogram's buckets, not cumulated.
        exemplars: (trace id, span id, value).
    """

    name: str
    unit: str
    attributes: Mapping[str, Any]
    value: float
    buckets: tuple[int, ...] = ()
    exemplars: tuple[tuple[str, str, float], ...] = ()
    resource: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Received:
    """A request, whatever became of it.

    Attributes:
        headers: names in lower case.
        message: decoded.
        is_taken: whether the answer is that all was taken.
    """

    path: str
    headers: Mapping[str, str]
    message: Any
    is_taken: bool = False


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection; `answer` decides what is sent back."""

    protocol_version = "HTTP/1.1"
    sink: "Sink"
    received: Received

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received = self.sink.take(self, body)
        self.sink.answers.get(self.path, self.sink.answer)(self)

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A complete answer."""
        self.send_response(status)
        for name, value in {"Content-Type": "application/x-protobuf", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


Answer = Callable[[Handler], None]


def accept(handler: Handler) -> None:
    """Everything was taken."""
    handler.received.is_taken = True
    handler.reply(200)


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    """That status, body and headers; `_` in a header's name is a dash."""
    return lambda handler: handler.reply(status, body, **headers)


def rejects(count: int) -> Answer:
    """All but so many spans or data points were taken."""

    def answer(handler: Handler) -> None:
        if handler.path.endswith("traces"):
            spans = ExportTraceServiceResponse()
            spans.partial_success.rejected_spans = count
            handler.reply(200, spans.SerializeToString())
        else:
            points = ExportMetricsServiceResponse()
            points.partial_success.rejected_data_points = count
            handler.reply(200, points.SerializeToString())

    return answer


def hang(handler: Handler) -> None:
    """No answer, until the sink is closed."""
    handler.sink.closed.wait()
    handler.close_connection = True


def drip(handler: Handler) -> None:
    """A byte of a header every second, until the sink is closed."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Filler: ")
    while not handler.sink.closed.wait(1.0):
        handler.wfile.write(b"x")
    handler.close_connection = True


def break_off(handler: Handler) -> None:
    """Half an answer."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    handler.close_connection = True


def in_turn(*answers: Answer) -> Answer:
    """The next of them each time, the last from then on."""
    left = list(answers)

    def answer(handler: Handler) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler)

    return answer


class Sink:
    """A server for `/v1/traces` and `/v1/metrics` on a free port.

    Args:
        tls: for a server that speaks TLS.
        answer: how every request is answered.

    Attributes:
        answers: the same for one path.
        requests: all that came in, in order.
        closed: set when it is over; who hangs waits for it.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, answer: Answer = accept) -> None:
        self.answer = answer
        self.answers: dict[str, Answer] = {}
        self.requests: list[Received] = []
        self.closed = threading.Event()

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that gives up, or is stopped, leaves its connections broken."""

        self._server = Server(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"sink": self}))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._server.server_port
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def take(self, handler: Handler, body: bytes) -> Received:
        """Keep a request."""
        data = _DECODERS[handler.headers.get("Content-Encoding", "")](body)
        kind = ExportTraceServiceRequest if "traces" in handler.path else ExportMetricsServiceRequest
        headers = {name.lower(): value for name, value in handler.headers.items()}
        received = Received(path=handler.path, headers=headers, message=kind.FromString(data))
        self.requests.append(received)
        return received

    def requests_to(self, path: str) -> list[Received]:
        """What came in under exactly that path."""
        return [request for request in self.requests if request.path == path]

    @property
    def spans(self) -> list[Span]:
        """All spans that were taken, whichever path they came by."""
        return [span for request in self.requests if request.is_taken for span in _spans(request.message)]

    def traces(self, root: str = "") -> list[list[Span]]:
        """The traces that were taken, in the order of their roots' arrival; of one root's name when it is given."""
        found: dict[str, list[Span]] = {}
        for span in self.spans:
            found.setdefault(span.trace_id, []).append(span)
        return [
            trace for trace in found.values() if any(not span.parent_id and root in ("", span.name) for span in trace)
        ]

    def wait_for_trace(self, root: str) -> list[Span]:
        """The first trace with a root of that name."""
        return wait_for(lambda: self.traces(root), f"a trace {root}")[0]

    def pushes(self) -> list[list[Point]]:
        """The data points of each request for metrics that was taken, whichever path it came by."""
        taken = [request for request in self.requests if request.is_taken and "metrics" in request.path]
        return [list(_points(request.message)) for request in taken]

    def wait_for_push(self) -> list[Point]:
        """The data points of the next request for metrics."""
        before = len(self.pushes())
        return wait_for(lambda: self.pushes()[before:], "a push of metrics")[0]

    def close(self) -> None:
        """End it; who hangs is let go."""
        self.closed.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def sink(tls: ssl.SSLContext | None = None, answer: Answer = accept) -> Iterator[Sink]:
    """A server that takes OTLP."""
    made = Sink(tls, answer)
    try:
        yield made
    finally:
        made.close()


def _spans(message: Any) -> Iterator[Span]:
    for resource_spans in getattr(message, "resource_spans", ()):
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield _span(span, resource)


def _span(span: SpanMessage, resource: Mapping[str, Any]) -> Span:
    code = Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_").replace("UNSET", "")
    dropped = span.dropped_attributes_count + span.dropped_events_count + span.dropped_links_count
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        status=" ".join(filter(None, (code, span.status.message))),
        extras=len(span.events) + len(span.links) + dropped,
        resource=resource,
    )


def _points(message: Any) -> Iterator[Point]:
    for resource_metrics in message.resource_metrics:
        resource = _attributes(resource_metrics.resource.attributes)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points:
                    yield _point(metric, point, resource)


def _point(metric: Any, point: Any, resource: Mapping[str, Any]) -> Point:
    is_histogram = metric.WhichOneof("data") == "histogram"
    exemplars = [(found.trace_id.hex(), found.span_id.hex(), found.as_double) for found in point.exemplars]
    return Point(
        name=metric.name,
        unit=metric.unit,
        attributes=_attributes(point.attributes),
        value=point.sum if is_histogram else getattr(point, point.WhichOneof("value")),
        buckets=tuple(point.bucket_counts) if is_histogram else (),
        exemplars=tuple(exemplars),
        resource=resource,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def exposed(points: Sequence[Point], rows: Sequence[Any]) -> dict[Series, float]:
    """The points of these rows as the series that the exposition has for them; see `scraped`."""
    by_name = {row.name: row for row in rows}
    found: dict[Series, float] = {}
    for point in points:
        row = by_name.get(point.name)
        labels = {key: str(value) for key, value in point.attributes.items()}
        if row is None:
            continue
        if row.kind != "histogram":
            _add(found, row.exposed, labels, point.value)
            continue
        _add(found, f"{row.exposed}_sum", labels, point.value)
        _add(found, f"{row.exposed}_count", labels, float(sum(point.buckets)))
        for index in range(len(point.buckets)):
            _add(found, f"{row.exposed}_bucket", {**labels, "le": str(index)}, float(sum(point.buckets[: index + 1])))
    return found


def scraped(samples: Samples, rows: Sequence[Any]) -> dict[Series, float]:
    """The series of these rows; a bucket is called by its number, because OTLP has the bounds apart."""
    suffixes = {"histogram": ("_sum", "_count", "_bucket")}
    names = {row.exposed + suffix for row in rows for suffix in suffixes.get(row.kind, ("",))}
    bounds: dict[str, set[float]] = {}
    for name, labels in samples.by_series:
        bounds.setdefault(name, set()).update(float(value) for key, value in labels if key == "le")
    found: dict[Series, float] = {}
    for (name, labels), value in samples.by_series.items():
        if name in names:
            numbers = {str(bound): str(number) for number, bound in enumerate(sorted(bounds[name]))}
            shown = {key: numbers[str(float(text))] if key == "le" else text for key, text in labels}
            _add(found, name, shown, value)
    return found


def _add(found: dict[Series, float], name: str, labels: Mapping[str, str], value: float) -> None:
    series = (name, frozenset(labels.items()))
    assert series not in found, f"{series} came twice"
    found[series] = value


def tree(spans: Sequence[Span], names: Mapping[object, str] | None = None, *, only: Sequence[str] = ()) -> str:
    """One trace as an outline: name, kind, status and attributes of each span, indented below its parent.

    Checked on the way: one trace id, one root, every parent there, no id twice, no events, and every span within its
    parent's time. Numbers that are never the same are shown as `#`.

    Args:
        spans: all of the trace's, in any order.
        names: what is shown instead of a text that is never the same, such as a port.
        only: attributes shown; all of them when it is empty.
    """
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans), "a span id appears twice"
    assert len({span.trace_id for span in spans}) == 1, "more than one trace"
    for span in spans:
        assert int(span.trace_id, 16), "a trace id is zero"
        assert int(span.span_id, 16), "a span id is zero"
        assert span.extras == 0, f"{span.name} has events or links, or something was dropped"
        assert span.start <= span.end, f"{span.name} ends before it starts"
        if span.parent_id:
            parent = by_id[span.parent_id]
            if span.kind != "SERVER":  # another process, whose connection may live longer
                assert parent.start <= span.start <= span.end <= parent.end, f"{span.name} is not within {parent.name}"
    (root,) = (span for span in spans if not span.parent_id)
    text = "\n".join(_outline(root, spans, only, ""))
    for shown, name in (names or {}).items():
        text = text.replace(str(shown), name)
    return text + "\n"


def _outline(span: Span, spans: Sequence[Span], only: Sequence[str], indent: str) -> Iterator[str]:
    yield indent + " ".join(filter(None, (span.name, span.kind.replace("INTERNAL", ""), span.status)))
    for key in sorted(span.attributes):
        value = span.attributes[key]
        if key.startswith(_VARYING):
            assert isinstance(value, float), f"{key} is {value!r}"
            assert value >= 0, f"{key} is negative"
        if not only or key in only:
            yield f"{indent}  - {key}: {'#' if key.startswith(_VARYING) else repr(value)}"
    children = [child for child in spans if child.parent_id == span.span_id]
    # Phases have microseconds, and two may begin in the same one; another process goes by itself, and comes last.
    for child in sorted(children, key=lambda child: (child.kind == "SERVER", child.start, child.end)):
        yield from _outline(child, spans, only, indent + "  ")
