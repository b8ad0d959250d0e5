"""The built OpenTelemetry Collector as a real process with one of our files, and what came out of it."""

import contextlib
import json
import os
import random
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from processes import Running, Samples, get, require_tool, wait_for

FILES = Path(__file__).parent.parent / "otel-collector"
NAMES = ("gateway", "scrape", "test")

Points = dict[tuple[str, frozenset[tuple[str, object]]], float]


def require_collector() -> str:
    """The path of the built collector: `$OTELCOL`, as `make collector` prints it."""
    return require_tool(os.environ.get("OTELCOL") or "otelcol-url-monitor")


class Collector:
    """One of our files in a collector of its own; what it listens on and writes outlasts a kill.

    A context manager that kills what is left; nothing runs before `start`.

    Args:
        file: which one, by its name without `.yaml`.
        folder: where its queue and its output go.
        env: more of the file's variables.
    """

    def __init__(self, file: str, folder: Path, env: Mapping[str, str]) -> None:
        otlp, self._health, exposition, telemetry = (f"127.0.0.1:{_lasting_port()}" for _ in range(4))
        self.endpoint = f"http://{otlp}"
        self.exposition = f"http://{exposition}/metrics"
        self.output = folder / f"{file}.jsonl"
        self._telemetry = f"http://{telemetry}/metrics"
        self._command = (require_collector(), "--config", str(FILES / f"{file}.yaml"))
        self._env = {
            "OTLP_ADDRESS": otlp,
            "HEALTH_ADDRESS": self._health,
            "PROMETHEUS_ADDRESS": exposition,
            "TELEMETRY_HOST": telemetry.partition(":")[0],
            "TELEMETRY_PORT": telemetry.partition(":")[2],
            "QUEUE_DIRECTORY": str(folder / f"{file}-queue"),
            "OTLP_FILE": str(self.output),
            **env,
        }
        self._process: Running | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it takes data."""
        self._process = Running(self._command, self._env)
        wait_for(self._is_ready, "the collector is ready")

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.process.poll() is None, self._process.log
        try:
            return get(f"http://{self._health}/")[0] == 200
        except OSError:
            return False

    def stop(self) -> None:
        """End it as an operator does; what it holds in memory is sent or written first."""
        assert self._process is not None
        self._process.end(signal.SIGTERM, seconds=20)
        assert self._process.process.returncode == 0, self._process.log

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.close()

    def telemetry(self) -> Samples:
        """What it says of itself."""
        return Samples(get(self._telemetry)[1])


@contextlib.contextmanager
def collecting(file: str, folder: Path, **env: str) -> Iterator[Collector]:
    """A running collector with that file; whatever is left of it is killed in the end."""
    with Collector(file, folder, env) as made:
        made.start()
        yield made


_below_ephemeral = iter(random.sample(range(20_000, 32_000), 12_000))


def _lasting_port() -> int:
    """A free port, given once, that no outgoing connection takes while the collector is down."""
    for port in _below_ephemeral:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span as it came out; times are Unix seconds."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start: float
    end: float
    attributes: Mapping[str, object]
    events: tuple[Mapping[str, object], ...]
    is_error: bool
    status_message: str


def spans(output: Path) -> list[Span]:
    """Every span in a file that the file exporter wrote, in the order of their arrival."""
    return [
        _span(raw)
        for resource in _records(output, "resourceSpans")
        for scope in resource["scopeSpans"]
        for raw in scope["spans"]
    ]


def points(output: Path) -> Points:
    """The latest value of each series in such a file, by OpenTelemetry name and attributes; of histograms the count."""
    return {
        (metric["name"], frozenset(_attributes(point).items())): _value(point)
        for resource in _records(output, "resourceMetrics")
        for scope in resource["scopeMetrics"]
        for metric in scope["metrics"]
        for data in metric.values()
        if isinstance(data, dict)
        for point in data.get("dataPoints", ())
    }


def _records(output: Path, kind: str) -> Iterator[dict[str, Any]]:
    """The resources in the file's complete lines."""
    text = output.read_text() if output.exists() else ""
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            yield from json.loads(line).get(kind, ())


def _span(raw: Mapping[str, Any]) -> Span:
    return Span(
        trace_id=raw["traceId"],
        span_id=raw["spanId"],
        parent_id=raw.get("parentSpanId", ""),
        name=raw["name"],
        kind={1: "INTERNAL", 2: "SERVER", 3: "CLIENT"}[raw["kind"]],
        start=int(raw["startTimeUnixNano"]) / 1e9,
        end=int(raw["endTimeUnixNano"]) / 1e9,
        attributes=_attributes(raw),
        events=tuple(_attributes(event) for event in raw.get("events", ())),
        is_error=raw["status"].get("code") == 2,
        status_message=raw["status"].get("message", ""),
    )


def _attributes(raw: Mapping[str, Any]) -> dict[str, object]:
    return {pair["key"]: _plain(pair["value"]) for pair in raw.get("attributes", ())}


def _plain(value: Mapping[str, Any]) -> object:
    """The Python value of an OTLP one; JSON has 64-bit integers as text."""
    ((kind, plain),) = value.items()
    return int(plain) if kind == "intValue" else plain


def _value(point: Mapping[str, Any]) -> float:
    return float(next(point[key] for key in ("asDouble", "asInt", "count") if key in point))
