"""requests' transport adapter over libcurl: one exchange on a fresh connection, measured by libcurl's clock."""

import os
import time
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pycurl
import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from otel_url_monitor.model import FailureReason, Hop, Phases, Tls, is_literal_address, mask_url
from otel_url_monitor.transport.certificates import parse_chain
from otel_url_monitor.transport.classification import Evidence, classify
from otel_url_monitor.transport.cookies import cookie_message
from otel_url_monitor.transport.receiver import Budget, Receiver
from otel_url_monitor.transport.shortage import is_short, unreadable

QUICK_EXIT = 322
"""CURLOPTQUICK_EXIT, which pycurl has no name for: without it, closing a handle waits for a dead resolver."""

_MAX_HANDLES = 8
"""Handles kept per thread, one for each CA file; each holds its parsed store (1 to 2 MB for 150 roots) and two
descriptors."""

_GROUPS = "X25519:P-256:P-384:P-521:X25519MLKEM768"
"""OpenSSL's own order begins with the hybrid group, for which it makes a key in vain where the server does not
know it: 70 to 80 us of 760 per handshake. A server that insists on it still gets it."""

_HTTP_VERSIONS = {
    pycurl.CURL_HTTP_VERSION_1_0: 1.0,
    pycurl.CURL_HTTP_VERSION_1_1: 1.1,
    pycurl.CURL_HTTP_VERSION_2_0: 2.0,
    pycurl.CURL_HTTP_VERSION_3: 3.0,
}


class CurlResponse(requests.Response):
    """A response whose body was counted and dropped.

    Attributes:
        hop: what was measured.
    """

    hop: Hop


class TransportError(requests.ConnectionError):
    """An exchange that did not complete.

    Attributes:
        hop: what was measured until then.
        reason: why it failed.
        detail: libcurl's words; they hold the host's name at most.
        code: CURLcode, 0 when libcurl itself found nothing wrong.
    """

    def __init__(self, hop: Hop, reason: FailureReason, detail: str, code: int = 0) -> None:
        super().__init__(reason.value)
        self.hop = hop
        self.reason = reason
        self.detail = detail
        self.code = code


class ProbeSession(requests.Session):
    """A session that only sends: no environment, no default headers, no redirects. Used by one thread."""

    def __init__(self, adapter: BaseAdapter) -> None:
        super().__init__()
        self.trust_env = False
        self.headers.clear()
        self.adapters.clear()
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - the base class's signature
        """Nowhere: the prober walks redirects itself; requests would raise on a malformed one."""
        return None


