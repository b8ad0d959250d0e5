"""What one value of the file may be: durations, sizes, URLs, statuses, names. Faults are in the operator's words.

Every function takes what the document holds (str, None, list or dict) and raises `PydanticCustomError`: type
`expected` when the message continues "…, got 'x'", type `refused` when the message says it all, type `scheme` for
a URL that lacks one. The value itself is never part of the error: it may be a secret from the environment. What is
never quoted even as written (headers, bodies, passwords, URLs) is `refused`, and `expected` only when it is no text.
"""

import ipaddress
import re
from collections.abc import Callable

from pydantic_core import PydanticCustomError

from otel_url_monitor.model import MetricsLevel, mask_url

LABEL_NAME = r"[a-zA-Z_][a-zA-Z0-9_]*"
RESERVED_LABELS = ("url", "result", "reason", "class", "phase", "check", "le", "version", "cipher", "source")
TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  RFC 9110, section 5.6.2: not a secret
MAX_LABEL_BYTES = 256
MAX_URL_LENGTH = 2048
YEAR = 365 * 86400  # Prometheus' year, in seconds

_MILLISECONDS = {"y": YEAR * 1000, "w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_BYTES = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "kB": 1000, "KB": 1000, "MB": 10**6, "GB": 10**9}
DURATION = "(?=[0-9])" + "".join(f"([0-9]{{1,9}}{unit})?" for unit in _MILLISECONDS)
SIZE = rf"([0-9]{{1,12}})({'|'.join(_BYTES)})"
RATIO = r"0(?:\.[0-9]{1,9})?|1(?:\.0{1,9})?"
STATUS = r"([1-9])[xX]{2}|([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?"

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL_IN_BODY = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_BLANK = re.compile(r"\s")
_DURATION = re.compile(DURATION)
_SIZE = re.compile(SIZE)
_STATUS = re.compile(STATUS)
_TOKEN = re.compile(TOKEN)
_URL = re.compile(r"(?:http|https)://(?P<authority>[^/?#]*)", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?")
_HOST = re.compile(r"[A-Za-z0-9_.-]{1,253}")
_USUAL_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_OWN_HEADERS = frozenset(("content-length", "transfer-encoding", "connection"))


def expected(what: str) -> PydanticCustomError:
    """A fault that is printed as "expected …, got 'x'"."""
    return PydanticCustomError("expected", "{what}", {"what": what})


def refused(message: str) -> PydanticCustomError:
    """A fault that is printed as it is."""
    return PydanticCustomError("refused", "{what}", {"what": message})


def parse_duration(value: object) -> float:
    """Seconds of a Prometheus duration such as `1m30s`, more than zero and at most a year."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise expected("a duration such as 15s")
    parts = zip(match.groups(), _MILLISECONDS.items(), strict=True)
    milliseconds = sum(int(part[: -len(unit)]) * size for part, (unit, size) in parts if part)
    if not 0 < milliseconds <= YEAR * 1000:
        raise expected("a duration above zero and at most 1y")
    return milliseconds / 1000


def format_duration(seconds: float) -> str:
    """The Prometheus form of a duration, to the millisecond."""
    milliseconds = round(seconds * 1000)
    text = ""
    for unit, size in _MILLISECONDS.items():
        count, milliseconds = divmod(milliseconds, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def size_parser(most: int, shown: str) -> Callable[[object], int]:
    """A parser of sizes such as `64KiB` into bytes, from 1 to `most`."""

    def parse(value: object) -> int:
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if not match:
            raise expected("a size such as 64KiB")
        size = int(match[1]) * _BYTES[match[2]]
        if not 0 < size <= most:
            raise expected(f"a size above zero and at most {shown}")
        return size

    return parse


def number_parser(least: int, most: int) -> Callable[[object], int]:
    """A parser of whole numbers from `least` to `most`."""

    def parse(value: object) -> int:
        if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) and least <= int(value) <= most:
            return int(value)
        raise expected(f"a whole number from {least} to {most}")

    return parse


def parse_bool(value: object) -> bool:
    """`true` or `false` in any case; not YAML 1.1's `yes`, `on` or `y`."""
    word = value.lower() if isinstance(value, str) else ""
    if word not in ("true", "false"):
        raise expected("true or false")
    return word == "true"


def parse_ratio(value: object) -> float:
    """A number from 0 to 1."""
    if isinstance(value, str) and re.fullmatch(RATIO, value):
        return float(value)
    raise expected("a number from 0 to 1")


def parse_level(value: object) -> MetricsLevel:
    """One of the levels by name."""
    if isinstance(value, str) and value in list(MetricsLevel):
        return MetricsLevel(value)
    raise expected("minimal, standard or full")


def parse_status(value: object) -> tuple[int, int]:
    """An inclusive range of status codes from `200`, `200-299` or `2xx`."""
    match = _STATUS.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise expected("a status such as 200, 200-299 or 2xx, from 100 to 999")
    if match[1]:
        return int(match[1]) * 100, int(match[1]) * 100 + 99
    low, high = int(match[2]), int(match[3] or match[2])
    if low > high:
        raise expected("a range that begins with the smaller status")
    return low, high


def parse_text(value: object) -> str:
    """Text of one line."""
    return _text(value, _CONTROL)


def parse_body(value: object) -> bytes:
    """Text that may have several lines, as UTF-8."""
    return _text(value, _CONTROL_IN_BODY).encode()


def parse_file_name(value: object) -> str:
    """A path that is not empty; whether it can be read is judged elsewhere."""
    text = parse_text(value)
    if not text:
        raise expected("a path")
    return text


def parse_user_name(value: object) -> str:
    """The user name of basic authentication, which ends at the first colon (RFC 7617, section 2)."""
    text = parse_text(value)
    if ":" in text:
        raise refused("must not hold ':'")
    return text


def parse_label_name(value: object) -> str:
    """A Prometheus label name that none of the metrics uses for itself."""
    name = str(value)
    if not re.fullmatch(LABEL_NAME, name):
        raise refused("a label name has letters, digits and _ and does not begin with a digit")
    if name.startswith("__"):
        raise refused("label names that begin with __ are reserved")
    if "__" in name:  # the exporter's rules make one _ of them, and so one label of two
        raise refused("a label name has no two _ in a row")
    if name in RESERVED_LABELS:
        raise refused(f"label names used by the metrics themselves are reserved: {', '.join(RESERVED_LABELS)}")
    return name


def parse_label_value(value: object) -> str:
    """Text of at most 256 bytes in UTF-8."""
    text = parse_text(value)
    if len(text.encode()) > MAX_LABEL_BYTES:
        raise refused(f"must be at most {MAX_LABEL_BYTES} bytes, got {len(text.encode())}")
    return text


def parse_header_name(value: object) -> str:
    """An RFC 9110 token that is not one of the headers that frame a message."""
    name = str(value)
    if not _TOKEN.fullmatch(name):
        raise refused("a header name has letters, digits and !#$%&'*+-.^_`|~")
    if name.lower() in _OWN_HEADERS:
        raise refused("this header is set by the monitor itself")
    return name


def parse_header_value(value: object) -> str:
    """What HTTP/1.1 can carry as a field value (RFC 9110, section 5.5)."""
    text = parse_text(value)
    if text != text.strip():
        raise refused("must not begin or end with a space")
    if any(ord(character) > 255 for character in text):
        raise refused("must hold only characters of ISO 8859-1 (Latin-1)")
    return text


def parse_method(value: object) -> str:
    """An RFC 9110 method, in the case that was written: methods are case-sensitive."""
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise expected("an HTTP method such as GET")
    upper = value.upper()
    if upper in ("CONNECT", "TRACE"):
        raise expected("an HTTP method other than CONNECT and TRACE")
    if upper in _USUAL_METHODS and value != upper:
        raise refused(f"did you mean '{upper}'?")
    return value


def parse_host(value: object) -> str:
    """An IP address or a host name that IDNA can encode."""
    text = parse_text(value)
    if not _is_address(text) and not _is_host_name(text):
        raise expected("a host name or an IP address")
    return text


def parse_url(value: object) -> str:
    """An http or https URL with a host, without credentials and without its fragment."""
    if not isinstance(value, str):
        raise expected("a URL")
    if _CONTROL.search(value) or _BLANK.search(value):
        raise refused("a URL has no spaces and no control characters")
    match = _URL.match(value)
    if not match:
        raise PydanticCustomError("scheme", "a URL begins with http:// or https://")
    _check_authority(match["authority"])
    url = value.partition("#")[0]
    if len(url) > MAX_URL_LENGTH:
        raise refused(f"a URL has at most {MAX_URL_LENGTH} characters, got {len(url)}")
    try:
        mask_url(url)
    except ValueError:
        raise refused("not a valid URL") from None
    return url


def _text(value: object, forbidden: re.Pattern[str]) -> str:
    if not isinstance(value, str):
        raise expected("text")
    if forbidden.search(value):
        raise refused("must not hold control characters")
    return value


def _check_authority(authority: str) -> None:
    if "@" in authority:
        raise refused("a URL has no user:password@ here; use request.basic_auth")
    match = _AUTHORITY.fullmatch(authority)
    host, port = (match["host"], match["port"]) if match else (authority, None)
    if match and not host:
        raise refused("the URL has no host")
    if not match or not (_is_address(host[1:-1], version=6) if host.startswith("[") else _is_host_name(host)):
        raise refused("the host of the URL is not a valid host name or address")
    if port is not None and not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
        raise refused("the port of the URL must be a number from 1 to 65535")


def _is_address(text: str, version: int | None = None) -> bool:
    try:
        return ipaddress.ip_address(text).version in (version or 4, version or 6)
    except ValueError:
        return False


def _is_host_name(text: str) -> bool:
    try:
        return bool(_HOST.fullmatch(text.encode("idna").decode()))
    except UnicodeError:
        return False
