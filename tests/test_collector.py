"""The monitor and a real collector with each of our files: what comes out at the other end."""

import contextlib
import json
import signal
import subprocess
import time
import urllib.parse
from collections import Counter, defaultdict

import pytest
import yaml
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Status, StatusCode
from prometheus_client.openmetrics import parser as openmetrics

from collector import FILES, NAMES, Collector, collecting, points, require_collector, spans
from processes import Samples, free_port, get, require_tool, running, running_command, site, wait_for, write_config

SETTINGS = {"interval": "500ms", "metrics": "{level: full}", "tracing": "{success_ratio: 1.0}"}
QUICK = {"OTEL_METRIC_EXPORT_INTERVAL": "500", "OTEL_BSP_SCHEDULE_DELAY": "200"}
PROMETHEUS_OWN = ("up", "scrape_", "target_info")


@pytest.fixture
def target():
    """Answers 200, and 500 under /500."""
    with site() as made:
        yield made


@contextlib.contextmanager
def monitoring(folder, target, **otel):
    """A monitor of one good and one failing target, each of which has been probed."""
    urls = {"good": f"{target.url}/", "bad": f"{target.url}/500"}
    targets = [f'{{url: "{url}", labels: {{name: {name}}}}}' for name, url in urls.items()]
    config = write_config(folder, targets, **SETTINGS)
    with running("run", "-c", str(config), "--port", "0", env=QUICK | otel) as monitor:
        for name, url in urls.items():
            monitor.wait_for_sample("url_monitor_probe_last_run_timestamp_seconds", 1, name=name, url=url)
        yield monitor


def expected_values(target):
    """What is true of the two targets, by Prometheus name and labels."""
    good, bad = ({"name": "good", "url": f"{target.url}/"}, {"name": "bad", "url": f"{target.url}/500"})
    return {
        ("sample_external_url_up", frozenset(good.items())): 1,
        ("sample_external_url_up", frozenset(bad.items())): 0,
        ("probe_success", frozenset(good.items())): 1,
        ("probe_success", frozenset(bad.items())): 0,
        ("probe_http_status_code", frozenset(good.items())): 200,
        ("probe_http_status_code", frozenset(bad.items())): 500,
        ("url_monitor_probe_failure_info", frozenset((bad | {"reason": "unexpected_status"}).items())): 1,
    }


def as_named_by_prometheus(found):
    """The same with the dots of OpenTelemetry names, which is all that differs for the expected ones."""
    return {(name.replace(".", "_"), labels): value for (name, labels), value in found.items()}


def with_only(found, wanted):
    """What `found` says of the wanted names; series that are not wanted show as too much."""
    names = {name for name, _ in wanted}
    return {series: value for series, value in found.items() if series[0] in names}


def wait_for_values(read, target):
    """Wait until the expected values, and no others under their names, came out."""
    wanted = expected_values(target)
    wait_for(lambda: with_only(read(), wanted) == wanted, "the expected values come out")


def wait_for_traces(output):
    """The traces of the two targets, each as the root and the spans of its hops, once they came out."""

    def both():
        found = spans(output)
        roots = {span.name: span for span in found if not span.parent_id}
        return len(roots) == 2 and {
            name: (root, [span for span in found if span.parent_id == root.span_id and span.kind == "CLIENT"])
            for name, root in roots.items()
        }

    return wait_for(both, "traces of both targets come out")


def assert_trace(traces, target, name, path, status, **error):
    """The root says what the probe found, its one child what the hop was."""
    root, (hop,) = traces[f"probe {name}"]
    where = {
        "url.full": f"{target.url}{path}",
        "server.address": "127.0.0.1",
        "server.port": urllib.parse.urlsplit(target.url).port,
        "http.response.status_code": status,
    }
    result = {"url_monitor.result": "failure" if error else "success", "user_agent.synthetic.type": "test"}
    assert (root.kind, root.is_error) == ("INTERNAL", bool(error))
    assert root.attributes.items() >= (where | result).items()
    assert root.attributes.get("error.type") == error.get("reason")
    assert 0 <= root.attributes["url_monitor.schedule_lag"] < 10
    assert (hop.name, hop.trace_id, hop.is_error) == ("GET", root.trace_id, bool(error))
    assert hop.attributes.items() >= (where | {"http.request.method": "GET"}).items()
    assert hop.attributes.get("error.type") == (str(status) if error else None)


def assert_traces(traces, target):
    """Both targets' trees are as the monitor's documentation has them."""
    assert_trace(traces, target, "good", "/", 200)
    assert_trace(traces, target, "bad", "/500", 500, reason="unexpected_status")


