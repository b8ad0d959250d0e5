"""The Prometheus reader's output as bytes: text or OpenMetrics, exemplars, gzip, one render at a time."""

import gzip
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, cast

from opentelemetry.exporter.prometheus._mapping import map_unit, sanitize_attribute, sanitize_full_name
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest as text_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_latest
from prometheus_client.utils import floatToGoString

from otel_url_monitor.telemetry import (
    GaugeData,
    HistogramData,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    SnapshotReader,
    SumData,
)

_logger = logging.getLogger(__name__)

MAX_AGE = 1.0
"""Seconds for which a rendered exposition answers further scrapes."""

_PERIODS = (2.0, 300.0)
"""Seconds between two scrapes of one scraper for which the next one is worth preparing for."""

_MAX_SCRAPERS = 8


@dataclass(frozen=True, slots=True)
class Format:
    """How an exposition is written down."""

    openmetrics: bool = False
    compressed: bool = False

    @property
    def content_type(self) -> str:
        """The media type that says so."""
        if self.openmetrics:
            return "application/openmetrics-text; version=1.0.0; charset=utf-8"
        return "text/plain; version=0.0.4; charset=utf-8"


class Renderer:
    """Writes down what a reader collects. Not thread-safe.

    It gives the same samples as prometheus_client over the stock reader, for half the CPU: labels are
    rendered once per attribute set (the SDK keeps one mapping for each until it forgets it), and nothing is
    built only to be taken apart again. A label that a series lacks is left out, not empty.
    """

    def __init__(self, reader: SnapshotReader) -> None:
        self._reader = reader
        self._labels: dict[int, tuple[Any, str]] = {}
        self._labels_before = self._labels
        self._exemplars: dict[str, dict[int, str]] = {}
        self._exemplars_before = self._exemplars
        self._unknown: set[str] = set()
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)

    def render(self, *, openmetrics: bool) -> bytes:
        """One complete exposition of this moment."""
        data = self._reader.read()
        lines: list[str] = []
        # What is not said any more is forgotten.
        self._labels_before, self._labels = self._labels, {}
        self._exemplars_before, self._exemplars = self._exemplars, {}
        for resource_metrics in data.resource_metrics if data else ():
            lines += self._info(resource_metrics.resource.attributes, openmetrics=openmetrics)
            for scope in resource_metrics.scope_metrics:
                for metric in scope.metrics:
                    lines += self._family(metric, openmetrics=openmetrics)
        latest: Callable[[CollectorRegistry], bytes] = openmetrics_latest if openmetrics else text_latest
        process = latest(self._process)
        lines.append(process.decode())  # ends with "# EOF" in OpenMetrics
        # A lone surrogate, as an environment variable that is not UTF-8 holds, must not cost the whole exposition.
        return "".join(lines).encode(errors="replace")

    def _info(self, attributes: Any, *, openmetrics: bool) -> Iterator[str]:
        name = "target" if openmetrics else "target_info"
        yield f"# HELP {name} Target metadata\n# TYPE {name} {'info' if openmetrics else 'gauge'}\n"
        yield f"target_info{_render_labels(attributes)} 1.0\n"

    def _family(self, metric: Metric, *, openmetrics: bool) -> Iterator[str]:
        kind = _kind(metric)
        if kind is None:
            if metric.name not in self._unknown:
                self._unknown.add(metric.name)
                _logger.warning("the metric %s is of a kind that cannot be exposed", metric.name)
            return
        name, unit = _exposed_name(metric)
        family = name + "_total" if kind == "counter" and not openmetrics else name
        yield f"# HELP {family} {_escape_help(metric.description or '')}\n# TYPE {family} {kind}\n"
        if openmetrics and unit:
            yield f"# UNIT {family} {unit}\n"
        if kind == "histogram":
            for point in metric.data.data_points:
                yield from self._histogram(name, cast("HistogramDataPoint", point), exemplars=openmetrics)
        else:
            sample = name + "_total" if kind == "counter" else name
            for number in metric.data.data_points:
                point = cast("NumberDataPoint", number)
                yield f"{sample}{self._labels_of(point.attributes)} {_number(point.value)}\n"

    def _histogram(self, name: str, point: HistogramDataPoint, *, exemplars: bool) -> Iterator[str]:
        labels = self._labels_of(point.attributes)
        prefix = f"{name}_bucket{{{labels[1:-1]}{',' if labels else ''}"
        bounds = [*point.explicit_bounds, inf]
        # The reader hands each exemplar out once; like a client library's they stay until a newer one comes,
        # so that a second scraper, or one that reads text, takes none away.
        series = name + labels
        latest = self._exemplars[series] = self._exemplars_before.get(series, {}) | _exemplars_by_bucket(point)
        found = latest if exemplars else {}
        total = 0
        for index, (bound, count) in enumerate(zip(bounds, point.bucket_counts, strict=True)):
            total += count
            yield f'{prefix}le="{bound if bound != inf else "+Inf"}"}} {_number(total)}{found.get(index, "")}\n'
        yield f"{name}_count{labels} {_number(total)}\n{name}_sum{labels} {_number(point.sum)}\n"

    def _labels_of(self, attributes: Any) -> str:
        kept = self._labels_before.get(id(attributes))
        if kept is None or kept[0] is not attributes:
            kept = attributes, _render_labels(attributes)
        self._labels[id(attributes)] = kept
        return kept[1]


