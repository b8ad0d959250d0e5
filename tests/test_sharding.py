"""Which prober process gets which target."""

from collections import Counter

import pytest

from factories import make_target, make_targets
from otel_url_monitor.sharding import owner, partition

TARGETS = make_targets(10_000)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_every_target_has_one_worker(workers: int) -> None:
    """Each target goes to exactly one worker, in the order of the configuration."""
    parts = partition(TARGETS, workers)
    assert len(parts) == workers
    assert sorted(target.id for part in parts for target in part) == sorted(target.id for target in TARGETS)
    positions = {target.id: position for position, target in enumerate(TARGETS)}
    assert all([positions[t.id] for t in part] == sorted(positions[t.id] for t in part) for part in parts)


def test_the_owner_is_always_the_same() -> None:
    """Who owns a key is decided by the key alone, the same in every process and release."""
    assert [owner(f"key-{number}", 5) for number in range(12)] == [2, 2, 4, 3, 4, 2, 2, 4, 2, 0, 2, 0]


def test_the_load_is_even() -> None:
    """No worker has more than a tenth above or below its share."""
    shares = Counter(owner(target.id, 8) for target in TARGETS)
    assert min(shares.values()) > 0.9 * len(TARGETS) / 8
    assert max(shares.values()) < 1.1 * len(TARGETS) / 8


@pytest.mark.parametrize("nodes", [1, 2, 5, 10])
def test_one_node_more_takes_only_its_share(nodes: int) -> None:
    """Adding a node moves keys only to it, and no more than its share."""
    before = {target.id: owner(target.id, nodes) for target in TARGETS}
    after = {target.id: owner(target.id, nodes + 1) for target in TARGETS}
    moved = {after[key] for key in before if before[key] != after[key]}
    assert moved == {nodes}
    assert sum(before[key] != after[key] for key in before) < 1.2 * len(TARGETS) / (nodes + 1)


def test_more_workers_than_targets() -> None:
    """A worker may have nothing to do."""
    assert sorted(map(len, partition([make_target()], 3))) == [0, 0, 1]
