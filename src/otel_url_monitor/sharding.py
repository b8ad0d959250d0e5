"""Which targets are mine: rendezvous hashing (Thaler and Ravishankar, 1998)."""

import hashlib
from collections.abc import Sequence

from otel_url_monitor.model import Target


def owner(key: str, nodes: int) -> int:
    """The node, from 0 to `nodes` - 1, that a key belongs to; one node more takes only its own share of keys."""
    return max(range(nodes), key=lambda node: _weight(key, node))


def partition(targets: Sequence[Target], workers: int) -> tuple[tuple[Target, ...], ...]:
    """The targets of each prober process, in the order given."""
    parts: list[list[Target]] = [[] for _ in range(workers)]
    for target in targets:
        parts[owner(target.id, workers)].append(target)
    return tuple(tuple(part) for part in parts)


def _weight(key: str, node: int) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8, salt=node.to_bytes(4, "big")).digest()