class Exposition:
    """Serves expositions. Thread-safe; renders one at a time, and every waiting scraper gets the same bytes.

    A scraper that comes at regular times finds its exposition ready: it is rendered just ahead of when the
    scraper is due, so that rendering costs the same CPU as on demand and no waiting.

    Args:
        renderer: makes the bytes.
        clock: monotonic seconds.
    """

    def __init__(self, renderer: Renderer, clock: Callable[[], float] = time.monotonic) -> None:
        self._renderer = renderer
        self._clock = clock
        self._rendering = threading.Lock()
        self._latest: dict[Format, tuple[float, bytes]] = {}
        self._scrapers: dict[str, _Scraper] = {}
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._prepare, name="render-ahead", daemon=True)
        self.render_seconds: float | None = None

    def start(self) -> None:
        """Begin to render ahead."""
        self._thread.start()

    def stop(self) -> None:
        """Render ahead no more."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    def discard(self) -> None:
        """Once this returns, nothing that was rendered before is served any more."""
        with self._rendering:
            self._latest = {}

    def ready(self, wanted: Format) -> bytes | None:
        """The exposition that is there, when it is at most a second old; never waits."""
        made_at, body = self._latest.get(wanted, (float("-inf"), b""))
        return body if self._clock() - made_at <= MAX_AGE else None

    def get(self, wanted: Format) -> bytes:
        """An exposition at most a second old; may take as long as two renders."""
        with self._rendering:
            body = self.ready(wanted)
            return self._render(wanted) if body is None else body

    def seen(self, scraper: str, wanted: Format) -> None:
        """Note that a scraper came, to be ready for it the next time."""
        now = self._clock()
        with self._changed:
            before = self._scrapers.pop(scraper, None)
            period = now - before.seen_at if before else 0.0
            is_regular = _PERIODS[0] <= period <= _PERIODS[1]
            self._scrapers[scraper] = _Scraper(now, wanted, now + period if is_regular else None)
            if len(self._scrapers) > _MAX_SCRAPERS:
                del self._scrapers[next(iter(self._scrapers))]
            self._changed.notify()

    def _render(self, wanted: Format) -> bytes:
        begin = self._clock()
        body = self._renderer.render(openmetrics=wanted.openmetrics)
        if wanted.compressed:
            # Level 1: a third of the default level's time for an exposition 1.3 times as long.
            body = gzip.compress(body, compresslevel=1)
        end = self._clock()
        self.render_seconds = end - begin
        self._latest[wanted] = (end, body)
        return body

    def _prepare(self) -> None:
        while (wanted := self._next_due()) is not None:
            try:
                with self._rendering:
                    self._render(wanted)
            except Exception:
                _logger.exception("rendering ahead failed")

    def _next_due(self) -> Format | None:
        """Wait until the next regular scraper is about to come; its format, or `None` at the end."""
        with self._changed:
            while not self._is_stopping:
                lead = _lead(self.render_seconds or 0.0)
                due = [scraper for scraper in self._scrapers.values() if scraper.expected_at is not None]
                first = min(due, key=lambda scraper: scraper.expected_at or 0.0, default=None)
                wait = (first.expected_at or 0.0) - lead - self._clock() if first else None
                if first is not None and wait is not None and wait <= 0:
                    first.expected_at = None
                    return first.wanted
                self._changed.wait(wait)
        return None


def _lead(render_seconds: float) -> float:
    """Seconds before a scrape at which to begin: time for a render half as slow again, well within its age limit."""
    return render_seconds + min(0.7 * MAX_AGE, 0.3 + 0.5 * render_seconds)


@dataclass(slots=True)
class _Scraper:
    seen_at: float
    wanted: Format
    expected_at: float | None


def _kind(metric: Metric) -> str | None:
    match metric.data:
        case SumData(is_monotonic=True):
            return "counter"
        case SumData() | GaugeData():
            return "gauge"
        case HistogramData():
            return "histogram"
    return None


def _exposed_name(metric: Metric) -> tuple[str, str]:
    """The name without `_total`, and the unit that is its suffix: the stock exporter's rules."""
    name, unit = sanitize_full_name(metric.name), map_unit(metric.unit or "")
    return (f"{name}_{unit}" if unit and not name.endswith(f"_{unit}") else name), unit


def _render_labels(attributes: Any) -> str:
    pairs = sorted((sanitize_attribute(key), _label_value(value)) for key, value in (attributes or {}).items())
    # Two keys may become one name: their values are joined, as the stock exporter does for the resource.
    named: dict[str, list[str]] = {}
    for key, value in pairs:
        if value:
            named.setdefault(key, []).append(value)
    rendered = ",".join(f'{key}="{_escape(";".join(values))}"' for key, values in named.items())
    return f"{{{rendered}}}" if rendered else ""


def _label_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _escape(value: str) -> str:
    return _escape_help(value).replace('"', '\\"')


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    # The plain form is the same up to a million, where Go's turns to exponents.
    return repr(float(value)) if -1e6 < value < 1e6 else str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _exemplars_by_bucket(point: HistogramDataPoint) -> dict[int, str]:
    """The latest exemplar of each bucket, rendered; OpenMetrics allows one per bucket."""
    found: dict[int, str] = {}
    for exemplar in sorted(point.exemplars, key=lambda exemplar: exemplar.time_unix_nano):
        if exemplar.trace_id is None:
            continue
        index = sum(exemplar.value > bound for bound in point.explicit_bounds)
        labels = f'{{trace_id="{exemplar.trace_id:032x}",span_id="{exemplar.span_id or 0:016x}"}}'
        found[index] = f" # {labels} {_number(exemplar.value)} {exemplar.time_unix_nano / 1e9:.3f}"
    return found
