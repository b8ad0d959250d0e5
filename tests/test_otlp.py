"""OTLP export: what the `OTEL_*` variables ask for, what is sent, and what a collector that misbehaves can do."""

import contextlib
import json
import logging
import os
import signal
import ssl
import time
import urllib.parse
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

from factories import Service, make_hop, make_result, make_targets
from otel_url_monitor.exposition import Renderer
from otel_url_monitor.instruments import RENDER, ROWS, TARGET_ROWS, Instruments
from otel_url_monitor.model import MetricsLevel
from otel_url_monitor.otlp import Endpoint, Environment, EnvironmentFaultsError, Losses, read_environment, shield
from otel_url_monitor.otlp.exporting import span_sender
from otel_url_monitor.results import Results
from otel_url_monitor.telemetry import Telemetry
from otel_url_monitor.tracing import SpanSender
from otel_url_monitor.tracing.hops import HopSpan
from otel_url_monitor.tracing.spans import Trace
from otlp import accept, break_off, drip, exposed, hang, in_turn, rejects, says, scraped, sink
from processes import (
    Samples,
    free_port,
    get,
    require_tool,
    run_command,
    running,
    running_command,
    silent_port,
    site,
    wait_for,
    write_config,
)
from servers import refusing_port

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
TRACES = "http://collector:4318/v1/traces"
METRICS = "http://collector:4318/v1/metrics"
FILE = __file__


def common(**fields):
    """What the endpoint alone asks for, with these fields of both signals."""
    return {"traces": Endpoint(url=TRACES, **fields), "metrics": Endpoint(url=METRICS, **fields)}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, {}),
        (ENDPOINT, common()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}, common()),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector/otlp/"},
            {
                "traces": Endpoint(url="https://collector/otlp/v1/traces"),
                "metrics": Endpoint(url="https://collector/otlp/v1/metrics"),
            },
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector/own?key=value"},
            {"traces": Endpoint(url="https://collector/own?key=value")},
        ),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://other"},
            {"traces": Endpoint(url=TRACES), "metrics": Endpoint(url="http://other")},
        ),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "True"}, {}),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "1"}, common()),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, {"metrics": Endpoint(url=METRICS)}),
        ({**ENDPOINT, "OTEL_METRICS_EXPORTER": "none"}, {"traces": Endpoint(url=TRACES)}),
        ({**ENDPOINT, "OTEL_METRICS_EXPORTER": "prometheus"}, {"traces": Endpoint(url=TRACES)}),
        ({**ENDPOINT, "OTEL_METRICS_EXPORTER": "Prometheus, OTLP", "OTEL_TRACES_EXPORTER": "otlp"}, common()),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, common()),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b, X-Team = x=y ,,empty="},
            common(headers={"api-key": "a b", "x-team": "x=y", "empty": ""}),
        ),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_HEADERS": "a=1", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "b=2"},
            {
                "traces": Endpoint(url=TRACES, headers={"b": "2"}),
                "metrics": Endpoint(url=METRICS, headers={"a": "1"}),
            },
        ),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_TIMEOUT": "2500"}, common(timeout=2.5)),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": "500"},
            {"traces": Endpoint(url=TRACES), "metrics": Endpoint(url=METRICS, timeout=0.5)},
        ),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_COMPRESSION": "GZIP"}, common(compression="gzip")),
        (
            {
                **ENDPOINT,
                "OTEL_EXPORTER_OTLP_CERTIFICATE": FILE,
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": FILE,
                "OTEL_EXPORTER_OTLP_CLIENT_KEY": FILE,
            },
            common(ca_file=Path(FILE), certificate_file=Path(FILE), key_file=Path(FILE)),
        ),
        ({"OTEL_PROPAGATORS": "TraceContext,baggage"}, {}),
        ({"OTEL_PROPAGATORS": "baggage"}, {"propagates": False}),
        ({"OTEL_PROPAGATORS": "none"}, {"propagates": False}),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "1500"}, {"interval": 1.5}),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}, {"queue_size": 100, "batch_size": 100}),
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "512"}, {"batch_size": 512}),
        ({"OTEL_BSP_SCHEDULE_DELAY": "250"}, {"delay": 0.25}),
        (
            {"OTEL_TRACES_EXPORTER": "otlp"},
            {"warnings": ("OTEL_TRACES_EXPORTER=otlp has no effect without OTEL_EXPORTER_OTLP_ENDPOINT",)},
        ),
        (
            {"OTEL_TRACES_SAMPLER": "always_off"},
            {"warnings": ("OTEL_TRACES_SAMPLER has no effect: `tracing` in the configuration says what is kept",)},
        ),
    ],
)
def test_variables_mean_what_the_specification_says(variables, expected):
    """Base URL and signal's own, milliseconds, percent-encoded headers, names in any case; an empty one is not set."""
    assert read_environment(variables) == Environment(**expected)


