"""From what libcurl says of a failed transfer to a `FailureReason`: a pure function of the evidence."""

import errno
from dataclasses import dataclass

from otel_url_monitor.model import FailureReason as Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a transfer that libcurl ended with an error.

    Attributes:
        code: CURLcode. The codes 92 to 101 have no names in pycurl, so all are numbers here
            (https://curl.se/libcurl/c/libcurl-errors.html).
        text: libcurl's message; holds the host's name at most, never path or query.
        os_errno: `CURLINFO_OS_ERRNO`; stale but with codes 7 and 56.
        verify_result: OpenSSL's X509_V_ERR number; means something with code 60 only.
        has_resolved, has_connected, has_handshake: whether that stage was completed.
        has_begun: whether anything of a response came.
        has_headers: whether the final response's header block was complete.
        is_short: whether this process had run out of descriptors or threads.
    """

    code: int
    text: str = ""
    os_errno: int = 0
    verify_result: int = 0
    is_tls: bool = False
    has_resolved: bool = True
    has_connected: bool = True
    has_handshake: bool = True
    has_begun: bool = True
    has_headers: bool = False
    is_short: bool = False


_BY_CODE = {
    1: Reason.PROTOCOL_ERROR,  # HTTP/0.9, or a status line that is none
    3: Reason.CONFIG_ERROR,
    4: Reason.CONFIG_ERROR,
    5: Reason.PROXY_ERROR,
    6: Reason.DNS_ERROR,
    8: Reason.PROTOCOL_ERROR,
    16: Reason.PROTOCOL_ERROR,
    18: Reason.TRUNCATED_RESPONSE,
    27: Reason.LOCAL_RESOURCE,
    35: Reason.TLS_HANDSHAKE_ERROR,
    42: Reason.CANCELED,
    43: Reason.CONFIG_ERROR,
    48: Reason.CONFIG_ERROR,
    52: Reason.EMPTY_RESPONSE,
    53: Reason.CONFIG_ERROR,
    54: Reason.CONFIG_ERROR,
    58: Reason.CONFIG_ERROR,
    59: Reason.TLS_HANDSHAKE_ERROR,
    63: Reason.BODY_TOO_LARGE,
    64: Reason.TLS_HANDSHAKE_ERROR,
    66: Reason.CONFIG_ERROR,
    77: Reason.CONFIG_ERROR,
    80: Reason.TLS_HANDSHAKE_ERROR,
    82: Reason.CONFIG_ERROR,
    83: Reason.TLS_HANDSHAKE_ERROR,
    90: Reason.TLS_VERIFY_ERROR,
    91: Reason.TLS_REVOKED,
    92: Reason.PROTOCOL_ERROR,
    95: Reason.PROTOCOL_ERROR,
    96: Reason.PROTOCOL_ERROR,
    97: Reason.PROXY_ERROR,
    98: Reason.TLS_CLIENT_CERT_REQUIRED,
    100: Reason.HEADER_TOO_LARGE,
}

_BY_CONNECT_ERRNO = {
    errno.ECONNREFUSED: Reason.CONNECTION_REFUSED,
    errno.ECONNRESET: Reason.CONNECTION_RESET,  # before libcurl, on a busy machine, saw that it was connected
    errno.ETIMEDOUT: Reason.CONNECT_TIMEOUT,
    errno.ENETDOWN: Reason.NETWORK_UNREACHABLE,
    errno.ENETUNREACH: Reason.NETWORK_UNREACHABLE,
    errno.EHOSTDOWN: Reason.NETWORK_UNREACHABLE,
    errno.EHOSTUNREACH: Reason.NETWORK_UNREACHABLE,
    # Ours: 0 is what libcurl leaves when it gets no descriptor for a socket.
    0: Reason.LOCAL_RESOURCE,
    errno.ENOMEM: Reason.LOCAL_RESOURCE,
    errno.ENFILE: Reason.LOCAL_RESOURCE,
    errno.EMFILE: Reason.LOCAL_RESOURCE,
    errno.EADDRNOTAVAIL: Reason.LOCAL_RESOURCE,
    errno.ENOBUFS: Reason.LOCAL_RESOURCE,
}

# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_BY_VERIFY_RESULT = {
    **dict.fromkeys((2, 20, 21, 22, 24, 25, 26, 27, 28), Reason.TLS_UNTRUSTED),
    9: Reason.TLS_NOT_YET_VALID,
    10: Reason.TLS_EXPIRED,
    18: Reason.TLS_SELF_SIGNED,
    19: Reason.TLS_SELF_SIGNED,
    23: Reason.TLS_REVOKED,
    62: Reason.TLS_HOSTNAME_MISMATCH,
    64: Reason.TLS_HOSTNAME_MISMATCH,
    **dict.fromkeys((66, 67, 68), Reason.TLS_WEAK_CERTIFICATE),
}

_CLIENT_CERTIFICATE = ("certificate required", "bad certificate")


def classify(evidence: Evidence) -> Reason:
    """The reason for a failed transfer; `_OTHER` for a code that is not in the tables, and nothing else is."""
    match evidence.code:
        case 6 | 28 | 77 if evidence.is_short:
            return Reason.LOCAL_RESOURCE
        case 7:
            return _BY_CONNECT_ERRNO.get(evidence.os_errno, Reason.CONNECT_ERROR)
        case 28:
            return _timed_out(evidence)
        case 35 if _mentions(evidence.text, *_CLIENT_CERTIFICATE):
            return Reason.TLS_CLIENT_CERT_REQUIRED
        case 55 | 56:
            return _broken_off(evidence)
        case 60:
            return _not_verified(evidence)
        case 61:
            return Reason.PROTOCOL_ERROR if _mentions(evidence.text, "transfer") else Reason.DECODE_ERROR
        case _:
            return _BY_CODE.get(evidence.code, Reason.OTHER)


def _timed_out(evidence: Evidence) -> Reason:
    if not evidence.has_connected:
        unresolved = not evidence.has_resolved or _mentions(evidence.text, "resolving timed out")
        return Reason.DNS_TIMEOUT if unresolved else Reason.CONNECT_TIMEOUT
    if evidence.is_tls and not evidence.has_handshake:
        return Reason.TLS_TIMEOUT
    return Reason.BODY_TIMEOUT if evidence.has_headers else Reason.RESPONSE_TIMEOUT


def _broken_off(evidence: Evidence) -> Reason:
    text = evidence.text
    if _mentions(text, *_CLIENT_CERTIFICATE):
        return Reason.TLS_CLIENT_CERT_REQUIRED
    if _mentions(text, "too large response headers"):
        return Reason.HEADER_TOO_LARGE
    if _mentions(text, "unexpected eof"):  # TLS without its closing message
        return Reason.TRUNCATED_RESPONSE if evidence.has_begun else Reason.EMPTY_RESPONSE
    # The errno may be another attempt's (111 left by ::1), so only "reset" itself is believed.
    if evidence.os_errno == errno.ECONNRESET or _mentions(text, "connection reset", "reset by peer"):
        return Reason.CONNECTION_RESET
    if _mentions(text, "chunk", "nghttp2", "http/2", "malformed", "invalid"):
        return Reason.PROTOCOL_ERROR
    return Reason.CONNECTION_RESET


def _not_verified(evidence: Evidence) -> Reason:
    # libcurl checks the name itself when OpenSSL found nothing wrong, and then leaves 0 or 1 as the result.
    if _mentions(evidence.text, "subject name", "host name", "hostname"):
        return Reason.TLS_HOSTNAME_MISMATCH
    return _BY_VERIFY_RESULT.get(evidence.verify_result, Reason.TLS_VERIFY_ERROR)


def _mentions(text: str, *words: str) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in words)
