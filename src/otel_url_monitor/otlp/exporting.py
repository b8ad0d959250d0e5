"""The stock exporters over libcurl: a total deadline for each request, a redirect is a failure, every loss counts."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.exporter.http.transport._base import BaseHTTPResult, BaseHTTPTransport
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from otel_url_monitor.otlp.environment import Endpoint
from otel_url_monitor.otlp.losses import Losses
from otel_url_monitor.transport import Poster, PostError, default_ca_file

_logger = logging.getLogger(__name__)

_POINTS_PER_REQUEST = 10_000
"""About 3 MB; a collector takes 20 MiB in one request unless told otherwise."""

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
        losses: takes what went wrong.
        rejected: how much of the content an answer says was not taken, `None` when the answer is no answer.
    """

    def __init__(self, poster: Poster, losses: Losses, rejected: Callable[[bytes], int | None]) -> None:
        self._poster = poster
        self._losses = losses
        self._rejected = rejected
        self._complaint = ""

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
            reply = self._poster.post(url, headers or {}, data or b"", timeout or 0.0)
        except PostError as error:
            self._complain(str(error))
            return _Result(error=error)
        if 200 <= reply.status < 300:
            self._judge(self._rejected(reply.body))
            return _Result(reply.status)
        self._complain(f"the answer was {reply.status}")
        if reply.status < 400:  # for the stock client a success
            return _Result(error=ValueError("redirected"))
        return _Result(reply.status, fields=reply.headers)

    def is_connection_error(self, exception: Exception | None) -> bool:
        """Whether it is worth another try."""
        return isinstance(exception, PostError)

    def close(self) -> None:
        """Nothing: a request may be under way in another thread."""

    def _judge(self, rejected: int | None) -> None:
        if rejected == 0:
            if self._complaint:
                self._complaint = ""
                _logger.info("OTLP export works again")
        elif rejected is None:
            self._complain("the answer is not OTLP's")
        else:
            self._complain("the collector rejects a part")

    def _complain(self, why: str) -> None:
        self._losses.failures += 1
        if why != self._complaint:  # once, and not for every batch
            self._complaint = why
            _logger.warning("OTLP export fails: %s", why)


def span_sender(endpoint: Endpoint, losses: Losses) -> Callable[[Sequence[ReadableSpan]], None]:
    """What sends spans, or counts them as lost when that fails. To be called by one thread."""

    def rejected(body: bytes) -> int | None:
        try:
            count = int(ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans)
        except DecodeError:
            return None
        losses.spans += count
        return count

    exporter = OTLPSpanExporter(**_arguments(endpoint, losses, rejected))

    def send(spans: Sequence[ReadableSpan]) -> None:
        if exporter.export(spans) is not SpanExportResult.SUCCESS:
            losses.spans += len(spans)

    return send


def metric_exporter(endpoint: Endpoint, losses: Losses) -> MetricExporter:
    """The stock exporter of metrics."""

    def rejected(body: bytes) -> int | None:
        try:
            return int(ExportMetricsServiceResponse.FromString(body).partial_success.rejected_data_points)
        except DecodeError:
            return None

    return OTLPMetricExporter(max_export_batch_size=_POINTS_PER_REQUEST, **_arguments(endpoint, losses, rejected))


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
        "_transport": _CurlTransport(poster, losses, rejected),
    }