URL_WANTED = "expected a URL such as http://localhost:4318, got"
TEMPORALITIES = "cumulative, delta, lowmemory"

BAD = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", f"{URL_WANTED} 'collector:4318'"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://collector", f"{URL_WANTED} 'ftp://collector'"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:99999", f"{URL_WANTED} 'http://collector:99999'"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:0/", f"{URL_WANTED} 'http://collector:0/'"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http:///v1", f"{URL_WANTED} 'http:///v1'"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1", f"{URL_WANTED} 'http://[::1'"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://coll ector", f"{URL_WANTED} 'http://coll…'"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "u:canary@collector:4318", f"{URL_WANTED} 'collector:4318…'"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "api-key=canary", f"{URL_WANTED} 'api-key…'"),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "http://u:canary@collector:4318",
        "must not hold credentials, give them in OTEL_EXPORTER_OTLP_HEADERS",
    ),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "http://collector:4318/?key=canary",
        "must not hold a query, because the signal's path is added to it",
    ),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector/v1/traces", f"{URL_WANTED} 'collector/v1/traces'"),
    (
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        "https://u:canary@collector/v1/metrics",
        "must not hold credentials, give them in OTEL_EXPORTER_OTLP_HEADERS",
    ),
    ("OTEL_TRACES_EXPORTER", "jaeger", "'jaeger' is not there, known: otlp, none"),
    ("OTEL_METRICS_EXPORTER", "console", "'console' is not there, known: otlp, prometheus, none"),
    ("OTEL_METRICS_EXPORTER", "none,otlp", "none stands alone"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "'grpc' is not there, known: http/protobuf (usually port 4318)"),
    (
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "http/json",
        "'http/json' is not there, known: http/protobuf (usually port 4318)",
    ),
    ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,canary", "item 2 is not name=value"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "two words=canary", "item 1 is not name=value"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "=canary", "item 1 is not name=value"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "a=canary%0d%0ab", "item 1 holds characters that a header cannot carry"),
    ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "a=canary%C3%A9", "item 1 holds characters that a header cannot carry"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "expected a number of at least 1, got '10s'"),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0", "expected a number of at least 1, got '0'"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "'zstd' is not there, known: none, gzip, deflate"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem", "cannot read /nowhere.pem: No such file or directory"),
    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/", "cannot read /: Is a directory"),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", FILE, "needs OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "-1", "expected a number of at least 1, got '-1'"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "nan", "expected a number of at least 1, got 'nan'"),
    ("OTEL_BSP_SCHEDULE_DELAY", "inf", "expected a number of at least 1, got 'inf'"),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "9000", "must be at most OTEL_BSP_MAX_QUEUE_SIZE (8192)"),
    (
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "sum",
        f"'sum' is not there, known: {TEMPORALITIES}",
    ),
    (
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        "sum",
        "'sum' is not there, known: explicit_bucket_histogram, base2_exponential_bucket_histogram",
    ),
    ("OTEL_PROPAGATORS", "tracecontext,b3", "'b3' is not there, known: tracecontext, baggage, none"),
    ("OTEL_PROPAGATORS", "none,tracecontext", "none stands alone"),
    ("OTEL_RESOURCE_ATTRIBUTES", "team=a,canary", "item 2 is not name=value"),
    ("OTEL_RESOURCE_ATTRIBUTES", "team=\udcff", "is not UTF-8"),
    ("OTEL_SERVICE_NAME", "\udcff", "is not UTF-8"),
]


@pytest.mark.parametrize(("name", "value", "fault"), BAD)
def test_what_cannot_be_used_is_refused_in_a_line(name, value, fault):
    """Each fault is one line that names the variable, says what is expected, and shows nothing secret."""
    with pytest.raises(EnvironmentFaultsError) as raised:
        read_environment({name: value})
    assert raised.value.faults == (f"{name}: {fault}",)
    assert "canary" not in str(raised.value)


