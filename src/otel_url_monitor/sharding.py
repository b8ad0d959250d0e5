"""Which targets are mine: rendezvous hashing (Thaler and Ravishankar, 1998)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from otel_url_monitor.model import Target


def owner(key: str, nodes: int) -> int:
    """The node, from 0 to `nodes` - 1, that a key belongs to; one node more takes only its own share of keys."""
    return max(range(nodes), key=lambda node: _weight(key, node))


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several monitors that share a configuration.

    Attributes:
        ordinal: from 0.
        count: how many there are.
    """

    ordinal: int = 0
    count: int = 1

    def mine(self, targets: Sequence[Target]) -> tuple[Target, ...]:
        """My targets; those with the same `url` label are always together."""
        return tuple(target for target in targets if owner(target.display_url, self.count) == self.ordinal)


def partition(targets: Sequence[Target], workers: int) -> tuple[tuple[Target, ...], ...]:
    """The targets of each prober process, in the order given."""
    parts: list[list[Target]] = [[] for _ in range(workers)]
    for target in targets:
        parts[owner(target.id, workers)].append(target)
    return tuple(tuple(part) for part in parts)


def _weight(key: str, node: int) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8, salt=node.to_bytes(4, "big")).digest()
