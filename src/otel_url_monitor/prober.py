"""One probe of one target: its hops, its checks, its classification. Network trouble is a value here."""

import base64
import re
import threading
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import requests
from requests import PreparedRequest
from requests.cookies import RequestsCookieJar

from otel_url_monitor import __version__
from otel_url_monitor.checks import judge
from otel_url_monitor.model import BasicAuth, BearerToken, FailureReason, Hop, ProbeResult, Request, Target, Tls, origin
from otel_url_monitor.transport import Budget, CurlAdapter, CurlResponse, ProbeSession, TransportError, unreadable

_USER_AGENT = f"otel-url-monitor/{__version__}"
_LAST_NEWLINE = re.compile(rb"\r?\n\Z")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_IN_PATH = "!$%&'()*+,/:;=@[]~"
_ASCII = bytes(range(0x80))
_MALFORMED_URL = 3  # CURLE_URL_MALFORMAT
_MAX_LOCATION = 64 * 1024  # to take in 90 kB of escapes cost 0.3 s of the interpreter
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Prober:
    """Makes probes. Thread-safe: each calling thread gets a session, and so libcurl handles, of its own.

    Args:
        ca_file: PEM file of the roots trusted when a target names none.
        tls_facts: whether the TLS version and cipher are recorded (from libcurl's log, 10 us a probe).
    """

    def __init__(self, ca_file: Path, *, tls_facts: bool = False) -> None:
        self._ca_file = ca_file
        self._tls_facts = tls_facts
        self._files = _Files()
        self._own = threading.local()
        self._prepared: dict[str, tuple[Target, PreparedRequest]] = {}

    def __call__(self, target: Target) -> ProbeResult:
        """Probe once; the whole of it, redirects included, ends within the target's timeout."""
        started_at = time.time()
        budget = Budget.starting_at(time.perf_counter(), target.timeout, target.limits)
        hops: list[Hop] = []
        try:
            self._exchange(target, budget, hops)
        except _FailedError as failed:
            return _result(target, started_at, hops, failure=failed.reason, detail=failed.detail)
        verdicts = judge(hops[-1], target.expect)
        failed_check = next((verdict for verdict in verdicts if verdict.failure), None)
        return _result(
            target,
            started_at,
            hops,
            checks=tuple((verdict.check, verdict.failure is None) for verdict in verdicts),
            failure=failed_check.failure if failed_check else None,
            detail=failed_check.detail if failed_check else "",
        )

    def follow(self, target_ids: Collection[str], *, tls_facts: bool) -> None:
        """Record TLS facts or not from now on, and forget what was prepared for all other targets."""
        self._tls_facts = tls_facts
        for known in self._prepared.keys() - target_ids:
            self._prepared.pop(known, None)

    def _exchange(self, target: Target, budget: Budget, hops: list[Hop]) -> None:
        """Walk from the target's URL to the final response, leaving every hop in `hops`."""
        session = self._session()
        session.cookies.clear()
        request, tls = self._first_request(target), target.tls
        while True:
            sent = _with_cookies(request, session.cookies) if session.cookies else request
            options = {
                "budget": budget,
                "tls": tls,
                "follows": target.request.follow_redirects,
                "tls_facts": self._tls_facts,
            }
            response = _send(session, sent, hops, options)
            location = response.headers.get("location")
            if not location or response.status_code not in _REDIRECTS or not target.request.follow_redirects:
                return
            if len(hops) > target.request.max_redirects:
                detail = f"more than {target.request.max_redirects} redirects"
                raise _FailedError(FailureReason.TOO_MANY_REDIRECTS, detail)
            if time.perf_counter() >= budget.deadline:
                raise _FailedError(FailureReason.RESPONSE_TIMEOUT, "no time left to follow the redirect")
            followed = _follow(request, response.status_code, location)
            if origin(followed.url or "") != origin(request.url or "") and not _is_upgrade(request.url, followed.url):
                tls = Tls(verify=tls.verify, ca_file=tls.ca_file)
            request = followed

    def _session(self) -> ProbeSession:
        if not hasattr(self._own, "session"):
            self._own.session = ProbeSession(CurlAdapter(self._ca_file))
        session: ProbeSession = self._own.session
        return session

    def _first_request(self, target: Target) -> PreparedRequest:
        """A copy, because what is sent gets this probe's headers; preparing anew would cost 70 us."""
        kept = self._prepared.get(target.id)
        if kept is None or kept[0] is not target:
            try:
                kept = self._prepared[target.id] = (target, _prepare(target))
            except (ValueError, requests.RequestException):  # their words hold the URL
                raise _FailedError(FailureReason.CONFIG_ERROR, "not a URL that can be requested") from None
        request = kept[1].copy()
        try:
            self._add_secrets(request, target.request)
        except OSError as error:
            raise _FailedError(unreadable(error), f"cannot read {error.filename}: {error.strerror}") from None
        return request

    def _add_secrets(self, request: PreparedRequest, configured: Request) -> None:
        if configured.body_file is not None:
            request.body = self._files.read(configured.body_file)
        match configured.auth:
            case BasicAuth(username=username, password=password, password_file=None):
                request.headers["Authorization"] = _basic(username, (password or "").encode())
            case BasicAuth(username=username, password_file=Path() as path):
                request.headers["Authorization"] = _basic(username, self._files.read(path))
            case BearerToken(file=path):
                request.headers["Authorization"] = _bearer(path, self._files.read(path))