def test_all_faults_are_told_at_once():
    """The command ends with code 2 before anything starts, and lists what is wrong with every variable."""
    bad = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:canary@collector",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a,canary",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "soon",
        "OTEL_PROPAGATORS": "b3",
    }
    done = run_command("run", "http://127.0.0.1:1/", "--port", "0", env=bad)
    assert (done.returncode, done.stdout) == (2, "")
    assert sorted(done.stderr.splitlines()) == [
        "error: OTEL_EXPORTER_OTLP_ENDPOINT: must not hold credentials, give them in OTEL_EXPORTER_OTLP_HEADERS",
        "error: OTEL_EXPORTER_OTLP_HEADERS: item 2 is not name=value",
        "error: OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' is not there, known: http/protobuf (usually port 4318)",
        "error: OTEL_EXPORTER_OTLP_TIMEOUT: expected a number of at least 1, got 'soon'",
        "error: OTEL_PROPAGATORS: 'b3' is not there, known: tracecontext, baggage, none",
    ]


def test_libraries_are_shielded_from_their_variables():
    """What they would read by themselves is taken away, what is ours stays, and twice is once."""
    environ = {
        "OTEL_PYTHON_EXCLUDED_URLS": "[",
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": ".*",
        "OTEL_SEMCONV_STABILITY_OPT_IN": "http",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "x",
        "OTEL_TRACES_SAMPLER_ARG": "x",
        "OTEL_PROPAGATORS": " TraceContext,, Baggage",
        "OTEL_SERVICE_NAME": "mine",
        "OTEL_BSP_MAX_QUEUE_SIZE": "10",
        "PATH": "/bin",
    }
    kept = {
        "OTEL_PROPAGATORS": "tracecontext,baggage",
        "OTEL_SERVICE_NAME": "mine",
        "OTEL_BSP_MAX_QUEUE_SIZE": "10",
        "PATH": "/bin",
    }
    for _ in range(2):
        shield(environ)
        assert environ == kept
    environ["OTEL_PROPAGATORS"] = " "
    shield(environ)
    assert "OTEL_PROPAGATORS" not in environ


def test_headers_do_not_show_in_a_printed_environment():
    """What is printed by mistake, in a traceback say, holds no header."""
    found = read_environment({**ENDPOINT, "OTEL_EXPORTER_OTLP_HEADERS": "api-key=canary"})
    assert "canary" not in repr(found)


def protobuf_is_loaded(pid):
    """Whether the process has the native library that every OTLP message needs."""
    return "/google/_upb/" in Path(f"/proc/{pid}/maps").read_text()


def tcp_ports(pid):
    """The local ports of a process's TCP sockets."""
    owned = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            owned.add(descriptor.readlink().name.removeprefix("socket:[").removesuffix("]"))
    lines = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()]
    return {int(line[1].rpartition(":")[2], 16) for line in lines if line[9] in owned}


def test_without_an_endpoint_there_is_nothing(tmp_path):
    """No socket but the one we listen on, no exporter loaded in any process, no traceparent, no count of anything."""
    with site() as target:
        config = write_config(tmp_path, [target.url], interval="1h", timeout="1s", tracing="{success_ratio: 1}")
        with running("run", "-c", str(config), "--port", "0") as service:
            port = urllib.parse.urlsplit(service.url).port
            (worker,) = service.wait_for_workers()
            samples = service.wait_for_sample("url_monitor_worker_cpu_seconds_total", 0.001, worker="0")
            assert not protobuf_is_loaded(service.pid)
            assert not protobuf_is_loaded(worker)
            assert tcp_ports(service.pid) == {port}
            assert tcp_ports(worker) == set()
    assert samples.get("url_monitor_otlp_export_failures_total") == 0
    assert samples.get("url_monitor_otlp_lost_spans_total") == 0


