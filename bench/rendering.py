"""CPU of collecting and rendering alone, without HTTP and gzip: our renderer's or the stock reader's.

`python -m bench.rendering ours|stock text|openmetrics TARGETS RENDERS` prints the figures as JSON. Each way has a
process of its own: garbage collection is part of the price, and would otherwise be paid by whoever is next.
"""

import json
import random
import sys
import time
from collections.abc import Callable

from prometheus_client.exposition import generate_latest as stock_text
from prometheus_client.openmetrics.exposition import generate_latest as stock_openmetrics

from bench.stock import make_instruments, make_targets, record_round, stock_registry
from otel_url_monitor.exposition import Renderer
from otel_url_monitor.results import Results
from otel_url_monitor.telemetry import Telemetry

Render = Callable[[], bytes]


def main() -> None:
    """Measure and print."""
    way, form = sys.argv[1:3]
    count, renders = (int(argument) for argument in sys.argv[3:])
    targets = make_targets(count)
    results = Results(targets)
    render = (_ours if way == "ours" else _stock)(results, is_openmetrics=form == "openmetrics")
    chance = random.Random(1)
    record_round(results, targets, chance)
    series = _series(render())
    spent = []
    for _ in range(renders):
        # New results each time, as in the service: nothing can be answered from memory.
        record_round(results, targets, chance)
        begin = time.process_time()
        render()
        spent.append(time.process_time() - begin)
    print(json.dumps({"series": series, "cpu_seconds": spent}))


def _ours(results: Results, *, is_openmetrics: bool) -> Render:
    telemetry = Telemetry()
    make_instruments(telemetry.meter(), results)
    renderer = Renderer(telemetry.reader)
    return lambda: renderer.render(openmetrics=is_openmetrics)


def _stock(results: Results, *, is_openmetrics: bool) -> Render:
    registry = stock_registry(results)
    generate_latest = stock_openmetrics if is_openmetrics else stock_text
    return lambda: generate_latest(registry)


def _series(exposition: bytes) -> int:
    return sum(not line.startswith(b"#") for line in exposition.splitlines())


if __name__ == "__main__":
    main()
