"""What is known of each target: the latest result and the counters. Pure state, no I/O."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from otel_url_monitor.model import FailureReason, Outcome, ProbeResult, SkipReason, Target

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetState:
    """One target's record: immutable, so that a snapshot stays as it was taken.

    Attributes:
        latest: `None` before the first probe.
        results: how many probes ended with each outcome; every outcome is there from the start.
        failures: how many probes failed for each reason; only reasons that occurred.
        skipped: how many due probes were not made; only reasons that occurred.
    """

    target: Target
    latest: ProbeResult | None = None
    results: Mapping[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    failures: Mapping[FailureReason, int] = field(default_factory=dict)
    skipped: Mapping[SkipReason, int] = field(default_factory=dict)

    @property
    def known(self) -> ProbeResult | None:
        """The latest result, unless it is missing or its outcome is unknown."""
        if self.latest is None or self.latest.outcome is Outcome.UNKNOWN:
            return None
        return self.latest


class Results:
    """The state of all targets. Thread-safe."""

    def __init__(self, targets: Iterable[Target]) -> None:
        self._lock = threading.Lock()
        self._states: dict[str, TargetState] = {}
        self.set_targets(targets)

    def set_targets(self, targets: Iterable[Target]) -> None:
        """Hold these targets and no others; one that was there before keeps what is known of it."""
        with self._lock:
            before = self._states
            self._states = {
                target.id: replace(before[target.id], target=target)
                if target.id in before
                else TargetState(target=target)
                for target in targets
            }

    def record(self, result: ProbeResult) -> TargetState | None:
        """Take a result in; the state before it, or `None` when its target is not ours (any more)."""
        with self._lock:
            before = self._states.get(result.target_id)
            if before is None:
                return None
            outcome = result.outcome
            failures = before.failures
            if outcome is Outcome.FAILURE and result.failure is not None:
                failures = _incremented(failures, result.failure)
            self._states[result.target_id] = replace(
                before, latest=result, results=_incremented(before.results, outcome), failures=failures
            )
            return before

    def record_skipped(self, target_id: str, reason: SkipReason, count: int) -> None:
        """Count probes that were due and not made; ignored when the target is not ours (any more)."""
        with self._lock:
            before = self._states.get(target_id)
            if before is not None:
                self._states[target_id] = replace(before, skipped=_incremented(before.skipped, reason, count))

    def snapshot(self) -> tuple[TargetState, ...]:
        """Every target's state at this moment, in the order of the configuration."""
        with self._lock:
            return tuple(self._states.values())


def _incremented(counts: Mapping[_Key, int], key: _Key, by: int = 1) -> Mapping[_Key, int]:
    return {**counts, key: counts.get(key, 0) + by}
