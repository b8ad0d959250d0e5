"""What comes in during one exchange: header blocks and body bytes, counted against the probe's budget."""

from dataclasses import dataclass

from otel_url_monitor.model import FailureReason, Limits

_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})


@dataclass(slots=True)
class Budget:
    """What a probe has left, over all its hops. Used by one thread at a time.

    Attributes:
        deadline: `time.perf_counter()` at which the probe is over.
        headers: bytes of header blocks that may still come.
        body: bytes of decoded body that may still come.
    """

    deadline: float
    headers: int
    body: int

    @classmethod
    def starting_at(cls, now: float, timeout: float, limits: Limits) -> "Budget":
        """The whole budget of a probe that starts at `now` (`time.perf_counter()`)."""
        return cls(deadline=now + timeout, headers=limits.headers, body=limits.body)


class Receiver:
    """libcurl's header and body callbacks for one exchange. Used by one thread.

    libcurl takes any return value other than `None` as "stop": it then fails with code 23, and `overflow`
    or `is_redirect` says what was meant.

    Attributes:
        status: of the latest status line, 0 before the first.
        lines: the latest header block, status line first.
        is_complete: whether the empty line that ends the final header block was seen. Without it a server
            that closes in mid-header would count as an answer.
        is_redirect: whether this is a redirect that will be followed: its body is not wanted, and may never end.
        body_bytes: decoded body bytes received.
        overflow: the limit that was hit, if any.
    """

    __slots__ = (
        "_budget",
        "_in_block",
        "_stops_at_redirect",
        "body_bytes",
        "is_complete",
        "is_redirect",
        "lines",
        "overflow",
        "status",
    )

    def __init__(self, budget: Budget, *, stops_at_redirect: bool) -> None:
        self._budget = budget
        self._stops_at_redirect = stops_at_redirect
        self._in_block = False
        self.status = 0
        self.lines: list[bytes] = []
        self.is_complete = False
        self.is_redirect = False
        self.body_bytes = 0
        self.overflow: FailureReason | None = None

    def take_header(self, line: bytes) -> int | None:
        """One line of a header block, an interim response's or a trailer."""
        budget = self._budget
        budget.headers -= len(line)
        if budget.headers < 0:
            self.overflow = FailureReason.HEADER_TOO_LARGE
            return -1
        if self._in_block:
            if line in (b"\r\n", b"\n"):
                self._in_block = False
                self.is_complete = self.status >= 200
                self.is_redirect = self.is_complete and self._is_redirect()
            else:
                self.lines.append(line)
        elif not self.is_complete and line.startswith(b"HTTP/"):  # later ones are trailers, whatever they say
            self._in_block = True
            self.lines = [line]
            self.status = _status(line)
        return None

    def take_body(self, data: bytes) -> int | None:
        """One piece of the body; counted and dropped."""
        if self.is_redirect:
            return -1
        self.body_bytes += len(data)
        self._budget.body -= len(data)
        if self._budget.body < 0:
            self.overflow = FailureReason.BODY_TOO_LARGE
            return -1
        return None

    def _is_redirect(self) -> bool:
        return (
            self._stops_at_redirect
            and self.status in _REDIRECT_STATUSES
            and any(line[:9].lower() == b"location:" and line[9:].strip() for line in self.lines)
        )

    def headers(self) -> list[tuple[str, str]]:
        """The final block's fields in the order received; a repeated name appears repeatedly."""
        fields = (line.decode("latin-1").partition(":") for line in self.lines[1:])
        return [(name.strip(), value.strip()) for name, colon, value in fields if colon]


def _status(line: bytes) -> int:
    code = line.split(None, 2)[1:2]
    return int(code[0][:3]) if code and code[0][:3].isdigit() else 0
