"""The exposition: the same samples as the stock exporter's, one render at a time, ready before it is asked for."""

import gzip
import itertools
import logging
import sys
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Exemplar

from factories import (
    SPAN_ID,
    TRACE_ID,
    URL,
    Metrics,
    Worker,
    make_certificate,
    make_hop,
    make_result,
    make_target,
    sample_names,
)
from otel_url_monitor.exposition import MAX_AGE, Exposition, Format, Renderer
from otel_url_monitor.instruments import Instruments
from otel_url_monitor.model import FailureReason, MetricsLevel, Phases, SkipReason
from otel_url_monitor.telemetry import SnapshotReader, Telemetry

LATENCY = "url_monitor_probe_latency_seconds"
TEXT, OPENMETRICS = Format(), Format(openmetrics=True)


class TestSamples:
    """The samples are the stock exporter's."""

    @pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])
    def test_the_same_as_the_stock_exporter_s(self, openmetrics: bool) -> None:
        """Families, help, types, units, series and values are what the stock exporter makes of the same results."""
        targets = (
            make_target("https://a.example/?q=\"\\\n'é漢"),
            make_target("https://b.example/", name="shop", interval=30.0),
            make_target("https://c.example/", labels=(("env", "prod"), ("team", ""))),
        )
        ours = Metrics(targets, MetricsLevel.FULL, workers=[Worker(1, 0.1, 12_345_678, 2), Worker()])
        registry = CollectorRegistry()
        provider = MeterProvider(
            metric_readers=[PrometheusMetricReader(scope_info_enabled=False, registry=registry)],
            resource=Resource(ours.telemetry.resource_attributes),
            shutdown_on_exit=False,
        )
        stock = Instruments(provider.get_meter("stock"), ours.results, MetricsLevel.FULL, ours.service)
        for number, target in enumerate(targets):
            hop = make_hop(
                duration=0.1 + number,
                phases=Phases(resolve=1e-6, processing=1 / 3),
                chain=(make_certificate(1.9e9),),
                address="2001:db8::1",
                last_modified=1.23456789e9,
            )
            failure = FailureReason.OTHER if number else None
            result = make_result(target, hop, checks=(("status", True),), failure=failure)
            ours.probed(result, lag=0.002)
            stock.record(ours.results.snapshot()[number], result, 0.002)
        ours.results.record_skipped(targets[0].id, SkipReason.OVERRUN, 10_000_000)
        parse, generate = (parse_openmetrics, generate_openmetrics) if openmetrics else (parse_text, generate_latest)
        ours.text()  # the headroom is the same before and after the stock exporter's turn
        expected = _families(parse(generate(registry).decode()))
        found = _families(parse(ours.openmetrics() if openmetrics else ours.text()))
        assert {name: found.pop(name) for name in expected} == expected
        assert {name.partition("_")[0] for name in found} == {"process", "python"}

    def test_no_scope_labels(self) -> None:
        """No series carries the instrumentation scope."""
        metrics = Metrics([make_target()])
        assert "otel_scope" not in metrics.text() + metrics.openmetrics()

    def test_process_metrics_are_there(self) -> None:
        """The process, the interpreter and the resource are described too, in both formats."""
        metrics = Metrics([make_target()])
        for exposition in (metrics.text(), metrics.openmetrics()):
            assert sample_names(exposition) >= {
                "target_info",
                "process_cpu_seconds_total",
                "process_resident_memory_bytes",
                "process_open_fds",
                "python_info",
                "python_gc_collections_total",
            }

    def test_openmetrics_ends_with_eof(self) -> None:
        """OpenMetrics has one end mark, at the end; the text format has none."""
        metrics = Metrics([make_target()])
        assert metrics.openmetrics().endswith("\n# EOF\n")
        assert metrics.openmetrics().count("# EOF") == 1
        assert "# EOF" not in metrics.text()

    def test_label_values_and_numbers_survive(self) -> None:
        """Any text as a label value and any number as a value are read back exactly, in both formats."""
        observed: list[Observation] = []
        telemetry = Telemetry()
        telemetry.meter().create_observable_gauge("some.gauge", callbacks=[lambda _options: observed])
        renderer = Renderer(telemetry.reader)

        @given(
            st.text(st.characters(exclude_categories=["Cs"])) | st.text('\\"\n\r{}= #,'),
            st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
        )
        def survives(label: str, value: float) -> None:
            observed[:] = [Observation(value, {"url": label})]
            for parse, openmetrics in ((parse_text, False), (parse_openmetrics, True)):
                (family,) = (
                    family
                    for family in parse(renderer.render(openmetrics=openmetrics).decode())
                    if family.name == "some_gauge"
                )
                assert [(s.labels, s.value) for s in family.samples] == [({"url": label} if label else {}, value)]

        survives()

    def test_half_a_character_does_not_break_the_rest(self) -> None:
        """A label value that cannot be written as UTF-8 shows a question mark in its place."""
        telemetry = Telemetry()
        values = [Observation(1, {"url": "a\ud800b"}), Observation(2, {"url": "c"})]
        telemetry.meter().create_observable_gauge("some.gauge", callbacks=[lambda _options: values])
        text = Renderer(telemetry.reader).render(openmetrics=False).decode()
        assert 'some_gauge{url="a?b"} 1.0\nsome_gauge{url="c"} 2.0\n' in text

    def test_an_up_down_counter_is_a_gauge(self) -> None:
        """A sum that may fall is a gauge in Prometheus' terms."""
        telemetry = Telemetry()
        telemetry.meter().create_up_down_counter("some.level", description="a\nb\\c").add(-2)
        text = Renderer(telemetry.reader).render(openmetrics=False).decode()
        assert "# HELP some_level a\\nb\\\\c\n# TYPE some_level gauge\nsome_level -2.0\n" in text

    def test_an_exponential_histogram_costs_only_itself(self, caplog: pytest.LogCaptureFixture) -> None:
        """A histogram that the text formats cannot express is left out with one warning; the rest stays complete."""
        reader = SnapshotReader()
        view = View(instrument_name="some.histogram", aggregation=ExponentialBucketHistogramAggregation())
        meter = MeterProvider(metric_readers=[reader], views=[view], shutdown_on_exit=False).get_meter("test")
        meter.create_histogram("some.histogram").record(1.0)
        meter.create_counter("some.counter").add(1)
        renderer = Renderer(reader)
        for openmetrics in (False, True, False):
            text = renderer.render(openmetrics=openmetrics).decode()
            assert "some_counter_total 1.0\n" in text
            assert "process_cpu_seconds_total" in text
            assert "some_histogram" not in text
        assert [record.getMessage() for record in caplog.records] == [
            "the metric some.histogram is of a kind that cannot be exposed"
        ]