class CurlAdapter(BaseAdapter):
    """Sends one request on a connection of its own. Used by one thread.

    Handles are kept, one for each CA file, because libcurl caches the parsed store in the handle: an HTTPS
    probe costs 1.1 ms of CPU with a kept handle and 6.7 ms with a fresh one (150 roots).

    Args:
        ca_file: PEM file of the roots trusted by default.
    """

    def __init__(self, ca_file: Path) -> None:
        super().__init__()
        self._ca_file = ca_file
        self._handles: dict[Path | None, tuple[pycurl.Curl, tuple[int, int, int] | None]] = {}

    def send(  # type: ignore[override]  # takes what Session.send passes through, and ignores requests' own limits
        self,
        request: requests.PreparedRequest,
        *,
        budget: Budget,
        tls: Tls,
        follows: bool,
        tls_facts: bool = False,
        **_: Any,
    ) -> CurlResponse:
        """One exchange.

        Args:
            request: complete; nothing is added but `Host`, and `Content-Length` for a body.
            budget: charged with what is received; the exchange ends at its deadline.
            tls: how the certificate is judged.
            follows: whether the caller will follow a redirect, so that its body is not waited for.
            tls_facts: whether protocol version and cipher are read too (from libcurl's log, 10 us a probe).

        Raises:
            TransportError: whatever went wrong on the way.
        """
        is_tls = (request.url or "").startswith("https:")
        receiver = Receiver(budget, stops_at_redirect=follows)
        try:
            curl = self._handle(tls if is_tls else None)
        except OSError as error:
            hop = Hop(url=mask_url(request.url or ""), is_tls=is_tls)
            detail = f"cannot read {error.filename}: {error.strerror}"
            raise TransportError(hop, unreadable(error), detail) from None
        log = _TlsLog() if is_tls and tls_facts else None
        _prepare(curl, request, receiver, budget)
        if is_tls:
            _prepare_tls(curl, request, tls, tls.ca_file or self._ca_file, log)
        started_at = time.time()
        code, text = _perform(curl)
        if receiver.is_redirect and code in (pycurl.E_WRITE_ERROR, pycurl.E_FILESIZE_EXCEEDED):
            code = 0
        hop = _measure(curl, request, receiver, started_at, tls=tls if is_tls else None, code=code, log=log)
        if code != 0 or not receiver.is_complete:
            raise TransportError(hop, _reason(curl, receiver, hop, code, text), _words(receiver, text), code)
        return _response(request, receiver, hop)

    def close(self) -> None:
        """Free the handles."""
        for curl, _ in self._handles.values():
            curl.close()
        self._handles.clear()

    def _handle(self, tls: Tls | None) -> pycurl.Curl:
        """A clean handle; without TLS, or when nothing is verified, the default one will do."""
        if tls is None or not tls.verify:
            return self._kept(None, None)
        # libcurl keeps a parsed store for a day: a file that changed gets a new handle.
        stat = (tls.ca_file or self._ca_file).stat()
        return self._kept(tls.ca_file, (stat.st_mtime_ns, stat.st_ino, stat.st_size))

    def _kept(self, ca_file: Path | None, version: tuple[int, int, int] | None) -> pycurl.Curl:
        curl, loaded = self._handles.pop(ca_file, (None, None))
        if curl is not None and version and loaded not in (None, version):
            curl.close()
            curl = None
        if curl is None:
            if len(self._handles) >= _MAX_HANDLES:
                self._handles.pop(next(iter(self._handles)))[0].close()
            curl = pycurl.Curl()
        self._handles[ca_file] = (curl, version or loaded)
        curl.reset()
        return curl