@pytest.mark.parametrize("name", NAMES)
def test_file_is_valid_without_variables(name, tmp_path):
    """The collector accepts each file when no variable is set, and has nothing to say about it."""
    command = (require_collector(), "validate", "--config", FILES / f"{name}.yaml")
    ended = subprocess.run(command, env={}, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_components_go_by_their_present_names():
    """The names in our files are those that the collector prints, and it has no component that they do not use."""
    printed = subprocess.run((require_collector(), "components"), capture_output=True, text=True, check=True).stdout
    known = yaml.safe_load(printed)
    for kind in ("receivers", "processors", "exporters", "connectors", "extensions"):
        files = [yaml.safe_load((FILES / f"{name}.yaml").read_text()) for name in NAMES]
        used = {each.partition("/")[0] for file in files for each in file.get(kind, ())}
        assert used == {entry["name"] for entry in known[kind]}


def test_file_shows_what_a_monitor_sends(tmp_path, target):
    """test.yaml: the values and traces of a good and a failing target arrive as they are."""
    with (
        collecting("test", tmp_path) as collector,
        monitoring(tmp_path, target, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint),
    ):
        wait_for_values(lambda: as_named_by_prometheus(points(collector.output)), target)
        assert_traces(wait_for_traces(collector.output), target)


@contextlib.contextmanager
def gateway_before_backend(folder):
    """gateway.yaml, and behind it a backend that writes everything down."""
    with (
        collecting("test", folder) as backend,
        collecting("gateway", folder, BACKEND_OTLP_ENDPOINT=backend.endpoint, SPAN_METRICS_INTERVAL="500ms") as gateway,
    ):
        yield gateway, backend


def exposed(gateway):
    """The gateway's exposition without the labels that say whose it is."""
    return without_origin(Samples(get(gateway.exposition)[1]).by_series)


def without_origin(found):
    """The series as the monitor itself shows them: one monitor needs no `job` and `instance`."""
    return {
        (name, frozenset(label for label in labels if label[0] not in ("job", "instance"))): value
        for (name, labels), value in found.items()
        if not name.startswith(("target_info", "traces_span_metrics_"))
    }


def normal(found):
    """Series with a bound written in one way: `1` and `1.0` are the same bucket."""
    return {
        (name, frozenset((key, float(value) if key == "le" else value) for key, value in labels))
        for name, labels in found
    }


def own_series(monitor):
    """The series of our instruments at the monitor's own /metrics."""
    own = ("sample_", "probe_", "url_monitor_")
    return {series: value for series, value in monitor.samples().by_series.items() if series[0].startswith(own)}


def test_gateway_passes_on(tmp_path, target):
    """gateway.yaml: values to its exposition, traces to the backend, under the monitor's names and labels."""
    with (
        gateway_before_backend(tmp_path) as (gateway, backend),
        monitoring(tmp_path, target, OTEL_EXPORTER_OTLP_ENDPOINT=gateway.endpoint) as monitor,
    ):
        wait_for_values(lambda: exposed(gateway), target)
        assert_traces(wait_for_traces(backend.output), target)
        wait_for(lambda: normal(exposed(gateway)) == normal(own_series(monitor)), "the gateway shows the same series")
        assert points(backend.output) == {}, "metrics go to the exposition alone"


def exemplars(exposition, name):
    """Trace id and url of each exemplar on a histogram's buckets."""
    _, text = get(exposition, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    samples = [sample for family in openmetrics.text_string_to_metric_families(text) for sample in family.samples]
    return {
        (sample.exemplar.labels["trace_id"], sample.labels.get("url"))
        for sample in samples
        if sample.name == f"{name}_bucket" and sample.exemplar
    }


def test_gateway_shows_exemplars(tmp_path, target):
    """The latency histogram's exemplars name traces of that very target, which the backend has."""
    with (
        gateway_before_backend(tmp_path) as (gateway, backend),
        monitoring(tmp_path, target, OTEL_EXPORTER_OTLP_ENDPOINT=gateway.endpoint),
    ):
        seen = set()  # each is shown until the next push, which may come before its trace is written

        def linked():
            seen.update(exemplars(gateway.exposition, "url_monitor_probe_latency_seconds"))
            roots = {
                (span.trace_id, span.attributes["url.full"]) for span in spans(backend.output) if not span.parent_id
            }
            return {url for _, url in seen & roots} == {f"{target.url}/", f"{target.url}/500"}

        wait_for(linked, "an exemplar of each target leads to its trace")


def test_gateway_counts_spans(tmp_path, target):
    """The span metrics count probes by outcome and hops by status, with exemplars of their own."""
    with (
        gateway_before_backend(tmp_path) as (gateway, _),
        monitoring(tmp_path, target, OTEL_EXPORTER_OTLP_ENDPOINT=gateway.endpoint),
    ):

        def counted():
            samples = Samples(get(gateway.exposition)[1])
            found = samples.labels("traces_span_metrics_calls_total")
            return {
                (each["span_name"], each.get("error_type")) for each in found if each["span_kind"] != "SPAN_KIND_SERVER"
            }

        wanted = {("probe good", None), ("probe bad", "unexpected_status"), ("GET", None), ("GET", "500")}
        wait_for(lambda: wanted <= counted(), "span metrics of both targets")
        wait_for(lambda: exemplars(gateway.exposition, "traces_span_metrics_duration_seconds"), "exemplars")


SECRETS = "?page=1&token=s3cret&X-Amz-Signature=s3cret&API_KEY=s3cret&monkey=1&my-passwd=s3cret#s3cret-less"
MASKED = "?page=1&token=REDACTED&X-Amz-Signature=REDACTED&API_KEY=REDACTED&monkey=1&my-passwd=REDACTED#s3cret-less"


def test_gateway_redacts_what_was_missed(tmp_path):
    """Secret query values that reach the gateway do not leave it: not in attributes, status, events or labels."""
    with gateway_before_backend(tmp_path) as (gateway, backend):
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{gateway.endpoint}/v1/traces")))
        with provider.get_tracer("test").start_as_current_span("probe leak") as span:
            span.set_attribute("url.full", f"https://example.com/{SECRETS}")
            span.set_status(Status(StatusCode.ERROR, f"Max retries exceeded with url: /{SECRETS} (refused)"))
            span.add_event("exception", {"exception.message": f"cannot get 'https://example.com/{SECRETS}'"})
        provider.shutdown()
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{gateway.endpoint}/v1/metrics"))
        meters = MeterProvider([reader], shutdown_on_exit=False)
        meters.get_meter("test").create_gauge("leak").set(1, {"url": f"https://example.com/{SECRETS}"})
        meters.force_flush()
        meters.shutdown()
        labels = wait_for(lambda: Samples(get(gateway.exposition)[1]).labels("leak"), "the series arrives")
        (leak,) = wait_for(lambda: spans(backend.output), "the span arrives")
    assert [each["url"] for each in labels] == [f"https://example.com/{MASKED}"]
    assert leak.attributes == {"url.full": f"https://example.com/{MASKED}"}
    assert leak.status_message == f"Max retries exceeded with url: /{MASKED} (refused)"
    assert leak.events == ({"exception.message": f"cannot get 'https://example.com/{MASKED}'"},)


@contextlib.contextmanager
def prometheus_for_remote_write(folder):
    """The address of a Prometheus that scrapes nothing and takes remote write."""
    (folder / "prometheus.yml").write_text("{}")
    address = f"http://127.0.0.1:{free_port()}"
    command = (
        require_tool("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address.removeprefix('http://')}",
        "--web.enable-remote-write-receiver",
        "--enable-feature=exemplar-storage",
    )
    with running_command(command):
        wait_for(lambda: is_ready(f"{address}/-/ready"), "Prometheus is ready")
        yield address


def is_ready(url):
    try:
        return get(url)[0] == 200
    except OSError:
        return False


def ask(prometheus, path, **parameters):
    """The answer of Prometheus' API."""
    return json.loads(get(f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")[1])["data"]


def stored(prometheus):
    """The latest value of every series in Prometheus, without those that scraping itself makes."""
    found = ask(prometheus, "query", query='{job="otel-url-monitor"}')["result"]
    series = {
        (each["metric"].pop("__name__"), frozenset(each["metric"].items())): float(each["value"][1]) for each in found
    }
    return without_origin({key: value for key, value in series.items() if not key[0].startswith(PROMETHEUS_OWN)})


def test_scrape_passes_on(tmp_path, target):
    """scrape.yaml: every series of /metrics gets to Prometheus by remote write, and to a backend by OTLP."""
    with (
        prometheus_for_remote_write(tmp_path) as prometheus,
        collecting("test", tmp_path) as backend,
        monitoring(tmp_path, target, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{backend.endpoint}/v1/traces") as monitor,
        collecting(
            "scrape",
            tmp_path,
            MONITOR_ADDRESS=monitor.url.removeprefix("http://"),
            SCRAPE_INTERVAL="1s",
            SCRAPE_TIMEOUT="1s",
            REMOTE_WRITE_ENDPOINT=f"{prometheus}/api/v1/write",
            BACKEND_OTLP_ENDPOINT=backend.endpoint,
        ),
    ):
        wait_for_values(lambda: stored(prometheus), target)
        wait_for_values(lambda: as_named_by_prometheus(points(backend.output)), target)
        assert_traces(wait_for_traces(backend.output), target)

        def all_there():
            shown = without_origin(monitor.samples().by_series)
            return normal(stored(prometheus)) == normal(shown)

        wait_for(all_there, "Prometheus has the series of /metrics")
        wait_for(lambda: exemplar_urls(prometheus) == {f"{target.url}/", f"{target.url}/500"}, "exemplars of both")


def exemplar_urls(prometheus):
    """The targets of which Prometheus has an exemplar."""
    query = "url_monitor_probe_latency_seconds_bucket"
    found = ask(prometheus, "query_exemplars", query=query, start=time.time() - 300, end=time.time() + 300)
    return {series["seriesLabels"]["url"] for series in found if series["exemplars"][0]["labels"]["trace_id"]}


OUTAGE = 30.0
TARGETS = 50


@pytest.mark.timeout(240)
def test_queue_on_disk_outlives_a_kill(tmp_path, target, capsys):
    """What the gateway took is delivered, although it was killed and the backend was away all the time.

    What it could not take in the 30 s that it was down, the monitor keeps as far as its own queue goes; the rest it
    counts. Nothing is missing that nobody counted.
    """
    config = write_config(tmp_path, [f"{target.url}/{number}" for number in range(TARGETS)], **SETTINGS)
    with (
        Collector("test", tmp_path, {}) as backend,
        collecting("gateway", tmp_path, BACKEND_OTLP_ENDPOINT=backend.endpoint) as gateway,
    ):
        otel = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{gateway.endpoint}/v1/traces"}
        with running("run", "-c", str(config), "--port", "0", env=QUICK | otel) as monitor:
            wait_for(lambda: queued(gateway) > 5000, "spans wait on the disk", 60)
            on_disk = queued(gateway)
            killed, back = kill_for_a_while(gateway)
            wait_for(lambda: queued(gateway) > on_disk + 10_000, "the gateway takes more spans again", 60)
            counted = monitor.samples().total("url_monitor_otlp_lost_spans_total")
            monitor.end(signal.SIGTERM)
            monitor.assert_ended_well()
        backend.start()
        wait_for(lambda: queued(gateway) == 0, "all is delivered", 60)
        gateway.stop()
        backend.stop()
    made = [(path, at) for path, times in target.seen_at.items() for at in times]
    found = spans(backend.output)
    missing = probes_without_trace(target, found)
    per_trace = Counter(Counter({span.span_id: span.trace_id for span in found}.values()).values())
    first, last = (at - killed for at in (min(missing, default=killed), max(missing, default=killed)))
    show(
        capsys,
        f"{len(made)} probes; {on_disk:.0f} spans on the disk when the gateway was killed for {OUTAGE:.0f} s",
        f"{len(made) - len(missing)} traces delivered, {len(missing)} lost, of {first:.1f} to {last:.1f} s after that",
        f"{counted:.0f} spans counted as lost by the monitor; spans in a trace: {dict(per_trace)}",
        f"{len(found) - len({span.span_id for span in found})} of {len(found)} spans delivered twice",
    )
    (size,) = per_trace
    assert abs(len(missing) - counted / size) <= 3, "probes may be cut off at the end"
    assert all(killed - 5 < at < back + 15 for at in missing)


def kill_for_a_while(gateway):
    """When it was killed, and when it was back."""
    gateway.kill()
    killed = time.time()
    time.sleep(OUTAGE)  # how long it is down is what is tested
    gateway.start()
    return killed, time.time()


def queued(gateway):
    """Spans on the disk."""
    return gateway.telemetry().total("otelcol_exporter_queue_size")


def probes_without_trace(target, found):
    """When the probes were made whose traces did not arrive: a probe's root span lasts from before it until after."""
    roots = defaultdict(list)
    for root in found:
        if not root.parent_id:
            roots[urllib.parse.urlsplit(root.attributes["url.full"]).path].append((root.start, root.end))
    return [
        at
        for path, times in target.seen_at.items()
        for at in times
        if not any(start <= at <= end for start, end in roots[path])
    ]


def show(capsys, *lines):
    """Print figures past pytest's capture."""
    with capsys.disabled():
        print("", *lines, sep="\n  ")  # noqa: T201 - they are what one wants to know