def test_everything_is_sent_as_asked_for(tmp_path, ca):
    """TLS both ways with files of any name, headers, compression, paths and resource, each signal in its own way."""
    folder = tmp_path / "schlüssel"
    folder.mkdir()
    trusted, client, key = (folder / name for name in ("ca.pem", "client.pem", "client-key.pem"))
    ca.cert_pem.write_to_path(str(trusted))
    ours = ca.issue_cert("monitor@example.com")
    ours.private_key_pem.write_to_path(str(key))
    client.write_bytes(b"".join(pem.bytes() for pem in ours.cert_chain_pems))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with site() as target, sink() as metrics, sink(context) as traces:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": metrics.url,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{traces.url}/own/traces?token=canary",
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b,empty=",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "authorization=Basic%20eDp5",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION": "deflate",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(trusted),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(client),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(key),
            "OTEL_SERVICE_NAME": "probes",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test%2C1,service.name=ignored",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        urls = [f"{target.url}/{number}" for number in range(8)]
        config = write_config(tmp_path, urls, interval="500ms", tracing="{success_ratio: 1}")
        with running("run", "-c", str(config), "--port", "0", "--workers", "2", env=env) as service:
            push = metrics.wait_for_push()
            wait_for(lambda: len({span.attributes.get("url.full") for span in traces.spans} - {None}) == 8, "all spans")
            (info,) = service.samples().labels("target_info")
            service.end(signal.SIGTERM)
            service.assert_ended_well()
    (request, *_) = traces.requests
    assert request.path == "/own/traces?token=canary"
    wanted = {"authorization": "Basic eDp5", "content-encoding": "gzip", "content-type": "application/x-protobuf"}
    assert wanted.items() <= request.headers.items()
    assert "api-key" not in request.headers
    (request, *_) = metrics.requests
    wanted = {"api-key": "a b", "empty": "", "content-encoding": "deflate"}
    assert wanted.items() <= request.headers.items()
    assert {request.path for request in metrics.requests} == {"/v1/metrics"}
    resources = {tuple(sorted(each.resource.items())) for each in (*traces.spans, *push)}
    (resource,) = map(dict, resources)
    assert resource["service.name"] == "probes"
    assert resource["deployment.environment.name"] == "test,1"
    assert {name.replace(".", "_"): value for name, value in resource.items()} == info


def make_trace(count):
    """A trace of so many spans."""
    hops = [make_hop() for _ in range(count - 1)]
    (target,) = make_targets(1)
    ids = RandomIdGenerator()
    scope = InstrumentationScope("instrumentation")
    contexts = [SpanContext(1, ids.generate_span_id(), is_remote=False) for _ in range(count)]
    return Trace(
        context=contexts[0],
        times=(1, 2),
        target=target,
        result=make_result(target, *hops),
        lag=0.0,
        clients=[HopSpan(context, scope, "GET", {}) for context in contexts[1:]],
        phases=[[] for _ in hops],
        phases_are_spans=True,
    )


@contextlib.contextmanager
def sender_to(url, *, timeout=0.5, **settings):
    """A span sender that tells at once what it takes."""
    environment = Environment(traces=Endpoint(url=f"{url}/v1/traces", timeout=timeout), **{"delay": 0.05, **settings})
    made = SpanSender(environment, {})
    made.start()
    yield made
    made.stop(5.0)


OK_IN_JSON = {"Content_Type": "application/json"}


@pytest.mark.parametrize(
    ("answer", "delivered", "lost", "failures"),
    [
        pytest.param(accept, 3, 0, 0, id="takes all"),
        pytest.param(says(500), 0, 3, 1, id="500"),
        pytest.param(says(404), 0, 3, 1, id="404"),
        pytest.param(says(302, Location="/elsewhere"), 0, 3, 1, id="302"),
        pytest.param(says(304), 0, 3, 1, id="304"),
        pytest.param(in_turn(says(429, Retry_After="0"), accept), 3, 0, 1, id="429, then takes all"),
        pytest.param(says(429, Retry_After="100"), 0, 3, 1, id="429 for long"),
        pytest.param(in_turn(break_off, accept), 3, 0, 1, id="breaks off, then takes all"),
        pytest.param(break_off, 0, 3, None, id="breaks off"),
        pytest.param(hang, 0, 3, None, id="hangs"),
        pytest.param(drip, 0, 3, None, id="drips"),
        pytest.param(says(200, b"x" * 300_000), 0, 3, None, id="says too much"),
        pytest.param(says(200, b"<html>Welcome</html>"), 0, 0, 1, id="says something else"),
        pytest.param(says(200, b"{}", **OK_IN_JSON), 0, 0, 0, id="takes all in JSON"),
        pytest.param(
            says(200, b'{"partialSuccess": {"rejectedSpans": "2"}}', **OK_IN_JSON), 0, 2, 1, id="rejects two in JSON"
        ),
        pytest.param(rejects(2), 0, 2, 1, id="rejects two"),
        pytest.param(rejects(10**9), 0, 3, 1, id="rejects more than there is"),
        pytest.param(rejects(-5), 0, 0, 0, id="rejects less than nothing"),
    ],
)
def test_a_span_is_delivered_or_lost(answer, delivered, lost, failures):
    """Whatever a collector answers, each span is counted on one side, and each failed request is counted."""
    # What is tried again is tried until the time is up.
    with sink(answer=answer) as collector, sender_to(collector.url, timeout=0.5 if failures is None else 5.0) as sender:
        assert sender.put(make_trace(3))
        wait_for(lambda: collector.requests, "a request")
        assert sender.stop(10.0) == 0
        assert (len(collector.spans), sender.lost) == (delivered, lost)
        if failures is None:
            assert sender.failures >= 1
        else:
            assert sender.failures == failures