class TestExemplars:
    """A bucket of the latency histogram leads to a trace."""

    def test_they_are_on_buckets_in_openmetrics(self) -> None:
        """A probe with a trace marks the bucket it fell into, and no other series."""
        target = make_target()
        metrics = Metrics([target], MetricsLevel.FULL)
        metrics.probed(make_result(target, make_hop(duration=0.5), trace_id=TRACE_ID))
        ((sample, exemplar),) = _exemplars(metrics)
        assert sample == (f"{LATENCY}_bucket", {"url": URL, "le": "0.5"}, 1.0)
        assert (exemplar.labels, exemplar.value) == ({"trace_id": TRACE_ID, "span_id": SPAN_ID}, 0.5)
        assert exemplar.timestamp is not None

    def test_none_in_the_text_format(self) -> None:
        """The text format knows no exemplars."""
        target = make_target()
        metrics = Metrics([target], MetricsLevel.FULL)
        metrics.probed(make_result(target, make_hop(duration=0.3), trace_id=TRACE_ID))
        assert TRACE_ID not in metrics.text()
        assert metrics.lines(f"{LATENCY}_bucket")[6] == f'{LATENCY}_bucket{{url="{URL}",le="0.5"}} 1.0'

    def test_none_without_a_trace(self) -> None:
        """A probe without a trace leaves no mark."""
        target = make_target()
        metrics = Metrics([target], MetricsLevel.FULL).probed(make_result(target, make_hop()))
        assert list(_exemplars(metrics)) == []

    def test_no_scrape_takes_them_away(self) -> None:
        """A mark stays until a newer probe in the same bucket replaces it, whoever scrapes in between."""
        target, other = make_target(), make_target("https://other.example/")
        metrics = Metrics([target, other], MetricsLevel.FULL)
        metrics.probed(
            make_result(target, make_hop(duration=0.3), trace_id="1" * 32),
            make_result(target, make_hop(duration=99.0), trace_id="2" * 32),
            make_result(other, make_hop(duration=0.3), trace_id="3" * 32),
        )
        metrics.text()
        first = [(sample[1], exemplar.labels["trace_id"][0]) for sample, exemplar in _exemplars(metrics)]
        metrics.probed(make_result(target, make_hop(duration=0.3), trace_id="4" * 32))
        second = [(sample[1], exemplar.labels["trace_id"][0]) for sample, exemplar in _exemplars(metrics)]
        buckets = [
            {"url": URL, "le": "0.5"},
            {"url": URL, "le": "+Inf"},
            {"url": "https://other.example/", "le": "0.5"},
        ]
        assert first == list(zip(buckets, "123", strict=True))
        assert second == list(zip(buckets, "423", strict=True))


