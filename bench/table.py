"""The rows of the result: figure, peer's figure, bound, verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

_HEADER = ("measure", "unit", "ours", "peer", "ratio", "bound", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measure; less is better in all of them.

    Attributes:
        ours: `None` for a figure that only puts others into proportion.
        peer: `None` when there is nothing to compare with.
        max_ratio: the bound of ours / peer, `None` for none.
        max_ours: the bound of ours itself, `None` for none.
    """

    measure: str
    unit: str
    ours: float | None = None
    peer: float | None = None
    max_ratio: float | None = None
    max_ours: float | None = None

    @property
    def ratio(self) -> float | None:
        """Ours / peer, `None` when one of them is missing."""
        return self.ours / self.peer if self.ours is not None and self.peer else None

    @property
    def is_over(self) -> bool:
        """Whether a bound is exceeded."""
        return _exceeds(self.ratio, self.max_ratio) or _exceeds(self.ours, self.max_ours)

    @property
    def bound(self) -> str:
        """The bound in words, empty without one."""
        ratio = None if self.max_ratio is None else f"ratio <= {self.max_ratio:g}"
        ours = None if self.max_ours is None else f"<= {self.max_ours:g} {self.unit}"
        return ", ".join(words for words in (ratio, ours) if words)

    @property
    def verdict(self) -> str:
        """`ok` or `over`, empty without a bound."""
        return ("over" if self.is_over else "ok") if self.bound else ""

    def as_json(self) -> dict[str, Any]:
        """The row with what follows from it."""
        return asdict(self) | {"ratio": self.ratio, "verdict": self.verdict}


def _exceeds(figure: float | None, bound: float | None) -> bool:
    return figure is not None and bound is not None and figure > bound


def render(rows: Sequence[Row]) -> str:
    """The table as text."""
    cells = [_HEADER, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(_line(line, widths) for line in cells)


def _cells(row: Row) -> tuple[str, ...]:
    return (row.measure, row.unit, *map(_number, (row.ours, row.peer, row.ratio)), row.bound, row.verdict)


def _number(figure: float | None) -> str:
    if figure is None:
        return "-"
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    # Words to the left, the three columns of numbers to the right.
    padded = [
        cell.rjust(width) if 2 <= column <= 4 else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()