class _FailedError(Exception):
    """A probe that ended before a final response."""

    def __init__(self, reason: FailureReason, detail: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class _Files:
    """Small files, read again when they change. Thread-safe: the worst that a race does is a second read."""

    def __init__(self) -> None:
        self._contents: dict[Path, tuple[tuple[int, int, int], bytes]] = {}

    def read(self, path: Path) -> bytes:
        """The content without one trailing newline.

        Raises:
            OSError: the file cannot be read.
        """
        stat = path.stat()
        version = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        kept = self._contents.get(path)
        if kept is None or kept[0] != version:
            kept = self._contents[path] = (version, _LAST_NEWLINE.sub(b"", path.read_bytes()))
        return kept[1]


def _result(
    target: Target,
    started_at: float,
    hops: Iterable[Hop],
    *,
    checks: tuple[tuple[str, bool], ...] = (),
    failure: FailureReason | None = None,
    detail: str = "",
) -> ProbeResult:
    hops = tuple(hops)
    return ProbeResult(
        target_id=target.id,
        started_at=started_at,
        duration=sum(hop.duration for hop in hops),
        hops=hops,
        checks=checks,
        failure=failure,
        detail=detail,
    )


def _prepare(target: Target) -> PreparedRequest:
    headers = {"User-Agent": _USER_AGENT, "Accept": "*/*"}
    prepared = PreparedRequest()
    prepared.prepare(method=target.request.method, url=target.url, headers=headers)
    prepared.url = _as_written(prepared.url or "", target.url)
    prepared.headers.update(target.request.headers)
    prepared.body = target.request.body
    return prepared


def _as_written(prepared: str, configured: str) -> str:
    """The prepared URL with path and query as configured: requests would take out dot segments and decode."""
    written = urlsplit(configured)
    path, query = quote(written.path or "/", safe=_IN_PATH), quote(written.query, safe=_IN_PATH + "?")
    return urlsplit(prepared)._replace(path=path, query=query).geturl()


def _basic(username: str, password: bytes) -> str:
    return "Basic " + base64.b64encode(username.encode() + b":" + password).decode("ascii")


def _bearer(path: Path, token: bytes) -> str:
    """The header's value; libcurl would send a line break in it as one more header."""
    if _CONTROL.search(token):
        raise _FailedError(FailureReason.CONFIG_ERROR, f"{path} holds more than one line, or control characters")
    return f"Bearer {token.decode('latin-1')}"


def _send(session: ProbeSession, request: PreparedRequest, hops: list[Hop], options: dict[str, Any]) -> CurlResponse:
    """One hop; its record is appended to `hops` whether it succeeds or not."""
    try:
        response: CurlResponse = session.send(request, allow_redirects=False, stream=True, proxies={}, **options)  # type: ignore[assignment]  # our adapter's
    except TransportError as error:
        hops.append(error.hop)
        # What requests lets through and libcurl does not is, behind a redirect, the target's doing.
        is_theirs = error.reason is FailureReason.CONFIG_ERROR and error.code == _MALFORMED_URL and len(hops) > 1
        raise _FailedError(FailureReason.REDIRECT_INVALID if is_theirs else error.reason, error.detail) from None
    hops.append(response.hop)
    return response


def _with_cookies(request: PreparedRequest, jar: RequestsCookieJar) -> PreparedRequest:
    """A copy that also sends what earlier hops of the probe set."""
    sent = request.copy()
    configured = sent.headers.pop("Cookie", "")
    sent.prepare_cookies(jar)
    cookies = "; ".join(filter(None, (configured, sent.headers.get("Cookie"))))
    if cookies:
        sent.headers["Cookie"] = cookies
    return sent


def _follow(request: PreparedRequest, status: int, location: str) -> PreparedRequest:
    """The request that a redirect asks for (RFC 9110 section 15.4).

    What was configured for one origin (headers, credentials, body) never reaches another, nor comes back
    once the origin was left.
    """
    followed = PreparedRequest()
    followed.prepare(method=_redirected_method(request.method or "GET", status), url=_redirected_url(request, location))
    if origin(followed.url or "") != origin(request.url or ""):
        if request.body and followed.method == request.method:
            raise _FailedError(FailureReason.REDIRECT_BLOCKED, "would send the request body to another origin")
        followed.headers.update({"User-Agent": _USER_AGENT, "Accept": "*/*"})
        return followed
    followed.headers = request.headers.copy()
    if followed.method == request.method:
        followed.body = request.body
    else:
        followed.headers.pop("Content-Type", None)
    return followed


def _redirected_method(method: str, status: int) -> str:
    """GET after 303, and after 301 and 302 as browsers do; otherwise unchanged."""
    becomes_get = (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST")
    return "GET" if becomes_get else method


def _redirected_url(request: PreparedRequest, location: str) -> str:
    if len(location) > _MAX_LOCATION:
        raise _FailedError(FailureReason.REDIRECT_INVALID, f"redirected to a URL of {len(location)} characters")
    try:
        url = urljoin(request.url or "", _as_text(location.encode("latin-1")))
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise _FailedError(FailureReason.REDIRECT_BLOCKED, "redirected to a scheme other than http and https")
        netloc = parts.netloc.rpartition("@")[2]
        checked = PreparedRequest()
        checked.prepare_url(parts._replace(netloc=netloc, fragment="").geturl(), None)
        if not parts.hostname or parts.port == 0:
            raise _FailedError(FailureReason.REDIRECT_INVALID, "redirected to a URL without a usable host and port")
    except (ValueError, requests.RequestException):
        raise _FailedError(FailureReason.REDIRECT_INVALID, "redirected to a malformed URL") from None
    return checked.url or ""


def _as_text(location: bytes) -> str:
    """A location in UTF-8; in any other encoding its bytes are sent as they came, as browsers and curl do."""
    try:
        return location.decode()
    except UnicodeDecodeError:
        return quote(location, safe=_ASCII)


def _is_upgrade(url: str | None, followed: str | None) -> bool:
    """Whether a redirect leads from http to https of the same host, where the configured server name is meant for."""
    (scheme, host, _), (new_scheme, new_host, _) = origin(url or ""), origin(followed or "")
    return (scheme, new_scheme) == ("http", "https") and host == new_host