@pytest.mark.parametrize("listens", [False, True], ids=["down", "silent"])
def test_a_collector_that_is_not_there_costs_the_batch(listens):
    """Nothing listening, or nobody answering: the export ends by its deadline, and the spans count as lost."""
    with contextlib.ExitStack() as stack:
        down = f"http://127.0.0.1:{stack.enter_context(refusing_port())}"
        url = stack.enter_context(silent_port()) if listens else down
        with sender_to(url) as sender:
            assert sender.put(make_trace(3))
            assert sender.stop(5.0) == 0
            assert sender.lost == 3
            assert sender.failures >= 1


def test_the_queue_is_bounded_and_every_span_counted():
    """With a collector that hangs, what there is no room for is refused, and a stop counts what is left as lost."""
    with sink(answer=hang) as collector, sender_to(collector.url, timeout=60, queue_size=10, batch_size=3) as sender:
        assert sender.put(make_trace(3))
        wait_for(lambda: collector.requests, "the first is on its way")
        assert [sender.put(make_trace(3)) for _ in range(4)] == [True, True, False, False]
        assert not sender.put(make_trace(2))
        assert sender.put(make_trace(1))
        assert sender.lost == 8
        assert sender.stop(0.1) == 10
        assert sender.lost == 18
        assert sender.failures == 0
        collector.answer = accept
        collector.closed.set()  # who hangs is let go


def test_traces_travel_whole():
    """Batches are made of whole traces; one that is larger than a batch, or than the queue, goes alone."""
    with sink() as collector, sender_to(collector.url, queue_size=9, batch_size=4, delay=1000.0) as sender:
        traces = [make_trace(count) for count in (1, 2, 2)]
        for trace in traces:
            assert sender.put(trace)
        wait_for(lambda: len(collector.spans) == 5, "what fills a batch is not kept waiting")
        wait_for(lambda: sender.put(make_trace(20)), "room for one more")
        wait_for(lambda: len(collector.spans) == 25, "the large one")
        assert sender.lost == 0
    scopes = [request.message.resource_spans[0].scope_spans for request in collector.requests]
    sent = [sum(len(scope.spans) for scope in each) for each in scopes]
    assert sent == [3, 2, 20]


def test_a_deadline_holds_whatever_is_dripped():
    """A server that always has one more byte does not keep the thread that sends."""
    losses = Losses()
    with sink(answer=drip) as collector:
        send = span_sender(Endpoint(url=f"{collector.url}/v1/traces", timeout=0.5), losses)
        begin = time.monotonic()
        send(b"", 2)
        assert time.monotonic() - begin < 5
    assert losses.spans == 2


def test_trouble_is_told_once_and_its_end_too(caplog):
    """The log is not filled by a collector that is away: one line when it begins, one when it is over."""
    caplog.set_level(logging.INFO)
    losses = Losses()
    with sink(answer=says(500)) as collector:
        send = span_sender(Endpoint(url=f"{collector.url}/v1/traces", timeout=0.5), losses)
        for answer in (says(500), says(500), accept, says(500), accept, hang, accept):
            collector.answer = answer
            send(b"", 1)
    assert [record.getMessage() for record in caplog.records] == [
        "OTLP export fails: the answer was 500",
        "OTLP export works again",
    ]
    assert losses.failures >= 4