def _families(families: Iterable[object]) -> dict[str, object]:
    """What was parsed, in a form that can be compared; labels with an empty value count as absent."""
    return {
        family.name: (
            family.type,
            family.documentation,
            family.unit,
            sorted(
                (s.name, sorted((key, value) for key, value in s.labels.items() if value), s.value)
                for s in family.samples
            ),
        )
        for family in families
    }


def _exemplars(metrics: Metrics) -> Iterable[tuple[tuple[str, Mapping[str, str], float], Exemplar]]:
    for family in parse_openmetrics(metrics.openmetrics()):
        for sample in family.samples:
            if sample.exemplar is not None:
                yield (sample.name, sample.labels, sample.value), sample.exemplar


class _Renderer(Renderer):
    """Counts its renders, which are numbered bodies, and waits in each until it is let go."""

    def __init__(self) -> None:
        self.formats: list[bool] = []
        self.entered = threading.Semaphore(0)
        self.may_go = threading.Event()
        self.may_go.set()
        self.error: Exception | None = None

    def render(self, *, openmetrics: bool) -> bytes:
        self.formats.append(openmetrics)
        self.entered.release()
        assert self.may_go.wait(10)
        if self.error:
            raise self.error
        return f"body {len(self.formats)}".encode()


class _Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestServing:
    """Many scrapers, one render."""

    def test_a_body_is_served_for_a_second(self) -> None:
        """Scrapes close together share one render; a body that is too old is never served."""
        clock = _Clock()
        exposition = Exposition(_Renderer(), clock)
        assert exposition.ready(TEXT) is None
        assert exposition.get(TEXT) == b"body 1"
        clock.now += MAX_AGE
        assert exposition.ready(TEXT) == exposition.get(TEXT) == b"body 1"
        clock.now += 0.01
        assert exposition.ready(TEXT) is None
        assert exposition.get(TEXT) == b"body 2"

    def test_each_format_has_its_body(self) -> None:
        """Text, OpenMetrics and their compressed forms are kept apart."""
        renderer = _Renderer()
        exposition = Exposition(renderer, _Clock())
        bodies = [exposition.get(Format(om, gz)) for om in (False, True) for gz in (False, True)]
        assert [bodies[0], gzip.decompress(bodies[1]), bodies[2], gzip.decompress(bodies[3])] == [
            b"body 1",
            b"body 2",
            b"body 3",
            b"body 4",
        ]
        assert renderer.formats == [False, False, True, True]

    def test_all_who_wait_get_the_same(self) -> None:
        """Scrapers that come while a render is under way all get its bytes, and none starts another."""
        renderer = _Renderer()
        renderer.may_go.clear()
        exposition = Exposition(renderer)
        with ThreadPoolExecutor(8) as scrapers:
            answers = [scrapers.submit(exposition.get, TEXT) for _ in range(8)]
            assert renderer.entered.acquire(timeout=10)
            renderer.may_go.set()
            assert {answer.result(10) for answer in answers} == {b"body 1"}

    def test_a_failed_render_costs_only_itself(self) -> None:
        """When a render fails that scrape fails, and the next one is served."""
        renderer = _Renderer()
        exposition = Exposition(renderer)
        renderer.error = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            exposition.get(TEXT)
        renderer.error = None
        assert exposition.get(TEXT) == b"body 2"

    def test_the_time_of_a_render_is_told(self) -> None:
        """How long the last render took is known, compression included."""
        exposition = Exposition(_Renderer(), itertools.count(0.0, 0.25).__next__)
        assert exposition.render_seconds is None
        exposition.get(TEXT)
        assert exposition.render_seconds == 0.25

    def test_scrapes_at_once_are_all_complete(self) -> None:
        """Eight scrapers at once, on an interpreter that switches threads as often as it can, all see everything."""
        targets = [make_target(f"https://example.com/{number}") for number in range(20)]
        metrics = Metrics(targets, MetricsLevel.FULL)
        metrics.probed(*(make_result(target, make_hop(), trace_id=TRACE_ID) for target in targets))
        renderer = _OneAtATime(metrics.renderer)
        exposition = Exposition(renderer, itertools.count(0.0, 2 * MAX_AGE).__next__)  # nothing is ever young enough
        expected = {OPENMETRICS: _structure(metrics.openmetrics()), TEXT: _structure(metrics.text())}
        formats = [OPENMETRICS, TEXT] * 24
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(8) as scrapers:
                bodies = list(scrapers.map(exposition.get, formats))
        finally:
            sys.setswitchinterval(before)
        for wanted, body in zip(formats, bodies, strict=True):
            assert _structure(body.decode()) == expected[wanted]
        assert renderer.most_at_once == 1
        assert renderer.renders == len(formats)


