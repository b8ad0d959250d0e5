"""One line per event on stderr: text on a terminal, JSON elsewhere; a stuck reader never holds up the service."""

import contextlib
import json
import logging
import logging.handlers
import queue
import sys
from datetime import UTC, datetime
from typing import TextIO

_QUEUED_LINES = 10_000
_FIELDS = ("url", "outcome", "reason", "trace_id")


class JsonFormatter(logging.Formatter):
    """A JSON object per line: `time`, `level`, `logger`, `message`, and what the event carries."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; everything that a target could have written is escaped by JSON."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: str(value) for name in _FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    """Time, level and message; control characters, which a target may have sent, are shown as escapes."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the lines of a traceback, whose last one may quote a target."""
        return "\n".join(_printable(line) for line in super().format(record).split("\n"))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        """The line without the traceback."""
        return _printable(super().formatMessage(record))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class _DroppingHandler(logging.handlers.QueueHandler):
    """Puts a record in the queue or, when nobody takes them out, drops it."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


class LogWriter:
    """Writes the root logger's records to a stream from a thread of its own."""

    def __init__(self, level: int, stream: TextIO = sys.stderr) -> None:
        self._queue: queue.Queue[logging.LogRecord] = queue.Queue(_QUEUED_LINES)
        target = logging.StreamHandler(stream)
        target.setFormatter(TextFormatter() if stream.isatty() else JsonFormatter())
        self._listener = logging.handlers.QueueListener(self._queue, target)
        self._handler = _DroppingHandler(self._queue)
        root = logging.getLogger()
        root.setLevel(level)
        root.addHandler(self._handler)
        logging.getLogger("uvicorn").setLevel(logging.WARNING)  # its start and stop are ours to tell

    def start(self) -> None:
        """Begin to write."""
        self._listener.start()

    def drain(self, seconds: float = 0.5) -> None:
        """Wait until all is written, or `seconds` have passed."""
        with self._queue.all_tasks_done:
            self._queue.all_tasks_done.wait_for(lambda: not self._queue.unfinished_tasks, seconds)
