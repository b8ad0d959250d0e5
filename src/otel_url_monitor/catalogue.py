"""The list of metrics as documentation: the one source of docs/metrics.md's table."""

import json
from collections.abc import Iterable

from otel_url_monitor.instruments import ROWS, Row


def as_markdown(rows: Iterable[Row] = ROWS) -> str:
    """A table, one line for each metric."""
    lines = ["| metric | type | labels | level | OpenTelemetry name | what it says |", "|---|---|---|---|---|---|"]
    lines += [
        f"| `{row.exposed}` | {row.kind} | {' '.join(f'`{label}`' for label in _labels(row))} "
        f"| {row.level or 'always'} | `{row.name}` | {row.description} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def as_json(rows: Iterable[Row] = ROWS) -> str:
    """A list of objects with the same facts."""
    entries = [
        {
            "name": row.exposed,
            "type": row.kind,
            "labels": _labels(row),
            "level": row.level or "always",
            "otel_name": row.name,
            "unit": row.unit,
            "description": row.description,
        }
        for row in rows
    ]
    return json.dumps(entries, indent=2) + "\n"


def _labels(row: Row) -> list[str]:
    """Per-target metrics also carry the user's own labels, which no table can list."""
    return [*(["url"] if row.level else []), *row.labels]
