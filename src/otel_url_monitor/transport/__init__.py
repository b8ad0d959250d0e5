"""A transport adapter for requests over libcurl; the only code that knows pycurl."""

from otel_url_monitor.transport.adapter import CurlAdapter, CurlResponse, ProbeSession, TransportError
from otel_url_monitor.transport.posting import Poster, PostError, Reply
from otel_url_monitor.transport.receiver import Budget
from otel_url_monitor.transport.shortage import unreadable
from otel_url_monitor.transport.trust import default_ca_file

__all__ = [
    "Budget",
    "CurlAdapter",
    "CurlResponse",
    "PostError",
    "Poster",
    "ProbeSession",
    "Reply",
    "TransportError",
    "default_ca_file",
    "unreadable",
]
