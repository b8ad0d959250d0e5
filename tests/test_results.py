"""What is known of each target: latest result and counters."""

import sys
import threading

from factories import make_hop, make_result, make_target, make_targets
from otel_url_monitor.model import FailureReason, Outcome, SkipReason
from otel_url_monitor.results import Results, TargetState

NONE_YET = {Outcome.SUCCESS: 0, Outcome.FAILURE: 0, Outcome.UNKNOWN: 0}


def test_before_the_first_probe() -> None:
    """A target starts with every outcome counted as 0, no result, no failure, nothing skipped."""
    target = make_target()
    assert Results([target]).snapshot() == (
        TargetState(target=target, latest=None, results=NONE_YET, failures={}, skipped={}),
    )


def test_results_are_counted() -> None:
    """Each result becomes the latest, and counts for its outcome; failures count by reason too."""
    target = make_target()
    good = make_result(target, make_hop())
    bad = make_result(target, make_hop(503), failure=FailureReason.UNEXPECTED_STATUS)
    ours = make_result(target, failure=FailureReason.LOCAL_RESOURCE)
    results = Results([target])
    for result in (good, bad, good, ours, bad):
        results.record(result)
    results.record_skipped(target.id, SkipReason.OVERRUN, 3)
    results.record_skipped(target.id, SkipReason.OVERRUN, 1)
    assert results.snapshot() == (
        TargetState(
            target=target,
            latest=bad,
            results={Outcome.SUCCESS: 2, Outcome.FAILURE: 2, Outcome.UNKNOWN: 1},
            failures={FailureReason.UNEXPECTED_STATUS: 2},
            skipped={SkipReason.OVERRUN: 4},
        ),
    )


def test_recording_tells_the_state_before() -> None:
    """What was known before a result is handed back, so that a change can be told from a repetition."""
    target = make_target()
    first, second = make_result(target, make_hop()), make_result(target, make_hop(500))
    results = Results([target])
    before_first, before_second = results.record(first), results.record(second)
    assert before_first is not None
    assert before_first.latest is None
    assert before_second is not None
    assert before_second.latest == first


def test_an_unknown_outcome_is_no_knowledge() -> None:
    """A result that says nothing about the target is the latest, but not what is known of it."""
    target = make_target()
    results = Results([target])
    results.record(make_result(target, failure=FailureReason.INTERNAL_ERROR))
    assert results.snapshot()[0].known is None
    good = make_result(target, make_hop())
    results.record(good)
    assert results.snapshot()[0].known == good


def test_strangers_are_ignored() -> None:
    """A late result of a target that is no longer configured changes nothing."""
    target, stranger = make_target(), make_target("https://other.example/")
    results = Results([target])
    before = results.snapshot()
    assert results.record(make_result(stranger, make_hop())) is None
    results.record_skipped(stranger.id, SkipReason.SHUTDOWN, 1)
    assert results.snapshot() == before


def test_order_is_the_configuration_s() -> None:
    """Targets are listed as they are configured, whatever order results come in."""
    targets = make_targets(20)
    results = Results(targets)
    for target in reversed(targets):
        results.record(make_result(target, make_hop()))
    assert [state.target for state in results.snapshot()] == list(targets)


def test_a_snapshot_stays_as_it_was_taken() -> None:
    """Results that come later do not change a snapshot."""
    target = make_target()
    results = Results([target])
    snapshot = results.snapshot()
    results.record(make_result(target, make_hop()))
    assert snapshot[0].results == NONE_YET


def test_no_count_is_lost_between_threads() -> None:
    """Results that come from many threads at once are all counted, and every snapshot is consistent."""
    targets = make_targets(3)
    results = Results(targets)
    failing = [make_result(target, failure=FailureReason.DNS_ERROR) for target in targets]

    def record() -> None:
        for _ in range(500):
            for result in failing:
                results.record(result)
                results.record_skipped(result.target_id, SkipReason.SATURATED, 2)

    threads = [threading.Thread(target=record) for _ in range(8)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for state in results.snapshot():
            assert state.results[Outcome.FAILURE] == sum(state.failures.values())
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert results.snapshot() == tuple(
        TargetState(
            target=target,
            latest=result,
            results={**NONE_YET, Outcome.FAILURE: 4000},
            failures={FailureReason.DNS_ERROR: 4000},
            skipped={SkipReason.SATURATED: 8000},
        )
        for target, result in zip(targets, failing, strict=True)
    )