def test_words_that_differ_by_milliseconds_are_the_same_trouble(caplog):
    """A collector that is down is told of once, though libcurl says each time how long it tried."""
    losses = Losses()
    with refusing_port() as port:
        send = span_sender(Endpoint(url=f"http://127.0.0.1:{port}/v1/traces", timeout=0.5), losses)
        for _ in range(3):
            send(b"", 1)
    (line,) = (words for words in caplog.messages if f":{port}" in words)
    assert line.startswith(f"OTLP export fails: Failed to connect to 127.0.0.1:{port} after ")
    assert losses.failures >= 3


def ended(services):
    """Seconds that each took to stop, all told at once."""
    for service in services:
        service.process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    for service in services:
        service.process.wait(timeout=10)
        yield time.monotonic() - begin


def value_of(push, name, **attributes):
    return sum(point.value for point in push if point.name == name and attributes.items() <= point.attributes.items())


def test_a_collector_in_trouble_harms_nobody(tmp_path):
    """Down, hanging or dripping: no probe is missed, scrapes are answered, spans are counted, a stop takes < 5 s."""
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(site())
        bad = [
            f"http://127.0.0.1:{stack.enter_context(refusing_port())}",
            stack.enter_context(sink(answer=hang)).url,
            stack.enter_context(sink(answer=drip)).url,
        ]
        urls = [f"{target.url}/{number}" for number in range(3)]
        config = write_config(tmp_path, urls, interval="500ms", tracing="{success_ratio: 1}")
        good, services = [], []
        for url in bad:
            good.append(stack.enter_context(sink()))
            env = {
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{url}/v1/traces",
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{good[-1].url}/v1/metrics",
                "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "1000",
                "OTEL_BSP_MAX_QUEUE_SIZE": "24",
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "6",
                "OTEL_BSP_SCHEDULE_DELAY": "100",
            }
            services.append(stack.enter_context(running("run", "-c", str(config), "--port", "0", env=env)))
        for service in services:
            service.wait_for_sample("url_monitor_otlp_lost_spans_total", 6)
            service.wait_for_sample("url_monitor_otlp_export_failures_total", 1)
            for url in urls:
                samples = service.wait_for_sample("url_monitor_probe_results_total", 6, url=url, result="success")
            assert samples.labels("url_monitor_probe_skipped_total") == []
            assert samples.total("url_monitor_probe_results_total", result="failure") == 0
        assert all(seconds < 5 for seconds in ended(services))
        for service in services:
            service.assert_ended_well()
        for metrics in good:
            last = metrics.pushes()[-1]
            made = value_of(last, "url_monitor.probe_results")
            cut_off = value_of(last, "url_monitor.probe_skipped", reason="shutdown")
            # A trace of a plain probe has six spans; of a probe that was cut off it may be there or not.
            assert 6 * made <= value_of(last, "url_monitor.otlp_lost_spans") <= 6 * (made + cut_off)
            assert value_of(last, "url_monitor.otlp_export_failures") >= 1


def test_a_push_that_fails_is_counted_and_told(tmp_path):
    """A redirect is a failure of the push; `/metrics` counts each request, the log tells it once."""
    with sink(answer=says(302, Location="/v1/elsewhere")) as collector, site() as target:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
        }
        with running("run", target.url, "--port", "0", env=env) as service:
            samples = service.wait_for_sample("url_monitor_otlp_export_failures_total", 3)
            service.end(signal.SIGTERM)
            service.assert_ended_well()
            log = service.log
        assert samples.get("url_monitor_otlp_lost_spans_total") == 0
        assert log.count("OTLP export") == log.count("OTLP export fails: the answer was 302") == 1


STEADY = [row for row in ROWS if row is not RENDER]