def _prepare(curl: pycurl.Curl, request: requests.PreparedRequest, receiver: Receiver, budget: Budget) -> None:
    remaining = max(1, int((budget.deadline - time.perf_counter()) * 1000))
    for option, value in (
        (pycurl.URL, request.url),
        (pycurl.NOSIGNAL, 1),
        (QUICK_EXIT, 1),
        (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
        (pycurl.PROXY, ""),  # libcurl would read the environment
        (pycurl.PATH_AS_IS, 1),
        (pycurl.FRESH_CONNECT, 1),
        (pycurl.FORBID_REUSE, 1),
        (pycurl.DNS_CACHE_TIMEOUT, 0),  # a cached name would hide a broken resolver
        (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS),
        (pycurl.HTTP_CONTENT_DECODING, 0),
        (pycurl.BUFFERSIZE, 16384),
        (pycurl.TIMEOUT_MS, remaining),
        (pycurl.CONNECTTIMEOUT_MS, remaining),
        (pycurl.MAXFILESIZE_LARGE, max(1, budget.body)),
        (pycurl.OPT_FILETIME, 1),
        (pycurl.HEADERFUNCTION, receiver.take_header),
        (pycurl.WRITEFUNCTION, receiver.take_body),
        (pycurl.HTTPHEADER, _header_lines(request)),
    ):
        curl.setopt(option, value)
    _prepare_method(curl, request)


def _prepare_method(curl: pycurl.Curl, request: requests.PreparedRequest) -> None:
    if _has_content(request):
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        curl.setopt(pycurl.POSTFIELDSIZE_LARGE, len(body))
        curl.setopt(pycurl.POSTFIELDS, body)
    if request.method == "HEAD":
        curl.setopt(pycurl.NOBODY, 1)
        curl.setopt(pycurl.MAXFILESIZE_LARGE, 0)  # libcurl would judge the length of a body that does not come
    elif request.method != "GET" or request.body:
        curl.setopt(pycurl.CUSTOMREQUEST, request.method)


def _has_content(request: requests.PreparedRequest) -> bool:
    """Whether `Content-Length` is sent: for these methods also when it is 0 (RFC 9110 section 8.6)."""
    return bool(request.body) or request.method in ("POST", "PUT", "PATCH")


def _header_lines(request: requests.PreparedRequest) -> list[bytes]:
    """The header list for libcurl, which sends `Name;` as an empty header and takes `Name:` as "leave it out"."""
    lines = [b"Accept:", b"User-Agent:", b"Expect:"] + ([b"Content-Type:"] if _has_content(request) else [])
    given = []
    for name, value in request.headers.items():
        if name.lower() != "content-length":
            field = name.encode("latin-1") if isinstance(name, str) else name
            text = value.encode("latin-1") if isinstance(value, str) else value
            given.append(field + b": " + text if text else field + b";")
    names = {line.partition(b":")[0].rstrip(b";").lower() for line in given}
    return [line for line in lines if line[:-1].lower() not in names] + given


def _prepare_tls(
    curl: pycurl.Curl, request: requests.PreparedRequest, tls: Tls, ca_file: Path, log: "_TlsLog | None"
) -> None:
    curl.setopt(pycurl.OPT_CERTINFO, 1)
    curl.setopt(pycurl.SSL_SESSIONID_CACHE, 0)  # every probe makes the whole handshake
    curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
    curl.setopt(pycurl.SSL_EC_CURVES, _GROUPS)
    if tls.verify:
        curl.setopt(pycurl.CAINFO, os.fsencode(ca_file))  # pycurl takes text for ASCII
    else:
        curl.setopt(pycurl.SSL_VERIFYPEER, 0)
        curl.setopt(pycurl.SSL_VERIFYHOST, 0)
    if tls.server_name:
        _pretend_host(curl, request, tls.server_name)
    if log is not None:
        curl.setopt(pycurl.VERBOSE, 1)
        curl.setopt(pycurl.DEBUGFUNCTION, log.take)


def _pretend_host(curl: pycurl.Curl, request: requests.PreparedRequest, server_name: str) -> None:
    """Send another name as SNI and verify it: libcurl takes both from the URL, so connect elsewhere instead."""
    parts = urlsplit(request.url or "")
    port = parts.port or 443
    host = parts.netloc.rpartition(":")[0] if parts.port else parts.netloc
    curl.setopt(pycurl.URL, parts._replace(netloc=f"{server_name}:{port}").geturl())
    curl.setopt(pycurl.CONNECT_TO, [f"{server_name}:{port}:{host}:{port}"])
    if "host" not in request.headers:
        curl.setopt(pycurl.HTTPHEADER, [*_header_lines(request), b"Host: " + parts.netloc.encode("latin-1")])


def _perform(curl: pycurl.Curl) -> tuple[int, str]:
    try:
        curl.perform()
    except pycurl.error as error:
        code, text = error.args
        return code, "".join(character if character.isprintable() else "?" for character in text)
    return 0, ""


def _words(receiver: Receiver, text: str) -> str:
    if receiver.overflow is not None:
        part = "header" if receiver.overflow is FailureReason.HEADER_TOO_LARGE else "body"
        return f"more {part} bytes than the target's limit"
    return text or "incomplete header block"


def _measure(
    curl: pycurl.Curl,
    request: requests.PreparedRequest,
    receiver: Receiver,
    started_at: float,
    *,
    tls: Tls | None,
    code: int,
    log: "_TlsLog | None",
) -> Hop:
    url = request.url or ""
    has_headers = receiver.is_complete
    filetime = curl.getinfo(pycurl.INFO_FILETIME) if has_headers else -1
    chain = parse_chain(curl.getinfo_raw(pycurl.INFO_CERTINFO)) if tls else ()
    return Hop(
        url=mask_url(url),
        status=receiver.status if has_headers else 0,
        completed=code == 0 and has_headers,
        started_at=started_at,
        duration=curl.getinfo(pycurl.TOTAL_TIME_T) / 1e6,
        phases=_phases(curl, receiver, is_literal=is_literal_address(url), is_tls=tls is not None),
        sending=_sending(curl, is_tls=tls is not None),
        address=curl.getinfo(pycurl.PRIMARY_IP) or None,
        http_version=_HTTP_VERSIONS.get(curl.getinfo(pycurl.INFO_HTTP_VERSION), 0.0) if has_headers else 0.0,
        content_length=curl.getinfo(pycurl.CONTENT_LENGTH_DOWNLOAD_T) if has_headers else -1,
        body_bytes=receiver.body_bytes,
        last_modified=float(filetime) if filetime >= 0 else None,
        is_tls=tls is not None,
        chain=chain,
        verified=tls is not None and tls.verify and curl.getinfo(pycurl.APPCONNECT_TIME_T) > 0,
        tls_version=log.version if log else None,
        tls_cipher=log.cipher if log else None,
    )


def _phases(curl: pycurl.Curl, receiver: Receiver, *, is_literal: bool, is_tls: bool) -> Phases:
    """Differences of libcurl's timers, all of which count from the start; the phases add up to the total."""
    resolved = 0 if is_literal else curl.getinfo(pycurl.NAMELOOKUP_TIME_T)
    connected = curl.getinfo(pycurl.CONNECT_TIME_T)
    secured = curl.getinfo(pycurl.APPCONNECT_TIME_T) if is_tls else connected
    # STARTTRANSFER is also set when connecting fails: a status line is the proof of a first byte.
    started = curl.getinfo(pycurl.STARTTRANSFER_TIME_T) if receiver.status else 0
    total = curl.getinfo(pycurl.TOTAL_TIME_T)
    return Phases(
        resolve=resolved / 1e6 if resolved else None,
        connect=_seconds(resolved, connected),
        tls=_seconds(connected, secured) if is_tls else None,
        processing=_seconds(secured, started) if secured else None,
        transfer=_seconds(started, total) if started and receiver.is_complete else None,
    )


def _sending(curl: pycurl.Curl, *, is_tls: bool) -> float | None:
    ready = curl.getinfo(pycurl.APPCONNECT_TIME_T if is_tls else pycurl.CONNECT_TIME_T)
    return _seconds(ready, curl.getinfo(pycurl.POSTTRANSFER_TIME_T)) if ready else None


def _seconds(begin: int, end: int) -> float | None:
    return max(0, end - begin) / 1e6 if end else None


def _reason(curl: pycurl.Curl, receiver: Receiver, hop: Hop, code: int, text: str) -> FailureReason:
    if receiver.overflow is not None:
        return receiver.overflow
    if code == 0:
        return FailureReason.TRUNCATED_RESPONSE
    has_resolved = hop.phases.resolve is not None or is_literal_address(hop.url)
    return classify(
        Evidence(
            code=code,
            text=text,
            os_errno=curl.getinfo(pycurl.OS_ERRNO),
            verify_result=curl.getinfo(pycurl.SSL_VERIFYRESULT),
            is_tls=hop.is_tls,
            has_resolved=has_resolved,
            has_connected=hop.phases.connect is not None,
            has_handshake=hop.phases.tls is not None,
            has_begun=receiver.status != 0,
            has_headers=receiver.is_complete,
            is_short=(code == pycurl.E_SSL_CACERT_BADFILE or not has_resolved) and is_short(),
        )
    )


def _response(request: requests.PreparedRequest, receiver: Receiver, hop: Hop) -> CurlResponse:
    fields = receiver.headers()
    response = CurlResponse()
    response.hop = hop
    response.request = request
    response.url = request.url or ""
    response.status_code = hop.status
    response.reason = HTTPStatus(hop.status).phrase if hop.status in HTTPStatus._value2member_map_ else ""
    response.headers = _joined(fields)
    if receiver.is_redirect and "set-cookie" in response.headers:  # nobody else asks for cookies
        response.raw = SimpleNamespace(_original_response=cookie_message(fields))
    response._content = b""  # noqa: SLF001 - how requests itself marks a body as read
    response._content_consumed = True  # type: ignore[attr-defined]  # noqa: SLF001
    return response


def _joined(fields: Iterable[tuple[str, str]]) -> CaseInsensitiveDict[str]:
    """Repeated fields joined by a comma (RFC 9110 section 5.3); libcurl refuses two `Location` that differ."""
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name.lower(), []).append(value)
    return CaseInsensitiveDict(
        {name: given[0] if name == "location" else ", ".join(given) for name, given in values.items()}
    )


class _TlsLog:
    """Takes the protocol version and cipher out of libcurl's log; no `getinfo` has them."""

    __slots__ = ("cipher", "version")

    def __init__(self) -> None:
        self.version: str | None = None
        self.cipher: str | None = None

    def take(self, kind: int, text: bytes) -> None:
        if kind == pycurl.INFOTYPE_TEXT and text.startswith(b"SSL connection using "):
            words = text.decode("ascii", "replace").removeprefix("SSL connection using ").split(" / ")
            self.version = words[0].strip()
            self.cipher = words[1].strip() if len(words) > 1 else None