class _OneAtATime(Renderer):
    """Counts how many are in it at once."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._now = 0
        self.most_at_once = 0
        self.renders = 0

    def render(self, *, openmetrics: bool) -> bytes:
        self._now += 1
        self.renders += 1
        self.most_at_once = max(self.most_at_once, self._now)
        body = self._renderer.render(openmetrics=openmetrics)
        self._now -= 1
        return body


def _structure(exposition: str) -> list[str]:
    """Every line without its value."""
    ends = ((line, "}" if "{" in line else " ") for line in exposition.split("\n"))
    return [line if line.startswith("#") else line.partition(end)[0] for line, end in ends]


class _Ahead:
    """An exposition that renders ahead, on a clock that a test turns."""

    def __init__(self) -> None:
        self.renderer = _Renderer()
        self.clock = _Clock()
        self.exposition = Exposition(self.renderer, self.clock)

    def __enter__(self) -> "_Ahead":
        self.exposition.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.exposition.stop()
        self.exposition._thread.join(10)
        assert not self.exposition._thread.is_alive()

    def scrape(self, scraper: str, wanted: Format, after: float) -> None:
        self.clock.now += after
        self.exposition.seen(scraper, wanted)

    def later(self, seconds: float) -> None:
        """Turn the clock; somebody who comes once makes the waiting thread look at it."""
        self.scrape("passer-by", TEXT, seconds)

    def rendered(self) -> None:
        assert self.renderer.entered.acquire(timeout=10)
        self.exposition.get(Format(compressed=True))  # waits for the render to end
        assert self.renderer.entered.acquire(timeout=10)


class TestRenderingAhead:
    """A scraper that comes at regular times finds its exposition ready."""

    def test_the_next_scrape_finds_it_ready(self) -> None:
        """After two scrapes 15 s apart the third one waits for nothing."""
        with _Ahead() as ahead:
            ahead.scrape("prometheus", OPENMETRICS, 0)
            ahead.scrape("prometheus", OPENMETRICS, 15)
            assert ahead.renderer.formats == []
            ahead.later(14.9)
            ahead.rendered()
            ahead.clock.now += 0.1
            assert ahead.exposition.ready(OPENMETRICS) == b"body 1"
            assert ahead.renderer.formats == [True, False]

    def test_each_regular_scraper_is_served(self) -> None:
        """Two scrapers with formats and periods of their own are each prepared for, in the order they are due."""
        with _Ahead() as ahead:
            for scraper, wanted in (("a", OPENMETRICS), ("b", TEXT)):
                ahead.scrape(scraper, wanted, 0)
            ahead.scrape("b", TEXT, 10)
            ahead.scrape("a", OPENMETRICS, 5)
            ahead.later(4.9)
            ahead.rendered()
            assert ahead.exposition.ready(TEXT) == b"body 1"
            assert ahead.exposition.ready(OPENMETRICS) is None
            ahead.later(10)
            ahead.rendered()
            assert ahead.exposition.ready(OPENMETRICS) == b"body 3"

    @pytest.mark.parametrize("period", [0.5, 1.9, 301.0])
    def test_irregular_scrapers_are_not_prepared_for(self, period: float) -> None:
        """Who comes once, in a burst, or after a long time causes no render of its own."""
        with _Ahead() as ahead:
            ahead.scrape("visitor", OPENMETRICS, 0)
            ahead.scrape("visitor", OPENMETRICS, period)
            ahead.scrape("prometheus", TEXT, 0)
            ahead.scrape("prometheus", TEXT, 15)
            ahead.later(1000)
            ahead.rendered()
            assert ahead.renderer.formats == [False, False]

    def test_a_scraper_that_stays_away_costs_one_render(self) -> None:
        """For a scraper that does not come back nothing is rendered again."""
        with _Ahead() as ahead:
            ahead.scrape("gone", OPENMETRICS, 0)
            ahead.scrape("gone", OPENMETRICS, 15)
            ahead.later(15)
            ahead.rendered()
            ahead.scrape("prometheus", TEXT, 0)
            ahead.scrape("prometheus", TEXT, 30)
            ahead.later(30)
            ahead.rendered()
            assert ahead.renderer.formats == [True, False, False, False]

    def test_a_failure_does_not_end_it(self, caplog: pytest.LogCaptureFixture) -> None:
        """When a render ahead fails the log says so, and the next one is made."""
        with _Ahead() as ahead:
            ahead.renderer.error = ZeroDivisionError()
            ahead.scrape("prometheus", OPENMETRICS, 0)
            ahead.scrape("prometheus", OPENMETRICS, 15)
            ahead.later(15)
            assert ahead.renderer.entered.acquire(timeout=10)
            with pytest.raises(ZeroDivisionError):
                ahead.exposition.get(TEXT)  # waits for the render to end
            assert ahead.renderer.entered.acquire(timeout=10)
            ahead.renderer.error = None
            ahead.scrape("prometheus", OPENMETRICS, 0)
            ahead.later(15)
            ahead.rendered()
            assert ahead.exposition.ready(OPENMETRICS) == b"body 3"
        assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
            (logging.ERROR, "rendering ahead failed")
        ]

    def test_only_so_many_scrapers_are_remembered(self) -> None:
        """A stream of ever new scrapers takes no memory, and the regular one among them is still served."""
        with _Ahead() as ahead:
            ahead.scrape("prometheus", OPENMETRICS, 0)
            ahead.scrape("prometheus", OPENMETRICS, 15)
            for number in range(7):
                ahead.scrape(f"stranger {number}", TEXT, 0)
            assert len(ahead.exposition._scrapers) == 8
            ahead.scrape("prometheus", OPENMETRICS, 15)
            for number in range(7):
                ahead.scrape(f"other {number}", TEXT, 0)
            assert len(ahead.exposition._scrapers) == 8

    def test_stopping_is_at_once(self) -> None:
        """A stop ends the thread, however long the next scrape is away; so does one before anybody came."""
        with _Ahead():
            pass
        with _Ahead() as ahead:
            ahead.scrape("prometheus", OPENMETRICS, 0)
            ahead.scrape("prometheus", OPENMETRICS, 290)
