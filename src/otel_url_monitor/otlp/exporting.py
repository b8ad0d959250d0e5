"""The stock exporters over libcurl: a total deadline for each request, a redirect is a failure, every loss counts."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.json_format import Parse, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.exporter.http.transport._base import BaseHTTPResult, BaseHTTPTransport
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.metrics.export import MetricExporter

from otel_url_monitor.otlp.environment import Endpoint
from otel_url_monitor.otlp.losses import Losses
from otel_url_monitor.transport import Poster, PostError, default_ca_file

_logger = logging.getLogger(__name__)

_POINTS_PER_REQUEST = 10_000
"""About 3 MB; a collector takes 20 MiB in one request unless told otherwise."""

_QUIET_SECONDS = 60.0
"""The log is told of trouble once in this time: a collector that is full may refuse every other request."""

_NOISY = ("opentelemetry.exporter.otlp", "opentelemetry.util.re")
"""Loggers that tell of every batch, and of headers by their content; we count, and tell of changes."""


@dataclass(frozen=True, slots=True)
class _Result(BaseHTTPResult):
    fields: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        return b""

    def headers(self) -> Mapping[str, str]:
        return self.fields


class _CurlTransport(BaseHTTPTransport):
    """Takes a request's timeout for the whole exchange; requests' own is for each piece that arrives.

    It is not `requests` that sends, so nothing here is ever traced.

    Args:
        poster: sends.
        limit: seconds; no request takes longer, whatever the wall clock does that the stock client counts by.
        losses: takes what went wrong.
        rejected: how much of the content an answer says was not taken, `None` when the answer is no answer.
    """

    def __init__(self, poster: Poster, limit: float, losses: Losses, rejected: Callable[[bytes], int | None]) -> None:
        self._poster = poster
        self._limit = limit
        self._losses = losses
        self._rejected = rejected
        self._told: int | str | None = None
        self._told_at = float("-inf")

    def request(
        self,
        method: str,  # noqa: ARG002 - always POST
        url: str,
        *,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
        data: bytes | None = None,
    ) -> BaseHTTPResult:
        """Post once."""
        try:
            reply = self._poster.post(url, headers or {}, data or b"", min(timeout or 0.0, self._limit))
        except PostError as error:
            self._complain(f"curl {error.code}", str(error))
            return _Result(error=error)
        if 200 <= reply.status < 300:
            self._judge(self._rejected(reply.body))
            return _Result(reply.status)
        self._complain(reply.status, f"the answer was {reply.status}")
        if reply.status < 400:  # for the stock client a success
            return _Result(error=ValueError("redirected"))
        return _Result(reply.status, fields=reply.headers)

    def is_connection_error(self, exception: Exception | None) -> bool:
        """Whether it is worth another try."""
        return isinstance(exception, PostError)

    def close(self) -> None:
        """Nothing: a request may be under way in another thread."""

    def _judge(self, rejected: int | None) -> None:
        if rejected is None:
            self._complain("answer", "the answer is not OTLP's")
        elif rejected > 0:
            self._complain("part", "the collector rejects a part")
        elif self._told is not None:
            self._told = None
            _logger.info("OTLP export works again")

    def _complain(self, kind: int | str, words: str) -> None:
        """Count, and tell once of each kind of trouble: the words of one and the same differ by their times."""
        self._losses.failures += 1
        now = time.monotonic()
        if kind != self._told and now - self._told_at >= _QUIET_SECONDS:
            self._told, self._told_at = kind, now
            _logger.warning("OTLP export fails: %s", words)


def span_sender(endpoint: Endpoint, losses: Losses) -> Callable[[bytes, int], None]:
    """What sends a request with so many spans, or counts them as lost. To be called by one thread."""
    rejected = 0

    def judge(body: bytes) -> int | None:
        nonlocal rejected
        answer = _answer(body, ExportTraceServiceResponse())
        rejected = max(0, answer.partial_success.rejected_spans) if answer is not None else 0
        return rejected if answer is not None else None

    # Its own `export` takes spans of the SDK, whose making and encoding is what is too slow here.
    client = OTLPSpanExporter(**_arguments(endpoint, losses, judge))._client  # noqa: SLF001

    def send(request: bytes, spans: int) -> None:
        is_sent = client.export(request).success
        losses.spans += min(rejected, spans) if is_sent else spans

    return send


def metric_exporter(endpoint: Endpoint, losses: Losses) -> MetricExporter:
    """The stock exporter of metrics."""

    def judge(body: bytes) -> int | None:
        answer = _answer(body, ExportMetricsServiceResponse())
        return max(0, answer.partial_success.rejected_data_points) if answer is not None else None

    return OTLPMetricExporter(max_export_batch_size=_POINTS_PER_REQUEST, **_arguments(endpoint, losses, judge))


def _answer(body: bytes, kind: Any) -> Any:
    """What an answer of this kind says, `None` when it is no such answer; some collectors always write JSON."""
    try:
        if body.lstrip().startswith(b"{"):
            return Parse(body, kind, ignore_unknown_fields=True)
        kind.ParseFromString(body)
    except (DecodeError, ParseError, UnicodeDecodeError):
        return None
    return kind


def _arguments(endpoint: Endpoint, losses: Losses, rejected: Callable[[bytes], int | None]) -> dict[str, Any]:
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ca_file = endpoint.ca_file or default_ca_file(os.environ)
    poster = Poster(ca_file, endpoint.certificate_file, endpoint.key_file)
    return {
        "endpoint": endpoint.url,
        "headers": endpoint.headers,
        "timeout": endpoint.timeout,
        "compression": Compression(endpoint.compression),
        "meter_provider": NoOpMeterProvider(),
        "_transport": _CurlTransport(poster, endpoint.timeout, losses, rejected),
    }
