"""The nouns: what is probed, what came of it, and the closed list of reasons for a failure.

Every duration is in seconds (float), every timestamp in Unix seconds, every size in bytes. All records
are immutable and therefore safe to share between threads; they cross the process border by pickling.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote_plus, urlsplit, urlunsplit

DEFAULT_INTERVAL = 15.0
DEFAULT_TIMEOUT = 5.0

_SECRET_KEY = re.compile(
    r"(?:.*[_-])?(?:token|key|api_key|apikey|secret|password|passwd|pwd|sig|signature|auth|access_token)",
    re.IGNORECASE | re.DOTALL,
)


def origin(url: str) -> tuple[str, str | None, int]:
    """Scheme, host and port (RFC 6454)."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def is_literal_address(url: str) -> bool:
    """Whether the URL's host is an address, so that no name is resolved."""
    host = urlsplit(url).hostname or ""
    return ":" in host or host.replace(".", "").isdigit()


def mask_url(url: str) -> str:
    """The form of a URL that may be shown: no credentials, no fragment, secret query values as `REDACTED`."""
    parts = urlsplit(url)
    query = "&".join(_mask_parameter(parameter) for parameter in parts.query.split("&"))
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


def _mask_parameter(parameter: str) -> str:
    key, equals, value = parameter.partition("=")
    return f"{key}=REDACTED" if equals and value and _SECRET_KEY.fullmatch(unquote_plus(key)) else parameter


class FailureClass(StrEnum):
    """The stage that failed: the coarse half of the taxonomy, made for alerts."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    HTTP = "http"
    REDIRECT = "redirect"
    CONTENT = "content"
    POLICY = "policy"
    INTERNAL = "internal"
    OTHER = "other"


class FailureReason(StrEnum):
    """Why a probe failed: a closed set, because it becomes a label value and a span's `error.type`.

    Attributes:
        failure_class: the stage the reason belongs to.
    """

    failure_class: FailureClass

    def __new__(cls, value: str, failure_class: FailureClass) -> "FailureReason":
        """A member made of its value and its class."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.failure_class = failure_class
        return member

    DNS_ERROR = "dns_error", FailureClass.DNS
    DNS_TIMEOUT = "dns_timeout", FailureClass.DNS

    CONNECTION_REFUSED = "connection_refused", FailureClass.CONNECT
    CONNECT_TIMEOUT = "connect_timeout", FailureClass.CONNECT
    NETWORK_UNREACHABLE = "network_unreachable", FailureClass.CONNECT
    CONNECT_ERROR = "connect_error", FailureClass.CONNECT
    PROXY_ERROR = "proxy_error", FailureClass.CONNECT
    CONNECTION_RESET = "connection_reset", FailureClass.CONNECT

    TLS_EXPIRED = "tls_expired", FailureClass.TLS
    TLS_NOT_YET_VALID = "tls_not_yet_valid", FailureClass.TLS
    TLS_HOSTNAME_MISMATCH = "tls_hostname_mismatch", FailureClass.TLS
    TLS_SELF_SIGNED = "tls_self_signed", FailureClass.TLS
    TLS_UNTRUSTED = "tls_untrusted", FailureClass.TLS
    TLS_REVOKED = "tls_revoked", FailureClass.TLS
    TLS_WEAK_CERTIFICATE = "tls_weak_certificate", FailureClass.TLS
    TLS_VERIFY_ERROR = "tls_verify_error", FailureClass.TLS
    TLS_CLIENT_CERT_REQUIRED = "tls_client_cert_required", FailureClass.TLS
    TLS_HANDSHAKE_ERROR = "tls_handshake_error", FailureClass.TLS
    TLS_TIMEOUT = "tls_timeout", FailureClass.TLS
    TLS_VERSION_TOO_OLD = "tls_version_too_old", FailureClass.TLS
    TLS_REQUIRED = "tls_required", FailureClass.TLS
    TLS_FORBIDDEN = "tls_forbidden", FailureClass.TLS
    CERTIFICATE_EXPIRES_SOON = "certificate_expires_soon", FailureClass.TLS

    RESPONSE_TIMEOUT = "response_timeout", FailureClass.HTTP
    BODY_TIMEOUT = "body_timeout", FailureClass.HTTP
    EMPTY_RESPONSE = "empty_response", FailureClass.HTTP
    TRUNCATED_RESPONSE = "truncated_response", FailureClass.HTTP
    PROTOCOL_ERROR = "protocol_error", FailureClass.HTTP
    HEADER_TOO_LARGE = "header_too_large", FailureClass.HTTP
    BODY_TOO_LARGE = "body_too_large", FailureClass.HTTP
    DECODE_ERROR = "decode_error", FailureClass.HTTP

    TOO_MANY_REDIRECTS = "too_many_redirects", FailureClass.REDIRECT
    REDIRECT_BLOCKED = "redirect_blocked", FailureClass.REDIRECT
    REDIRECT_INVALID = "redirect_invalid", FailureClass.REDIRECT

    UNEXPECTED_STATUS = "unexpected_status", FailureClass.CONTENT
    BODY_MISMATCH = "body_mismatch", FailureClass.CONTENT
    HEADER_MISMATCH = "header_mismatch", FailureClass.CONTENT
    JSON_MISMATCH = "json_mismatch", FailureClass.CONTENT
    HTTP_VERSION_MISMATCH = "http_version_mismatch", FailureClass.CONTENT
    RESPONSE_TOO_SMALL = "response_too_small", FailureClass.CONTENT
    TOO_SLOW = "too_slow", FailureClass.CONTENT

    BLOCKED_ADDRESS = "blocked_address", FailureClass.POLICY

    LOCAL_RESOURCE = "local_resource", FailureClass.INTERNAL
    CONFIG_ERROR = "config_error", FailureClass.INTERNAL
    INTERNAL_ERROR = "internal_error", FailureClass.INTERNAL
    CANCELED = "canceled", FailureClass.INTERNAL

    OTHER = "_OTHER", FailureClass.OTHER


