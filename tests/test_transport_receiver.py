"""What is counted and kept of a response while it comes in."""

from hypothesis import given
from hypothesis import strategies as st

from otel_url_monitor.model import FailureReason, Limits
from otel_url_monitor.transport.receiver import Budget, Receiver


def receiver(headers: int = 1000, body: int = 1000, *, follows: bool = True) -> Receiver:
    """A receiver with a budget of so many bytes."""
    budget = Budget.starting_at(0.0, 5.0, Limits(headers=headers, body=body))
    return Receiver(budget, stops_at_redirect=follows)


def feed(receiver: Receiver, block: bytes) -> list[int | None]:
    """What each line is answered with."""
    return [receiver.take_header(line) for line in block.splitlines(keepends=True)]


def test_the_final_block_counts() -> None:
    """An interim response leaves no status and no headers behind."""
    taken = receiver()
    feed(taken, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    assert not taken.is_complete
    feed(taken, b"HTTP/2 204 \r\nServer:  x \r\nA: 1\r\nA: 2\r\n\r\n")
    assert (taken.status, taken.is_complete) == (204, True)
    assert taken.headers() == [("Server", "x"), ("A", "1"), ("A", "2")]


def test_trailers_are_not_a_second_response() -> None:
    """Fields after the body change neither status nor headers, even when they look like a status line."""
    taken = receiver()
    feed(taken, b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\nHTTP/1.1 503: no\r\nA: 2\r\n\r\n")
    assert (taken.status, taken.headers()) == (200, [("A", "1")])


def test_limits_hold_to_the_byte() -> None:
    """A response of exactly the limit passes; one byte more is too large."""
    block = b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\n"
    exact, short = receiver(headers=len(block)), receiver(headers=len(block) - 1)
    assert feed(exact, block) == [None, None, None]
    assert feed(short, block) == [None, None, -1]
    assert (exact.overflow, short.overflow) == (None, FailureReason.HEADER_TOO_LARGE)
    body = receiver(body=10)
    assert [body.take_body(b"a" * 10), body.take_body(b""), body.take_body(b"a")] == [None, None, -1]
    assert (body.body_bytes, body.overflow) == (11, FailureReason.BODY_TOO_LARGE)


def test_the_budget_is_shared_by_all_hops() -> None:
    """Two hops may together take no more than one alone."""
    budget = Budget.starting_at(0.0, 5.0, Limits(headers=1000, body=10))
    first, second = (Receiver(budget, stops_at_redirect=True) for _ in range(2))
    assert [first.take_body(b"a" * 6), second.take_body(b"a" * 6)] == [None, -1]


def test_the_body_of_a_redirect_is_refused_only_when_it_is_followed() -> None:
    """A redirect that will be followed is done with its headers; any other body is received."""
    block = b"HTTP/1.1 302 Found\r\nlocation: /a\r\n\r\n"
    followed, kept = receiver(), receiver(follows=False)
    feed(followed, block)
    feed(kept, block)
    assert (followed.take_body(b"a"), kept.take_body(b"a")) == (-1, None)
    assert followed.overflow is None


@given(st.lists(st.binary(max_size=80)))
def test_any_bytes_are_taken(lines: list[bytes]) -> None:
    """No line that a server can send raises an error or leaves a status that is no number of three digits."""
    taken = receiver()
    for line in lines:
        taken.take_header(line)
        taken.take_header(b"HTTP/1.1 " + line)
    taken.headers()
    assert 0 <= taken.status <= 999


def test_a_body_in_tiny_pieces_costs_no_search_of_the_headers_each() -> None:
    """Thousands of header lines before thousands of one-byte pieces: the lines are looked through once."""

    class Line(bytes):
        looked_at = 0

        def __getitem__(self, key: object) -> bytes:
            Line.looked_at += 1
            return bytes(self)[key]  # type: ignore[index]

    receiver = Receiver(Budget(deadline=0.0, headers=1_000_000, body=1_000_000), stops_at_redirect=True)
    receiver.take_header(b"HTTP/1.1 302 Found\r\n")
    for _ in range(1000):
        receiver.take_header(Line(b"X-A: a\r\n"))
    receiver.take_header(b"\r\n")
    for _ in range(100):
        receiver.take_body(b"a")
    assert 0 < Line.looked_at <= 2000
