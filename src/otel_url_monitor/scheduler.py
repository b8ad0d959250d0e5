"""When to probe: each target on its own fixed grid, spread over its interval, one probe in flight at most."""

import heapq
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from otel_url_monitor.model import FailureReason, Probe, ProbeResult, SkipReason, Target

_logger = logging.getLogger(__name__)

_IDLE_SECONDS = 60.0
"""An idle thread ends after this long, and frees its libcurl handle (1 to 2 MB with a trust store)."""

_REFUSED_SECONDS = 1.0
"""When the system refuses a thread, this long passes before it is asked, and complained about, again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """A finished probe.

    Attributes:
        lag: seconds between the due time and the start.
    """

    result: ProbeResult
    lag: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Probes that were due and not made, or not finished."""

    target_id: str
    reason: SkipReason
    count: int


@dataclass(slots=True, eq=False)
class _Slot:
    """A target's place on the grid; `due` is monotonic seconds."""

    target: Target
    due: float

    def __lt__(self, other: "_Slot") -> bool:
        return self.due < other.due


def phase(target: Target, wall_now: float) -> float:
    """Seconds until the first probe.

    The grid is laid on the wall clock at an offset that only the target's identity decides, as Prometheus
    lays its scrapes: a restart changes nothing, and many targets spread evenly.
    """
    offset = int(target.id, 16) / 2**64 * target.interval
    return (offset - wall_now) % target.interval


