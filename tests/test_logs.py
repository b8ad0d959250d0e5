"""The log: one line per event, nothing a target could forge, and never in the way."""

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest

from otel_url_monitor.logs import LogWriter

logger = logging.getLogger("otel_url_monitor.test")
ESCAPES = "\x1b[31mred\x07\r\nfake line\x9b\u2028"


@pytest.fixture(autouse=True)
def writers() -> Iterator[Callable[..., LogWriter]]:
    """Makes log writers, and leaves logging as it was."""
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    level, uvicorn_level = root.level, logging.getLogger("uvicorn").level

    def make(stream: io.StringIO, level: int = logging.INFO) -> LogWriter:
        writer = LogWriter(level, stream)
        writer.start()
        return writer

    yield make
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("uvicorn").setLevel(uvicorn_level)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Stuck(io.StringIO):
    """A stream whose reader takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go = threading.Event()

    def write(self, text: str) -> int:
        assert self.may_go.wait(10)
        return super().write(text)


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_an_event_is_a_json_line(writers) -> None:
    """Away from a terminal each event is one JSON object, with what it carries as fields of their own."""
    stream = io.StringIO()
    writer = writers(stream)
    extra = {"url": "https://example.com/", "outcome": "failure", "reason": "dns_error", "trace_id": "0af7"}
    logger.warning("%s is now %s", "https://example.com/", "failure", extra=extra)
    logger.info("stopped", extra={"trace_id": None})
    logger.debug("not at this level")
    writer.drain()
    first, second = map(json.loads, lines(stream))
    assert datetime.fromisoformat(first.pop("time")).utcoffset().total_seconds() == 0
    assert first == {
        "level": "warning",
        "logger": "otel_url_monitor.test",
        "message": "https://example.com/ is now failure",
        **extra,
    }
    assert second.keys() == {"time", "level", "logger", "message"}


def test_json_escapes_what_a_target_sent(writers) -> None:
    """Control characters in a message or a traceback stay inside their JSON string, on one line."""
    stream = io.StringIO()
    writer = writers(stream)
    logger.info("%s", ESCAPES)
    logger.error("raised", exc_info=ValueError(ESCAPES))
    writer.drain()
    first, second = map(json.loads, stream.getvalue().strip("\n").split("\n"))
    assert stream.getvalue().isascii()
    assert first["message"] == ESCAPES
    assert second["exception"].endswith(f"ValueError: {ESCAPES}")


def test_a_terminal_gets_text(writers) -> None:
    """On a terminal each event is a short line for a person."""
    stream = Terminal()
    writer = writers(stream)
    logger.warning("https://example.com/ is now failure")
    writer.drain()
    (line,) = lines(stream)
    time, _, rest = line.partition(" ")
    assert datetime.strptime(time, "%H:%M:%S")  # noqa: DTZ007 - a time of day
    assert rest == "WARNING https://example.com/ is now failure"


def test_a_terminal_is_not_steered_by_a_target(writers) -> None:
    """Control characters are shown as escapes, in messages and tracebacks alike."""
    stream = Terminal()
    writer = writers(stream)
    logger.info("%s", ESCAPES)
    logger.error("raised", exc_info=ValueError("\x1b[2J\x9b"))
    writer.drain()
    message, *traceback = stream.getvalue().strip("\n").split("\n")
    assert message.endswith(r"INFO    \x1b[31mred\x07\r\nfake line\x9b\u2028")
    assert traceback[-1] == r"ValueError: \x1b[2J\x9b"
    assert all(char.isprintable() for char in stream.getvalue().replace("\n", ""))


def test_a_stuck_reader_holds_nobody_up(writers) -> None:
    """When nobody reads the log, whoever writes goes on, and only a bounded number of lines is kept."""
    stream = Stuck()
    writer = writers(stream)
    written = threading.Thread(target=lambda: [logger.info("line %d", number) for number in range(12_000)])
    written.start()
    written.join(10)
    assert not written.is_alive()
    writer.drain(0.01)
    assert stream.getvalue() == ""
    stream.may_go.set()
    writer.drain(10)
    messages = [json.loads(line)["message"] for line in lines(stream)]
    assert messages[:10_000] == [f"line {number}" for number in range(10_000)]
    assert len(messages) <= 10_001


def test_draining_waits_for_the_last_line(writers) -> None:
    """What was logged before the end is written before the end, the line in hand included."""
    stream = Stuck()
    writer = writers(stream)
    logger.info("the last words")
    drained = threading.Thread(target=writer.drain, args=(10,))
    drained.start()
    stream.may_go.set()
    drained.join(10)
    assert [json.loads(line)["message"] for line in lines(stream)] == ["the last words"]


def test_a_broken_event_is_not_the_end(writers, capsys: pytest.CaptureFixture[str]) -> None:
    """An event that cannot be formatted is complained about, and the next one is written."""
    stream = io.StringIO()
    writer = writers(stream)
    # Past pytest's own handler, which would raise.
    writer._handler.handle(logger.makeRecord("test", logging.INFO, "", 0, "%d", ("not a number",), None))
    logger.info("next")
    writer.drain()
    assert [json.loads(line)["message"] for line in lines(stream)] == ["next"]
    assert "not a number" in capsys.readouterr().err
