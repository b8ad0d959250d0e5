"""The command line: which parts to run, the table, the raw figures, the exit code."""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pycurl

import bench
from bench.capacity import capacity
from bench.memory import memory
from bench.probing import http_probes, https_probes, traced_probes
from bench.processes import BenchError
from bench.programs import Site, nginx, require_programs, versions
from bench.scraping import scraping
from bench.table import Row, render
from bench.timing import timing

Part = Callable[[Site, float], tuple[list[Row], dict[str, Any]]]

PARTS: dict[str, Part] = {
    "http": http_probes,
    "https": https_probes,
    "tracing": traced_probes,
    "timing": timing,
    "scraping": scraping,
    "memory": memory,
}
# Asked for by name: figures to plan with, nine minutes and no bound.
EXTRA: dict[str, Part] = {"capacity": capacity}


def main() -> int:
    """Run the benchmark; 0 within all bounds, 1 when one is exceeded, 2 when it could not be run."""
    # As an exception it ends the programs that were started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _options()
    try:
        require_programs()
        rows, raw = _run(options.only or list(PARTS), options.seconds)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(render(rows))
    if options.json:
        _write(options.json, rows, raw)
    return 1 if any(row.is_over for row in rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=bench.__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of one measurement (default 30)")
    parser.add_argument("--only", action="append", choices=[*PARTS, *EXTRA], help="run this part; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures there")
    return parser.parse_args()


def _run(names: Sequence[str], seconds: float) -> tuple[list[Row], dict[str, Any]]:
    rows: list[Row] = []
    raw: dict[str, Any] = {"machine": _machine(), "seconds": seconds}
    with tempfile.TemporaryDirectory(prefix="otel-url-monitor-bench-") as folder, nginx(Path(folder)) as site:
        for name in names:
            print(f"{name} ...", file=sys.stderr)
            part_rows, raw[name] = (PARTS | EXTRA)[name](site, seconds)
            rows += part_rows
    return rows, raw


def _machine() -> dict[str, Any]:
    distributions = ("opentelemetry-sdk", "opentelemetry-exporter-prometheus", "prometheus-client", "requests")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "pycurl": pycurl.version,
        **versions(),
        **{name: version(name) for name in distributions},
    }


def _write(path: Path, rows: Sequence[Row], raw: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": [row.as_json() for row in rows], **raw}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