def test_a_push_says_what_a_scrape_says(tmp_path):
    """Every series of a scrape is in a push under its OpenTelemetry name, with the same labels and the same number."""
    with sink() as collector, site() as target:
        urls = [f"{target.url}/{path}" for path in ("", "500", "redirect")] + ["http://127.0.0.1:1/"]
        config = write_config(
            tmp_path, urls, interval="250ms", metrics="{level: full}", labels="{team: a}", tracing="{success_ratio: 1}"
        )
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_METRIC_EXPORT_INTERVAL": "250"}
        with running("run", "-c", str(config), "--port", "0", env=env) as service:
            for url in urls:
                result = "success" if url in (urls[0], urls[2]) else "failure"
                service.wait_for_sample("url_monitor_probe_results_total", 2, url=url, team="a", result=result)
            (worker,) = service.wait_for_workers()
            os.kill(worker, signal.SIGSTOP)  # nothing changes any more
            try:
                pushed = exposed(collector.wait_for_push(), STEADY)
                while pushed != (latest := exposed(collector.wait_for_push(), STEADY)):
                    pushed = latest
                time.sleep(1.5)  # a scrape may be a second old
                # The SDK sums for each reader from one collection to the next, so the last digit may differ.
                assert scraped(service.samples(), STEADY) == pytest.approx(pushed, rel=1e-12, abs=0)
            finally:
                os.kill(worker, signal.SIGCONT)
            service.end(signal.SIGTERM)
            service.assert_ended_well()
    assert {name for name, _ in pushed} >= {
        "sample_external_url_up",
        "probe_http_duration_seconds",
        "url_monitor_probe_failures_total",
        "url_monitor_probe_latency_seconds_bucket",
        "url_monitor_schedule_lag_seconds_count",
        "url_monitor_worker_cpu_seconds_total",
        "url_monitor_build_info",
    }
    roots = {(trace[0].trace_id, trace[0].span_id) for trace in collector.traces()}
    latency = [point for push in collector.pushes() for point in push if point.name == "url_monitor.probe_latency"]
    exemplars = {found[:2] for point in latency for found in point.exemplars}
    assert exemplars
    assert exemplars <= roots


def test_a_large_push_is_split():
    """Above 10,000 points a push takes several requests, and together they say what a scrape says."""
    targets = make_targets(700)
    results = Results(targets)
    with sink() as collector:
        telemetry = Telemetry(Environment(metrics=Endpoint(url=f"{collector.url}/v1/metrics"), interval=3600.0))
        instruments = Instruments(telemetry.meter(), results, MetricsLevel.FULL, Service(telemetry))
        for target in targets:
            result = make_result(target, make_hop())
            instruments.record(results.record(result), result, 0.0)
        text = Renderer(telemetry.reader).render(openmetrics=False).decode()
        telemetry.shutdown()
        pushes = collector.pushes()
    assert [len(push) for push in pushes[:-1]] == [10_000] * (len(pushes) - 1)
    assert len(pushes) >= 2
    per_target = [*TARGET_ROWS, *(row for row in ROWS if row.name == "url_monitor.probe_latency")]
    pushed = exposed([point for push in pushes for point in push], per_target)
    assert len(pushed) > 10_000
    assert pushed == scraped(Samples(text), per_target)


PROMETHEUS = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: monitor
    static_configs: [{{targets: ["{address}"]}}]
"""


def test_prometheus_leads_to_the_trace(tmp_path):
    """The exemplar that Prometheus keeps of a latency bucket names a trace that the collector has, and its root."""
    program = require_tool("prometheus")
    with contextlib.ExitStack() as stack:
        collector, target = stack.enter_context(sink()), stack.enter_context(site())
        policy = {"metrics": "{level: full}", "tracing": "{success_ratio: 1}"}
        config = write_config(tmp_path, [target.url], interval="250ms", **policy)
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        service = stack.enter_context(running("run", "-c", str(config), "--port", "0", env=env))
        (tmp_path / "prometheus.yml").write_text(PROMETHEUS.format(address=service.url.removeprefix("http://")))
        address = f"127.0.0.1:{free_port()}"
        options = (
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={address}",
            "--enable-feature=exemplar-storage",
        )
        stack.enter_context(running_command((program, *options)))

        def exemplars():
            asked = {"query": "url_monitor_probe_latency_seconds_bucket", "start": "0", "end": str(time.time() + 60)}
            try:
                status, body = get(f"http://{address}/api/v1/query_exemplars?{urllib.parse.urlencode(asked)}")
            except OSError:
                return []
            return json.loads(body)["data"] if status == 200 else []

        (found, *_) = wait_for(exemplars, "an exemplar")
        labels = found["exemplars"][0]["labels"]
        named = labels["trace_id"], labels["span_id"]
        wait_for(lambda: named in {(trace[0].trace_id, trace[0].span_id) for trace in collector.traces()}, "its trace")
        assert found["seriesLabels"]["url"] == target.url
