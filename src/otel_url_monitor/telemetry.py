"""Build and stop the OpenTelemetry SDK; the only code that knows it."""

import os
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import (
    Counter,
    ExemplarReservoir,
    Histogram,
    MeterProvider,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    TraceBasedExemplarFilter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import Gauge as GaugeData
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    Metric,
    MetricReader,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.export import Sum as SumData
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.util.types import Attributes
from prometheus_client import CollectorRegistry

from otel_url_monitor import __version__
from otel_url_monitor.otlp import Endpoint, Environment, Losses, shield

__all__ = [
    "ATTRIBUTE_SETS",
    "GaugeData",
    "HistogramData",
    "HistogramDataPoint",
    "Metric",
    "MetricsData",
    "NumberDataPoint",
    "SnapshotReader",
    "SumData",
    "Telemetry",
]

ATTRIBUTE_SETS = 1_000_000
"""Attribute sets per instrument. The SDK's own limit is 2,000 for the process's lifetime, and the 2,001st
target would vanish without a word; nothing is allocated ahead."""

_INSTRUMENTS = (Counter, Histogram, ObservableCounter, ObservableGauge, ObservableUpDownCounter, UpDownCounter)
_CARDINALITY_LIMITS: dict[Any, int] = dict.fromkeys(_INSTRUMENTS, ATTRIBUTE_SETS)

_PUSH_SECONDS = 30.0
"""How long reading the instruments may take before a push is given up."""

_SHUTDOWN_SECONDS = 1.5


class SnapshotReader(PrometheusMetricReader):
    """The Prometheus reader, whose data are read as the SDK collected them instead of translated one by one.

    Not thread-safe: one `read` at a time.
    """

    def __init__(self) -> None:
        self._latest: MetricsData | None = None
        super().__init__(
            scope_info_enabled=False,
            registry=CollectorRegistry(),
            cardinality_limits=_CARDINALITY_LIMITS,
        )

    def read(self) -> MetricsData | None:
        """Collect now; `None` when there is nothing to see."""
        # The SDK's deadline counts by the wall clock, which may step; our callbacks only read a snapshot.
        self.collect(timeout_millis=1e9)
        latest, self._latest = self._latest, None
        return latest

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> None:  # noqa: ARG002
        self._latest = metrics_data


class Telemetry:
    """The metrics half of the SDK: a provider, the reader that `/metrics` serves, and the one that pushes.

    Args:
        environment: says whether and where metrics are pushed.

    Attributes:
        resource_attributes: who we are, as `target_info` says it.
        reader: what `/metrics` is rendered from.
    """

    def __init__(self, environment: Environment = Environment()) -> None:  # noqa: B008 - frozen
        self._losses = Losses()
        resource = _resource()
        self.resource_attributes = dict(resource.attributes)
        self.reader = SnapshotReader()
        readers: list[MetricReader] = [self.reader]
        if environment.metrics is not None:
            readers.append(_pushing_reader(environment.metrics, environment.interval, self._losses))
        self._provider = MeterProvider(
            metric_readers=readers,
            resource=resource,
            views=[_without_exemplars(ObservableGauge), _without_exemplars(ObservableCounter)],
            exemplar_filter=_SampledExemplars(),
            shutdown_on_exit=False,
        )
        # OTEL_SDK_DISABLED governs tracing and push; `/metrics` is served in any case.
        self._provider._disabled = False  # noqa: SLF001 - no public way; held by a test

    def meter(self) -> Meter:
        """The meter for all of our instruments."""
        return self._provider.get_meter("otel_url_monitor", __version__)

    @property
    def push_failures(self) -> int:
        """Requests to push metrics that failed."""
        return self._losses.failures

    def attribute_sets(self) -> int:
        """How many the fullest instrument has, of `ATTRIBUTE_SETS` with which targets would vanish."""
        return max((len(match._attributes_aggregation) for match in self._storages()), default=0)  # noqa: SLF001

    def forget(self, is_current: Callable[[str, Mapping[str, Any]], bool]) -> None:
        """Forget attribute sets, which the SDK would keep for the process's lifetime.

        Args:
            is_current: by an instrument's name and an attribute set, whether that is to go on. Of the others, those
                that are measured again begin anew.
        """
        with self._provider._measurement_consumer._lock:  # noqa: SLF001 - no collection sees one half of it
            for match in self._storages():
                name = match._instrument.name  # noqa: SLF001
                with match._lock:  # noqa: SLF001
                    match._attributes_aggregation = {  # noqa: SLF001
                        key: aggregation
                        for key, aggregation in match._attributes_aggregation.items()  # noqa: SLF001
                        if is_current(name, aggregation._attributes or {})  # noqa: SLF001
                    }

    def _storages(self) -> list[Any]:
        """What the SDK keeps of each instrument for each reader."""
        # No public way; held by tests. Copied in one step, because a histogram's first measurement may add to them.
        readers = self._provider._measurement_consumer._reader_storages.values()  # noqa: SLF001
        found = [list(reader._instrument_view_instrument_matches.values()) for reader in readers]  # noqa: SLF001
        return [match for of_reader in found for of_instrument in of_reader for match in of_instrument]

    def shutdown(self) -> None:
        """Push a last time where that is asked for, within two seconds; then stop collecting."""
        self._provider.shutdown(timeout_millis=_SHUTDOWN_SECONDS * 1000)


def _pushing_reader(endpoint: Endpoint, interval: float, losses: Losses) -> MetricReader:
    shield(os.environ)
    from otel_url_monitor.otlp.exporting import metric_exporter  # noqa: PLC0415 - 10 MB, only when asked for

    return PeriodicExportingMetricReader(
        metric_exporter(endpoint, losses),
        export_interval_millis=interval * 1000,
        export_timeout_millis=_PUSH_SECONDS * 1000,
        cardinality_limits=_CARDINALITY_LIMITS,
    )


class _SampledExemplars(TraceBasedExemplarFilter):
    """The trace-based filter, without asking for a span where none can be: 1 us less per series and scrape."""

    def should_sample(self, value: float, time_unix_nano: int, attributes: Attributes, context: Context) -> bool:
        return bool(context) and super().should_sample(value, time_unix_nano, attributes, context)


class _NoReservoir(ExemplarReservoir):
    """Exemplars belong to histograms: for the observable instruments none are looked for (2 us per series)."""

    def offer(self, *_: Any) -> None:
        pass

    def collect(self, _point_attributes: Attributes) -> list[Any]:
        return []


def _without_exemplars(instrument_type: type) -> View:
    return View(instrument_type=instrument_type, exemplar_reservoir_factory=lambda _aggregation: _no_reservoir)


def _no_reservoir(_options: dict[str, Any] | None = None, /, **_: Any) -> ExemplarReservoir:
    return _NoReservoir()


def _resource() -> Resource:
    """`OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`, completed by our own answers."""
    given = OTELResourceDetector().detect().attributes
    defaults = {
        "service.name": "otel-url-monitor",
        "service.version": __version__,
        "service.instance.id": str(uuid.uuid4()),
    }
    return Resource.create({key: value for key, value in defaults.items() if key not in given})
