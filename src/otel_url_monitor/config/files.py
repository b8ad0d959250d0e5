"""Whether the files that a configuration names can be used; who needs their content reads it later, and again."""

import ssl
import stat
from collections.abc import Callable
from pathlib import Path

from otel_url_monitor.config.document import Document, KeyPath, quote
from otel_url_monitor.config.schema import BasicAuthSection, RequestSection, TargetSection, TlsSection

MAX_SECRET_BYTES = 64 * 1024
_NO_CERTIFICATE = "{file} holds no PEM certificate that can be read"


class FileJudge:
    """Judges the files that targets name, each once. Belongs to one thread."""

    def __init__(self, document: Document, folder: Path) -> None:
        self._document = document
        self._folder = folder
        self._verdicts: dict[tuple[Callable[[Path], str], str], str] = {}

    def judge(self, path: KeyPath, target: TargetSection) -> None:
        """Note the files of one target that cannot be used."""
        request, tls = target.request or RequestSection(), target.tls or TlsSection()
        auth = request.basic_auth or BasicAuthSection()
        self._judge((*path, "request", "body_file"), request.body_file, _judge_any)
        self._judge((*path, "request", "bearer_token_file"), request.bearer_token_file, _judge_token)
        self._judge((*path, "request", "basic_auth", "password_file"), auth.password_file, _judge_secret)
        self._judge((*path, "tls", "ca_file"), tls.ca_file, _judge_certificates)

    def _judge(self, path: KeyPath, name: str, judge: Callable[[Path], str]) -> None:
        if not name:
            return
        key = (judge, name)
        if key not in self._verdicts:
            self._verdicts[key] = _verdict(judge, self._folder / name)
        if verdict := self._verdicts[key]:
            self._document.note(path, verdict.replace("{file}", _show_file(self._document.written(path))))


def _show_file(written: str) -> str:
    return written if written.isprintable() and len(written) <= 200 else quote(written)


def _verdict(judge: Callable[[Path], str], file: Path) -> str:
    """What is wrong with a file, with `{file}` for its name; empty when nothing is."""
    try:
        if not stat.S_ISREG(file.stat().st_mode) and not file.is_dir():
            return "cannot read {file}: not a regular file"  # to open a named pipe would wait for its writer
        return judge(file)
    except OSError as error:
        return f"cannot read {{file}}: {error.strerror}"


def _judge_any(file: Path) -> str:
    with file.open("rb"):
        return ""


def _judge_secret(file: Path) -> str:
    with file.open("rb") as opened:
        content = opened.read(MAX_SECRET_BYTES + 1)
    if len(content) > MAX_SECRET_BYTES:
        return "{file} is larger than 64KiB"
    secret = content.removesuffix(b"\n")
    if not secret:
        return "{file} is empty"
    if any(byte in secret for byte in (b"\r", b"\n", b"\0")):
        return "{file} must hold one line, without carriage returns and NUL"
    return "" if _is_utf8(secret) else "{file} is not UTF-8 text"


def _judge_token(file: Path) -> str:
    verdict = _judge_secret(file)
    if verdict:
        return verdict
    token = file.read_text("utf-8").removesuffix("\n")
    is_sendable = token.isascii() and token.isprintable() and " " not in token
    return "" if is_sendable else "{file} holds characters that a bearer token cannot have"


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _judge_certificates(file: Path) -> str:
    _judge_any(file)  # OpenSSL's own errors do not say why a file cannot be read
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=file)
    except ssl.SSLError:
        return _NO_CERTIFICATE
    return "" if context.cert_store_stats()["x509"] else _NO_CERTIFICATE  # revocation lists load, too
