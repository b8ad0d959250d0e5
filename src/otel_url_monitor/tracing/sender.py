"""Traces on their way out: a bounded queue and the thread that empties it in small batches."""

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from otel_url_monitor.otlp import Environment, Losses
from otel_url_monitor.otlp.exporting import span_sender
from otel_url_monitor.tracing.spans import SpanEncoder, Trace


class SpanSender:
    """Sends whole traces in batches, from a thread of its own. Thread-safe.

    The stock batch processor was not it: it drops the oldest spans one by one, which leaves torn traces and is
    counted nowhere, and it holds a stop for 30 s.

    A trace of more spans than a batch may have is a batch of its own.

    Args:
        environment: names the endpoint of traces.
        resource: attributes of the service, the same in all of its processes.
    """

    def __init__(self, environment: Environment, resource: Mapping[str, Any]) -> None:
        if environment.traces is None:
            raise ValueError("no endpoint to send spans to")
        self._environment = environment
        self._losses = Losses()
        self._encoder = SpanEncoder(resource)
        self._send = span_sender(environment.traces, self._losses)
        self._traces: deque[Trace] = deque()
        self._queued = 0
        self._in_flight = 0
        self._dropped = 0
        self._unsent = 0
        self._lock = threading.Lock()
        self._due = threading.Event()
        self._is_stopping = False
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    @property
    def failures(self) -> int:
        """Requests that failed."""
        return self._losses.failures

    @property
    def lost(self) -> int:
        """Spans that there was no room for or that could not be sent."""
        return self._dropped + self._unsent

    def put(self, trace: Trace) -> bool:
        """Whether there was room for the trace; an empty queue has room for any."""
        with self._lock:
            waiting = self._queued + self._in_flight
            if waiting and waiting + trace.spans > self._environment.queue_size:
                self._dropped += trace.spans
                return False
            self._traces.append(trace)
            self._queued += trace.spans
            if self._queued >= self._environment.batch_size:
                self._due.set()
            return True

    def stop(self, seconds: float) -> int:
        """Send what is waiting, for so long at most; how many spans are left behind, which count as lost."""
        self._is_stopping = True
        self._due.set()
        self._thread.join(seconds)
        with self._lock:
            left = self._queued + self._in_flight
            self._dropped += left
            self._queued = self._in_flight = 0
            self._traces.clear()
            self._has_ended = True
            return left

    def _run(self) -> None:
        while not self._is_stopping:
            self._due.wait(self._environment.delay)
            self._due.clear()
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        while batch := self._take():
            self._send(self._encoder.encode(batch), self._in_flight)
            with self._lock:
                if self._has_ended:  # it is counted as left behind
                    return
                self._in_flight = 0
                self._unsent = self._losses.spans

    def _take(self) -> list[Trace]:
        batch: list[Trace] = []
        spans = 0
        with self._lock:
            while self._traces and (not batch or spans + self._traces[0].spans <= self._environment.batch_size):
                batch.append(self._traces.popleft())
                spans += batch[-1].spans
            self._queued -= spans
            self._in_flight = spans
        return batch
