"""A POST with a deadline that holds for the whole exchange, whatever the other side does. Not measured, not traced."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pycurl

from otel_url_monitor.transport.adapter import QUICK_EXIT

_MAX_REPLY = 256 * 1024


class PostError(Exception):
    """No complete answer came; the message is libcurl's and holds the host's name at most.

    Attributes:
        code: CURLcode; the message of one and the same trouble differs by its times.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A complete answer.

    Attributes:
        status: the status code; redirects are not followed.
        headers: the final header block, names in lower case.
        body: at most 256 KiB; a longer one is no complete answer.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Poster:
    """Posts to one server over a connection that is kept. Used by one thread at a time.

    Args:
        ca_file: PEM file of the roots trusted.
        certificate_file: PEM file of our own certificate, if the server wants one.
        key_file: its key, when not in the same file.
    """

    def __init__(self, ca_file: Path, certificate_file: Path | None = None, key_file: Path | None = None) -> None:
        self._curl = pycurl.Curl()
        self._options: list[tuple[int, object]] = [
            (pycurl.NOSIGNAL, 1),
            (QUICK_EXIT, 1),
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.POST, 1),
            (pycurl.TCP_KEEPALIVE, 1),
            (pycurl.CAINFO, os.fsencode(ca_file)),  # pycurl takes text for ASCII
        ]
        if certificate_file is not None:
            self._options.append((pycurl.SSLCERT, os.fsencode(certificate_file)))
        if key_file is not None:
            self._options.append((pycurl.SSLKEY, os.fsencode(key_file)))

    def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Reply:
        """Post and take the whole answer within `timeout` seconds.

        Raises:
            PostError: no complete answer came.
        """
        lines: list[bytes] = []
        pieces: list[bytes] = []
        curl = self._curl
        curl.reset()  # the connection, the session cache and the parsed store stay
        for option, value in self._options:
            curl.setopt(option, value)
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.HTTPHEADER, ["Expect:", *(_line(name, value) for name, value in headers.items())])
        curl.setopt(pycurl.POSTFIELDSIZE_LARGE, len(body))
        curl.setopt(pycurl.POSTFIELDS, body)
        curl.setopt(pycurl.TIMEOUT_MS, max(1, int(timeout * 1000)))
        curl.setopt(pycurl.MAXFILESIZE_LARGE, _MAX_REPLY)
        curl.setopt(pycurl.HEADERFUNCTION, lines.append)
        curl.setopt(pycurl.WRITEFUNCTION, pieces.append)
        try:
            curl.perform()
        except pycurl.error as error:
            raise PostError(*error.args) from None
        return Reply(status=curl.getinfo(pycurl.RESPONSE_CODE), headers=_fields(lines), body=b"".join(pieces))


def _line(name: str, value: str) -> str:
    """One item of libcurl's header list, which takes `Name:` as "leave it out"."""
    return f"{name}: {value}" if value else f"{name};"


def _fields(lines: list[bytes]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if line.startswith(b"HTTP/"):  # an interim response came before
            fields.clear()
        elif colon:
            fields[name.strip().lower()] = value.strip()
    return fields