class MetricsLevel(StrEnum):
    """How much is exposed of each target; every level includes the ones before it."""

    MINIMAL = "minimal"
    STANDARD = "standard"
    FULL = "full"

    def includes(self, other: "MetricsLevel") -> bool:
        """Whether what belongs to `other` is exposed at this level."""
        levels = list(MetricsLevel)
        return levels.index(other) <= levels.index(self)


class Outcome(StrEnum):
    """The verdict of one probe. *Unknown* means that we ran short of something, not that the target failed."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNKNOWN = "unknown"


class SkipReason(StrEnum):
    """Why a due probe was not made (or not finished)."""

    OVERRUN = "overrun"
    SATURATED = "saturated"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicAuth:
    """HTTP basic authentication (RFC 7617); exactly one of the two sources of the password is given."""

    username: str
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BearerToken:
    """A bearer token (RFC 6750) that is read from a file and read again when the file changes."""

    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent.

    Attributes:
        headers: (name, value) pairs in the order they are sent; values may be secrets.
        body: the bytes sent, `None` without a body.
        body_file: a file whose content is the body, read again when it changes; excludes `body`.
        max_redirects: how many redirects are followed before the probe fails.
    """

    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes | None = field(default=None, repr=False)
    body_file: Path | None = None
    auth: BasicAuth | BearerToken | None = None
    follow_redirects: bool = True
    max_redirects: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How the server's certificate is judged.

    Attributes:
        ca_file: PEM file that replaces the default trust for this target; `None` for the default.
        server_name: the name sent as SNI and required in the certificate; `None` for the URL's host.
    """

    verify: bool = True
    ca_file: Path | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What the response must be.

    Attributes:
        status: inclusive ranges of accepted final status codes.
    """

    status: tuple[tuple[int, int], ...] = ((200, 299),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many bytes one probe takes from a target before it gives up.

    Attributes:
        headers: bytes of header blocks over all hops, interim responses and trailers included.
        body: bytes of decoded body over all hops.
    """

    headers: int = 256 * 1024
    body: int = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePolicy:
    """What a trace shows, and which traces are kept: failures and changes of state in any case.

    Attributes:
        phases: whether the phases of a hop are spans of their own, attributes otherwise.
        keep_slower_than: seconds; a probe that took longer is kept.
        success_ratio: how much of all the rest is kept, 0 to 1.
    """

    phases: bool = True
    keep_slower_than: float = 2.0
    success_ratio: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Target:
    """One thing to probe, complete: all defaults are merged in, so nobody later asks "or the default?".

    Attributes:
        url: the URL that is requested; may hold secret query values.
        display_url: the same with secret query values masked: the `url` label, the only form that is shown.
        labels: the user's labels, sorted by name.
        interval: seconds between two probes.
        timeout: seconds for the whole probe, redirects included.
        propagate: whether a traced probe says so to the target (`traceparent`).
    """

    url: str = field(repr=False)
    display_url: str
    labels: tuple[tuple[str, str], ...] = ()
    interval: float = DEFAULT_INTERVAL
    timeout: float = DEFAULT_TIMEOUT
    request: Request = Request()
    tls: Tls = Tls()
    expect: Expect = Expect()
    limits: Limits = Limits()
    propagate: bool = True

    @cached_property
    def id(self) -> str:
        """16 hex digits of a hash over the identity (display URL and labels): stable over restarts."""
        identity = "\0".join((self.display_url, *(part for label in self.labels for part in label)))
        return hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Seconds spent in each part of an exchange, on libcurl's clock; `None` when it did not happen.

    The names are blackbox_exporter's. `processing` runs from the ready connection to the first byte of the
    response, the sending of the request included.
    """

    resolve: float | None = None
    connect: float | None = None
    tls: float | None = None
    processing: float | None = None
    transfer: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate of the chain the server showed, facts only.

    Attributes:
        not_before: Unix seconds.
        not_after: Unix seconds.
        sha256: fingerprint, 64 hex digits.
        names: subject alternative names, as printed by OpenSSL.
    """

    subject: str
    issuer: str
    serial: str
    not_before: float
    not_after: float
    sha256: str
    names: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One request of a probe and what came back.

    Attributes:
        url: where it went, masked as `Target.display_url` is.
        status: final status code, 0 when no complete header block came.
        completed: whether the whole response was received.
        started_at: Unix seconds.
        duration: seconds from start to end, on libcurl's clock.
        sending: seconds of the processing phase until the request was sent, known also when no byte came back.
        address: the peer's IP address, `None` when no connection was made.
        http_version: 1.0, 1.1, 2.0 or 3.0; 0.0 when no response came.
        content_length: as the server named it, -1 when it named none.
        body_bytes: bytes of body received, after decoding.
        last_modified: the Last-Modified header in Unix seconds, `None` when absent or unreadable.
        chain: the certificates the server showed, leaf first; also when verification failed.
        verified: whether the chain was verified.
        tls_version: such as `TLSv1.3`; `None` without TLS or when not asked for.
        tls_cipher: such as `TLS_AES_256_GCM_SHA384`; `None` likewise.
    """

    url: str
    status: int = 0
    completed: bool = False
    started_at: float = 0.0
    duration: float = 0.0
    phases: Phases = Phases()
    sending: float | None = None
    address: str | None = None
    http_version: float = 0.0
    content_length: int = -1
    body_bytes: int = 0
    last_modified: float | None = None
    is_tls: bool = False
    chain: tuple[Certificate, ...] = ()
    verified: bool = False
    tls_version: str | None = None
    tls_cipher: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What one probe of one target found.

    Attributes:
        target_id: `Target.id`.
        started_at: Unix seconds.
        duration: seconds, the exchanges of all hops together.
        hops: every request made, in order; empty when none was.
        checks: (check, passed) for each configured check, in the order they were judged; empty when no
            complete response came to be judged.
        failure: `None` exactly when the probe succeeded.
        detail: words for log and page, never a label; holds no secret.
        trace_id: 32 hex digits when the probe was traced and the trace is kept.
        span_id: 16 hex digits, the trace's root span.
    """

    target_id: str
    started_at: float
    duration: float
    hops: tuple[Hop, ...] = ()
    checks: tuple[tuple[str, bool], ...] = ()
    failure: FailureReason | None = None
    detail: str = ""
    trace_id: str | None = None
    span_id: str | None = None

    @property
    def outcome(self) -> Outcome:
        """The verdict that follows from `failure`; the two cannot disagree."""
        if self.failure is None:
            return Outcome.SUCCESS
        if self.failure.failure_class is FailureClass.INTERNAL:
            return Outcome.UNKNOWN
        return Outcome.FAILURE

    @property
    def status(self) -> int:
        """The final status code, 0 when no final response came."""
        return self.hops[-1].status if self.hops else 0


Probe = Callable[[Target, float], ProbeResult]
"""One probe of one target, so many seconds after it was due. Network trouble is a value, never an exception.
Called from many threads."""
