"""Which monitor, and which of its prober processes, gets which target."""

from collections import Counter
from pathlib import Path

import pytest

from factories import make_target, make_targets
from otel_url_monitor.sharding import Shard, owner, partition
from processes import run_command, running, write_config

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


URLS = tuple(
    make_target(f"https://shop-{number}.example.com/health?{query}", name)
    for number in range(2500)
    for query, name in (("a=1", None), ("a=2", "checkout"))
)


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_shards_are_a_partition(count: int) -> None:
    """Each target belongs to one shard, and those with one URL to the same, whatever their labels."""
    parts = [Shard(ordinal, count).mine(URLS) for ordinal in range(count)]
    assert sorted(target.id for part in parts for target in part) == sorted(target.id for target in URLS)
    twins = [make_target("https://example.com/", name) for name in ("a", "b", "c")]
    assert sorted(len(Shard(ordinal, count).mine(twins)) for ordinal in range(count)) == [0] * (count - 1) + [3]


def test_a_fifth_shard_moves_few_targets() -> None:
    """From four to five shards at most 22 % of 5,000 URLs move, all of them to the new one."""
    homes = [{target.id: owner(target.display_url, count) for target in URLS} for count in (4, 5)]
    moved = [key for key in homes[0] if homes[0][key] != homes[1][key]]
    assert {homes[1][key] for key in moved} == {4}
    assert 0 < len(moved) <= 0.22 * len(URLS)


def test_shards_and_workers_do_not_agree() -> None:
    """The targets of one shard spread over all of its workers: the two hashes have different keys."""
    parts = partition(Shard(0, 4).mine(URLS), 4)
    assert min(map(len, parts)) > 0.8 * max(map(len, parts))


def test_live_shards_share_the_configuration(tmp_path: Path) -> None:
    """The targets of four running monitors are together the configuration, and no two have one in common."""
    urls = [f"http://127.0.0.1:9/{number}" for number in range(40)]
    config = write_config(tmp_path, urls, interval="1h", timeout="1s")
    shown = []
    for ordinal in range(4):
        arguments = ("-c", str(config), "--port", "0", "--host", "127.0.0.1", "--shard", f"{ordinal}/4")
        with running("run", *arguments) as service:
            samples = service.samples()
            assert samples.get("url_monitor_shard_ordinal") == ordinal
            assert samples.get("url_monitor_shards") == 4
            shown += sorted({labels["url"] for labels in samples.labels("url_monitor_probe_results_total")})
    assert sorted(shown) == sorted(urls)


@pytest.mark.parametrize("text", ["4/4", "-1/4", "1", "1/", "/4", "a/4", "1/4/2", "0/0", "0/1001"])
def test_a_shard_that_is_none(text: str) -> None:
    """A part that cannot be is refused at once, with what was expected."""
    done = run_command("run", "http://127.0.0.1:9/", f"--shard={text}")
    assert done.returncode == 2
    assert f"--shard is K/N with K from 0 to N - 1 and N up to 1000, got '{text}'" in done.stderr