class Scheduler:
    """Runs probes on a pool of threads that grows to need. Thread-safe.

    One idle thread at a time, the leader, waits for the next due time; it then makes that probe itself, so
    that no job is handed over between due time and start, and the most recently idle thread leads next: a
    small fleet keeps few threads, and few libcurl handles, warm. A thread makes a probe, leads, idles, or is
    on its way to lead; a further one is started only when all there are make probes.

    Args:
        probe: makes one probe; what it raises counts as `internal_error`.
        deliver: takes every event; must be quick and not call back, because a lock is held so that nothing is
            delivered once `stop` has returned.
        max_in_flight: how many threads, and so probes in flight, there are at most.
        idle_seconds: after how long without a probe a thread ends.
        monotonic: clock of the grid.
        wall: clock of the first offset.
    """

    def __init__(
        self,
        probe: Probe,
        deliver: Callable[[Probed | Skipped], None],
        *,
        max_in_flight: int,
        idle_seconds: float = _IDLE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._probe = probe
        self._deliver = deliver
        self._max_threads = max_in_flight
        self._idle_seconds = idle_seconds
        self._monotonic = monotonic
        self._wall = wall
        self._lock = threading.Lock()
        self._slots: dict[str, _Slot] = {}
        self._heap: list[_Slot] = []
        self._leader: threading.Lock | None = None
        self._coming: threading.Lock | None = None
        self._idle: list[threading.Lock] = []
        self._in_flight: set[_Slot] = set()
        self._threads = 0
        self._refused_until = float("-inf")
        self._is_stopping = False

    @property
    def in_flight(self) -> int:
        """Probes being made now."""
        return len(self._in_flight)

    def set_targets(self, targets: Iterable[Target]) -> None:
        """Probe these and no others; a target that was there before keeps its grid unless its interval changed.

        A probe in flight is finished by the settings it began with; that of a removed target is forgotten.
        """
        with self._lock:
            previous, self._slots = self._slots, {}
            now, wall_now = self._monotonic(), self._wall()
            for target in targets:
                slot = previous.pop(target.id, None)
                if slot is None:
                    slot = _Slot(target, now + phase(target, wall_now))
                elif slot.target.interval != target.interval:
                    # What is in flight was due at the last point of the new grid, from which it goes on.
                    slot.due = now + phase(target, wall_now) - (target.interval if slot in self._in_flight else 0.0)
                slot.target = target
                self._slots[target.id] = slot
            self._in_flight.difference_update(previous.values())
            self._heap = [slot for slot in self._slots.values() if slot not in self._in_flight]
            heapq.heapify(self._heap)
            self._lead_anew(now)

    def stop(self) -> None:
        """Make no more probes, at once; what is in flight counts as skipped and is not waited for."""
        with self._lock:
            self._is_stopping = True
            for wake in (*self._idle, *([self._leader] if self._leader else [])):
                _wake(wake)
            self._idle.clear()
            for slot in self._in_flight:
                self._deliver(Skipped(target_id=slot.target.id, reason=SkipReason.SHUTDOWN, count=1))
            self._in_flight.clear()

    def _work(self, wake: threading.Lock) -> None:
        with self._lock:  # but not while probing or waiting
            while (due := self._next(wake)) is not None:
                slot, target, lag = due
                self._lock.release()
                try:
                    result = self._probe_one(target, lag)
                finally:
                    self._lock.acquire()
                self._finish(slot, result, lag)
            self._threads -= 1

    def _probe_one(self, target: Target, lag: float) -> ProbeResult:
        started_at, begin = self._wall(), time.perf_counter()
        try:
            return self._probe(target, lag)
        except Exception as error:  # noqa: BLE001 - the one place where a bug must not end the probing
            # Where, but not what: the exception's words may hold a URL, and so a secret.
            where = "".join(traceback.format_tb(error.__traceback__))
            _logger.error("probe of %s raised %s\n%s", target.display_url, type(error).__name__, where)  # noqa: TRY400
            return ProbeResult(
                target_id=target.id,
                started_at=started_at,
                duration=time.perf_counter() - begin,
                failure=FailureReason.INTERNAL_ERROR,
                detail=type(error).__name__,
            )

    def _next(self, wake: threading.Lock) -> tuple[_Slot, Target, float] | None:
        """Wait, as leader or for the lead, until a probe is due: its slot, target and lag; `None` ends the thread."""
        while not self._is_stopping:
            if self._coming is wake:
                self._coming = None
            if self._leader is not None:
                if not self._wait_for_the_lead(wake):
                    return None
                continue
            now = self._monotonic()
            if self._heap and self._heap[0].due <= now:
                slot = heapq.heappop(self._heap)
                lag = self._catch_up(slot, now)
                self._in_flight.add(slot)
                self._lead_anew(now)
                return slot, slot.target, lag
            self._leader = wake
            self._wait(wake, self._heap[0].due - now if self._heap else self._idle_seconds)
            self._leader = None
        return None

    def _wait_for_the_lead(self, wake: threading.Lock) -> bool:
        """Whether it was given; not after too long an idleness."""
        self._idle.append(wake)
        self._wait(wake, self._idle_seconds)
        if wake in self._idle:
            self._idle.remove(wake)
            return False
        return True

    def _wait(self, wake: threading.Lock, seconds: float) -> None:
        self._lock.release()
        try:
            wake.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))
        finally:
            self._lock.acquire()
            # It may have been woken after it had given up, and must not find that at its next wait.
            wake.acquire(blocking=False)

    def _catch_up(self, slot: _Slot, now: float) -> float:
        """Move a slot that no thread was free for to its latest grid point, counting those it missed."""
        missed = int((now - slot.due) // slot.target.interval)
        if missed:
            slot.due += missed * slot.target.interval
            self._deliver(Skipped(target_id=slot.target.id, reason=SkipReason.SATURATED, count=missed))
        return max(0.0, now - slot.due)  # the grid point may have been rounded up

    def _lead_anew(self, now: float) -> None:
        """See to it that somebody waits for the next due time: wake the leader or an idle thread, or add one."""
        if self._leader is not None:
            _wake(self._leader)
        elif self._coming is not None:
            return  # under a heavy load it may take long, and one more would take longer
        elif self._idle:
            self._coming = self._idle.pop()
            _wake(self._coming)
        elif self._threads < self._max_threads and self._heap:
            self._add_thread(now)

    def _add_thread(self, now: float) -> None:
        if now < self._refused_until:
            return
        wake = threading.Lock()
        wake.acquire()
        self._threads += 1
        try:
            threading.Thread(target=self._work, args=(wake,), name="probe", daemon=True).start()
            self._coming = wake
        except RuntimeError:
            # No thread to be had: the ones there are go on, and what they miss counts as saturated.
            self._threads -= 1
            if not self._threads:
                raise
            self._refused_until = now + _REFUSED_SECONDS
            _logger.warning("cannot start another probing thread; %d are running", self._threads)

    def _finish(self, slot: _Slot, result: ProbeResult, lag: float) -> None:
        if slot not in self._in_flight:
            return
        self._in_flight.discard(slot)
        now, interval = self._monotonic(), slot.target.interval
        slot.due += interval
        overrun = int((now - slot.due) // interval) + 1 if slot.due <= now else 0
        slot.due += overrun * interval
        heapq.heappush(self._heap, slot)
        if self._heap[0] is slot and self._leader is not None:
            _wake(self._leader)
        self._deliver(Probed(result=result, lag=lag))
        if overrun:
            self._deliver(Skipped(target_id=slot.target.id, reason=SkipReason.OVERRUN, count=overrun))


def _wake(wake: threading.Lock) -> None:
    """Let the thread that waits on it go on; waking twice is waking once."""
    if wake.locked():
        wake.release()
