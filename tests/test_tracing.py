"""Traces as a collector gets them from the running service, and what targets are told of them."""

import contextlib
import ipaddress
import itertools
import json
import re
import signal
import textwrap
from datetime import UTC, datetime
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from factories import make_hop
from otel_url_monitor.model import Phases
from otel_url_monitor.tracing.spans import phases_of
from otlp import hang, says, sink, tree
from processes import running, wait_for
from servers import OK, Server, answers, redirects, refusing_port, tls

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
FOUND = b"HTTP/1.1 302 Found\r\nLocation: /end?page=2&token=canary\r\nContent-Length: 0\r\n\r\n"
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"

OUTCOME = ("error.type", "http.response.status_code", "http.request.resend_count", "url_monitor.result")
PASSED = ("connect", "request", "wait", "transfer")

# What libraries read by themselves: patterns, limits and switches that we do not have, sound and unsound ones.
HOSTILE = {
    "OTEL_SEMCONV_STABILITY_OPT_IN": "database",
    "OTEL_PYTHON_REQUESTS_EXCLUDED_URLS": ".*",
    "OTEL_PYTHON_EXCLUDED_URLS": "[",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": ".*",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE": "[",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "1",
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "garbage",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3",
    "OTEL_TRACES_SAMPLER": "always_off",
    "OTEL_PROPAGATORS": "TraceContext, baggage,",
    "OTEL_PYTHON_ID_GENERATOR": "garbage",
}
UNSOUND = {
    "OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup",
    "OTEL_PYTHON_REQUESTS_EXCLUDED_URLS": "[",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": "[",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "garbage",
    "OTEL_SPAN_EVENT_COUNT_LIMIT": "-1",
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "1",
    "OTEL_TRACES_SAMPLER": "garbage",
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true",
}


def configure(folder, targets, **settings):
    """A configuration file, as JSON, which YAML includes."""
    path = folder / "monitor.yaml"
    path.write_text(json.dumps({**settings, "targets": targets}))
    return path


def target(name, url, **settings):
    return {"url": url, "labels": {"name": name}, **settings}


@contextlib.contextmanager
def tracing(collector, folder, targets, *arguments, env=None, **settings):
    """The service with these targets, which sends to the collector ten times a second."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100", **(env or {})}
    path = configure(folder, targets, **{"interval": "500ms", "tracing": {"success_ratio": 1}, **settings})
    with running("run", "-c", str(path), "--port", "0", *arguments, env=env) as service:
        yield service


def fields(request):
    """Header fields of a request as a server got it, names in lower case."""
    lines = (line.decode("latin-1") for line in request.split(b"\r\n\r\n")[0].split(b"\r\n")[1:])
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def parents(server):
    """The traceparent of each request, `None` where there was none."""
    return [fields(request).get("traceparent") for request in server.requests]


def outline(text):
    return textwrap.dedent(text).lstrip("\n")


def read_and_wait(peer):
    peer.read()
    peer.wait()


def send_half(peer):
    peer.read()
    peer.send(HALF)
    peer.wait()


def redirect_once(peer):
    peer.send(OK if b"/end" in peer.read() else FOUND)


@pytest.fixture(scope="module")
def world(ca, ca_file, tmp_path_factory):
    """Two workers that probe everything a trace can tell of, each trace kept."""
    expired = ca.issue_cert(
        "127.0.0.1", not_before=datetime(2019, 1, 1, tzinfo=UTC), not_after=datetime(2020, 1, 1, tzinfo=UTC)
    )
    with contextlib.ExitStack() as stack:
        servers = {
            "ok": Server(answers(OK)),
            "redirect": Server(redirect_once),
            "end": Server(answers(OK), tls(ca.issue_cert("127.0.0.1"), protocols=("http/1.1",))),
            "unavailable": Server(answers(UNAVAILABLE)),
            "missing": Server(answers(NOT_FOUND)),
            "silent": Server(read_and_wait),
            "half": Server(send_half),
            "expired": Server(answers(OK), tls(expired)),
        }
        for server in servers.values():
            stack.enter_context(server)
        servers["cross"] = stack.enter_context(Server(redirects(servers["end"].url("/end"))))
        collector = stack.enter_context(sink())
        refused = f"http://127.0.0.1:{stack.enter_context(refusing_port())}/"
        trust = {"tls": {"ca_file": str(ca_file)}}
        expect = {"expect": {"status": [404]}}
        targets = [
            target("ok", servers["ok"].url("/?token=canary&page=1")),
            {"url": servers["ok"].url(host="localhost")},
            target("redirect", servers["redirect"].url()),
            target("cross", servers["cross"].url(), **trust),
            target("tls", servers["end"].url(), **trust),
            target("unavailable", servers["unavailable"].url()),
            target("missing", servers["missing"].url(), **expect),
            target("silent", servers["silent"].url(), timeout="200ms"),
            target("half", servers["half"].url(), timeout="200ms"),
            target("expired", servers["expired"].url(), **trust),
            target("refused", refused),
            target("unknown", "http://unknown.invalid/"),
            target("reused", servers["ok"].url("/reused"), request={"method": "PUT", "headers": {"X-Own": "kept"}}),
        ]
        folder = tmp_path_factory.mktemp("world")
        with tracing(collector, folder, targets, "--workers", "2", "--log-level", "debug") as service:
            for each in targets:
                collector.wait_for_trace(f"probe {each['labels']['name']}" if "labels" in each else "probe localhost")
            wait_for(lambda: len(collector.traces("probe reused")) >= 3, "three traces of a target")
            samples = service.samples()
            service.end(signal.SIGTERM)
            service.assert_ended_well()
            log = [json.loads(line) for line in service.log.splitlines()]
        yield SimpleNamespace(collector=collector, servers=servers, samples=samples, log=log, refused=refused)


def trace(world, name):
    return world.collector.traces(f"probe {name}")[0]


def test_a_good_answer_has_its_phases(world):
    """All that a trace says of a success: where it went, what came, how late it started, and how the time was spent."""
    server = world.servers["ok"]
    assert tree(trace(world, "ok"), {server.port: "PORT"}) == outline("""
        probe ok
          - http.response.status_code: 200
          - server.address: '127.0.0.1'
          - server.port: PORT
          - url.full: 'http://127.0.0.1:PORT/?token=REDACTED&page=1'
          - url_monitor.result: 'success'
          - url_monitor.schedule_lag: #
          - user_agent.synthetic.type: 'test'
          GET CLIENT
            - http.request.method: 'GET'
            - http.response.status_code: 200
            - network.peer.address: '127.0.0.1'
            - network.protocol.version: '1.1'
            - server.address: '127.0.0.1'
            - server.port: PORT
            - url.full: 'http://127.0.0.1:PORT/?token=REDACTED&page=1'
            connect
            request
            wait
            transfer
    """)


def test_a_name_is_resolved_first(world):
    """A host name adds the phase dns; without a label `name` the root is called by the host."""
    assert tree(trace(world, "localhost"), only=("server.address", "network.protocol.version")) == outline("""
        probe localhost
          - server.address: 'localhost'
          GET CLIENT
            - network.protocol.version: '1.1'
            - server.address: 'localhost'
            dns
            connect
            request
            wait
            transfer
    """)


def test_a_redirect_is_a_span_of_its_own(world):
    """Each hop has a client span, in order, with its own URL and how often the request had been sent before."""
    port = world.servers["redirect"].port
    assert tree(trace(world, "redirect"), {port: "PORT"}, only=(*OUTCOME, "url.full")) == outline("""
        probe redirect
          - http.response.status_code: 200
          - url.full: 'http://127.0.0.1:PORT/'
          - url_monitor.result: 'success'
          GET CLIENT
            - http.response.status_code: 302
            - url.full: 'http://127.0.0.1:PORT/'
            connect
            request
            wait
            transfer
          GET CLIENT
            - http.request.resend_count: 1
            - http.response.status_code: 200
            - url.full: 'http://127.0.0.1:PORT/end?page=2&token=REDACTED'
            connect
            request
            wait
            transfer
    """)


def test_a_redirect_to_another_origin_stays_in_the_trace(world):
    """A hop to https has the TLS phase and version, and its own server and port."""
    names = {world.servers["cross"].port: "PORT", world.servers["end"].port: "SECURE"}
    shown = ("server.port", "tls.protocol.version", "network.peer.address", *OUTCOME)
    assert tree(trace(world, "cross"), names, only=shown) == outline("""
        probe cross
          - http.response.status_code: 200
          - server.port: PORT
          - url_monitor.result: 'success'
          GET CLIENT
            - http.response.status_code: 302
            - network.peer.address: '127.0.0.1'
            - server.port: PORT
            connect
            request
            wait
            transfer
          GET CLIENT
            - http.request.resend_count: 1
            - http.response.status_code: 200
            - network.peer.address: '127.0.0.1'
            - server.port: SECURE
            - tls.protocol.version: '1.3'
            connect
            tls
            request
            wait
            transfer
    """)


def test_an_unexpected_status_is_an_error_of_the_last_hop(world):
    """`error.type` is the status on the client span, as the conventions say, and our reason on the root."""
    assert tree(trace(world, "unavailable"), only=OUTCOME) == outline("""
        probe unavailable ERROR probe failed
          - error.type: 'unexpected_status'
          - http.response.status_code: 503
          - url_monitor.result: 'failure'
          GET CLIENT ERROR
            - error.type: '503'
            - http.response.status_code: 503
            connect
            request
            wait
            transfer
    """)


def test_an_expected_404_is_no_error(world):
    """What the configuration expects is a success, whatever its number."""
    assert tree(trace(world, "missing"), only=OUTCOME) == outline("""
        probe missing
          - http.response.status_code: 404
          - url_monitor.result: 'success'
          GET CLIENT
            - http.response.status_code: 404
            connect
            request
            wait
            transfer
    """)


@pytest.mark.parametrize(
    ("name", "reason", "passed", "failed"),
    [
        ("refused", "connection_refused", (), "connect"),
        ("unknown", "dns_error", (), "dns"),
        ("expired", "tls_expired", ("connect",), "tls"),
        ("silent", "response_timeout", ("connect", "request"), "wait"),
    ],
)
def test_an_exchange_that_broke_off_says_where(world, name, reason, passed, failed):
    """Without an answer our reason stands on root, hop and the phase in which it broke off, which is the last."""
    phases = "".join(f"            {phase}\n" for phase in passed)
    assert tree(trace(world, name), only=OUTCOME) == outline(f"""
        probe {name} ERROR probe failed
          - error.type: '{reason}'
          - url_monitor.result: 'failure'
          GET CLIENT ERROR
            - error.type: '{reason}'
{phases}            {failed} ERROR
              - error.type: '{reason}'
    """)


def test_an_answer_that_broke_off_says_so(world):
    """A body of which only a part came has failed in its transfer; the status that came is there."""
    assert tree(trace(world, "half"), only=OUTCOME) == outline("""
        probe half ERROR probe failed
          - error.type: 'body_timeout'
          - http.response.status_code: 200
          - url_monitor.result: 'failure'
          GET CLIENT ERROR
            - error.type: 'body_timeout'
            - http.response.status_code: 200
            connect
            request
            wait
            transfer ERROR
              - error.type: 'body_timeout'
    """)


def test_every_hop_says_where_it_went(world):
    """Address and port are always there, also the scheme's own port; the peer is an address, never a name."""
    traces = world.collector.traces()
    roots_and_hops = [span for trace in traces for span in trace if span.kind == "CLIENT" or not span.parent_id]
    for span in roots_and_hops:
        parts = urlsplit(span.attributes["url.full"])
        assert span.attributes["server.address"] == parts.hostname
        assert span.attributes["server.port"] == (parts.port or 80)
    hops = [span for span in roots_and_hops if span.kind == "CLIENT"]
    assert all(ipaddress.ip_address(hop.attributes.get("network.peer.address", "127.0.0.1")) for hop in hops)
    without = {hop.attributes["url.full"] for hop in hops if "network.peer.address" not in hop.attributes}
    assert without == {world.refused, "http://unknown.invalid/"}


def test_every_trace_is_well_formed(world):
    """Ids, parents, times and the absence of events hold for each trace; hops and phases follow one another."""
    traces = world.collector.traces()
    assert len(traces) >= 15
    for trace in traces:
        tree(trace)
        for parent in trace:
            children = sorted((span for span in trace if span.parent_id == parent.span_id), key=lambda span: span.start)
            assert all(one.end <= other.start for one, other in itertools.pairwise(children))
    assert len({span.span_id for span in world.collector.spans}) == len(world.collector.spans)


def test_phases_add_up_to_the_probe(world):
    """What the metric of the duration says is the time from the first phase to the last."""
    samples = world.samples
    url, name = world.servers["ok"].url("/?token=REDACTED&page=1"), "ok"
    duration = samples.get("probe_duration_seconds", url=url, name=name)
    traced = []
    for trace in world.collector.traces("probe ok"):
        phases = [span for span in trace if not span.attributes]
        traced.append((max(span.end for span in phases) - min(span.start for span in phases)) / 1e9)
    assert min(abs(duration - seconds) for seconds in traced) < 1e-6


def test_conventions_are_the_stable_ones(world):
    """No attribute of the old conventions, and nothing the instrumentation found in headers, is in any span."""
    names = {name for span in world.collector.spans for name in span.attributes}
    assert names == {
        "error.type",
        "http.request.method",
        "http.request.resend_count",
        "http.response.status_code",
        "network.peer.address",
        "network.protocol.version",
        "server.address",
        "server.port",
        "tls.protocol.version",
        "url.full",
        "url_monitor.result",
        "url_monitor.schedule_lag",
        "user_agent.synthetic.type",
    }


def test_all_processes_are_one_instance(world):
    """Two workers have one `service.instance.id`, the one that `target_info` shows."""
    (info,) = world.samples.labels("target_info")
    assert {frozenset(span.resource.items()) for span in world.collector.spans} == {
        frozenset({name.replace("_", "."): value for name, value in info.items()}.items())
    }


def test_posts_to_the_collector_are_not_traced(world):
    """No span tells of OTLP itself: neither its URL nor its port occurs in any."""
    shown = {urlsplit(url).port for span in world.collector.spans if (url := span.attributes.get("url.full"))}
    assert world.collector.port not in shown


def test_the_instrumentation_s_metrics_stay_out(world):
    """Its histogram for each request is neither scraped nor pushed."""
    pushed = {point.name for push in world.collector.pushes() for point in push}
    assert pushed
    assert not [name for name in pushed if name.startswith(("http", "otel"))]
    assert not [name for name, _ in world.samples.by_series if name.startswith(("http", "otel_"))]


def test_a_target_is_told_of_its_trace(world):
    """Every probe sends a traceparent of its own that says sampled, and its ids are the client span's."""
    told = [parent for parent in parents(world.servers["ok"]) if parent]
    assert len(told) == len(world.servers["ok"].requests)
    assert len({parent.split("-")[1] for parent in told}) == len(told)
    assert {re.sub("[0-9a-f]{16,}", "#", parent) for parent in told} == {"00-#-#-01"}
    clients = {(span.trace_id, span.span_id) for span in world.collector.spans if span.kind == "CLIENT"}
    missing = {tuple(parent.split("-")[1:3]) for parent in told} - clients
    assert len(missing) <= 3  # probes cut off by the stop have no trace


def test_a_redirect_within_the_origin_is_told_too(world):
    """Each hop to the target's origin gets its own parent id in one trace."""
    first, second = parents(world.servers["redirect"])[:2]
    clients = [span for span in trace(world, "redirect") if span.kind == "CLIENT"]
    assert [f"00-{span.trace_id}-{span.span_id}-01" for span in clients] == [first, second]


def test_another_origin_is_told_nothing(world):
    """Behind a redirect to another port or scheme neither traceparent nor tracestate nor baggage arrives."""
    redirected = [fields(request) for request in world.servers["end"].requests if b" /end " in request]
    assert redirected
    assert {name for found in redirected for name in found} == {"host", "user-agent", "accept"}
    assert None not in parents(world.servers["cross"])


def test_the_log_has_the_trace_of_a_change(world):
    """A line about a kept trace carries its id; with all kept, each line about a probe does."""
    traces = {span.trace_id for span in world.collector.spans}
    told = [line for line in world.log if "outcome" in line]
    assert told
    assert all(line["trace_id"] in traces for line in told)


@pytest.fixture(scope="module")
def picky(tmp_path_factory):
    """Phases as attributes, half of the successes kept, and targets told only where the target itself asks for it."""
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(Server(answers(OK))) for name in ("untold", "told", "own")}
        servers["failing"] = stack.enter_context(Server(answers(UNAVAILABLE)))
        collector = stack.enter_context(sink())
        own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
        propagate = {"tracing": {"propagate": True}}
        targets = [
            target("untold", servers["untold"].url()),
            target("told", servers["told"].url(), interval="100ms", **propagate),
            target("own", servers["own"].url(), request={"headers": {"TraceParent": own}}, **propagate),
            target("failing", servers["failing"].url(), **propagate),
        ]
        policy = {"phases": False, "success_ratio": 0.5, "propagate": False}
        with tracing(collector, tmp_path_factory.mktemp("picky"), targets, env=HOSTILE, tracing=policy) as service:
            wait_for(lambda: len(servers["told"].requests) >= 30, "thirty probes")
            wait_for(lambda: collector.traces("probe own") and collector.traces("probe untold"), "traces")
            text = service.samples().text
            service.end(signal.SIGTERM)
            service.assert_ended_well()
            yield SimpleNamespace(collector=collector, servers=servers, own=own, text=text, log=service.log)


def test_phases_may_be_attributes(picky):
    """With `phases: false` a hop has no children, and the seconds stand on its span; also in a hostile environment."""
    port = picky.servers["told"].port
    assert tree(picky.collector.traces("probe told")[0], {port: "PORT"}) == outline("""
        probe told
          - http.response.status_code: 200
          - server.address: '127.0.0.1'
          - server.port: PORT
          - url.full: 'http://127.0.0.1:PORT/'
          - url_monitor.result: 'success'
          - url_monitor.schedule_lag: #
          - user_agent.synthetic.type: 'test'
          GET CLIENT
            - http.request.method: 'GET'
            - http.response.status_code: 200
            - network.peer.address: '127.0.0.1'
            - network.protocol.version: '1.1'
            - server.address: '127.0.0.1'
            - server.port: PORT
            - url.full: 'http://127.0.0.1:PORT/'
            - url_monitor.phase.connect: #
            - url_monitor.phase.request: #
            - url_monitor.phase.transfer: #
            - url_monitor.phase.wait: #
    """)


def test_propagation_can_be_switched_off(picky):
    """`propagate: false` holds for every target that does not say otherwise itself; its trace is there all the same."""
    assert set(parents(picky.servers["untold"])) == {None}
    assert picky.collector.traces("probe untold")
    assert None not in parents(picky.servers["told"])


def test_a_configured_traceparent_is_left_alone(picky):
    """A header that the configuration gives is sent as it is, once."""
    assert set(parents(picky.servers["own"])) == {picky.own}
    assert all(request.lower().count(b"traceparent") == 1 for request in picky.servers["own"].requests)


def test_the_ratio_decides_by_the_trace_id(picky):
    """Of the successes those are kept whose id is random enough, so that a ratio means the same everywhere."""
    told = [parent.split("-")[1] for parent in parents(picky.servers["told"])][:-2]  # the stop may cut off the last
    kept = {span.trace_id for span in picky.collector.spans}
    assert [trace_id for trace_id in told if trace_id in kept] == [
        trace_id for trace_id in told if int(trace_id, 16) % 2**56 < 2**55
    ]


def test_failures_are_always_kept(picky):
    """The ratio concerns successes only."""
    told = {parent.split("-")[1] for parent in parents(picky.servers["failing"])[:-2]}
    assert told
    assert told <= {span.trace_id for span in picky.collector.spans}


def test_what_libraries_read_by_themselves_is_without_effect(picky):
    """Not even a sampler is heeded, and that alone is worth a line in the log."""
    warnings = [line["message"] for line in map(json.loads, picky.log.splitlines()) if line["level"] == "warning"]
    assert [words for words in warnings if words.startswith("OTEL_")] == [
        "OTEL_TRACES_SAMPLER has no effect: `tracing` in the configuration says what is kept"
    ]


@pytest.fixture(scope="module")
def frugal(tmp_path_factory):
    """No success is kept for its own sake."""
    count = iter(range(10**9))
    replies = (UNAVAILABLE, OK, OK, OK)

    def flap(peer):
        peer.read()
        peer.send(replies[next(count) % 4])

    def dawdle(peer):
        peer.read()
        peer.is_gone(within=0.15)
        peer.send(OK)

    with contextlib.ExitStack() as stack:
        servers = {
            "steady": stack.enter_context(Server(answers(OK))),
            "flapping": stack.enter_context(Server(flap)),
            "slow": stack.enter_context(Server(dawdle)),
        }
        collector = stack.enter_context(sink())
        targets = [target(name, server.url()) for name, server in servers.items()]
        policy = {"success_ratio": 0, "keep_slower_than": "100ms"}
        options = ("--log-level", "debug")
        with tracing(
            collector,
            tmp_path_factory.mktemp("frugal"),
            targets,
            *options,
            env=UNSOUND,
            interval="200ms",
            tracing=policy,
        ) as service:
            wait_for(lambda: len(servers["flapping"].requests) >= 10, "ten probes")
            wait_for(lambda: len(servers["slow"].requests) >= 3, "three slow probes")
            wait_for(lambda: len(servers["steady"].requests) >= 3, "three good probes")
            text = service.samples().text
            service.end(signal.SIGTERM)
            service.assert_ended_well()
            lines = [json.loads(line) for line in service.log.splitlines()]
            yield SimpleNamespace(collector=collector, servers=servers, lines=lines, text=text)


def test_only_what_matters_is_kept(frugal):
    """At ratio 0 a change of state and its return are kept, slow probes are, and of plain successes none is."""
    kept = {span.trace_id for span in frugal.collector.spans}
    sent = {
        name: [parent.split("-")[1] in kept for parent in parents(server)][:-1]  # the stop may cut off the last
        for name, server in frugal.servers.items()
    }
    assert sent["flapping"] == [number % 4 in (0, 1) for number in range(len(sent["flapping"]))]
    assert set(sent["steady"]) == {False}
    assert set(sent["slow"]) == {True}


def test_a_target_is_always_told_that_it_is_sampled(frugal):
    """The choice is made at the end; until then a backend has to record."""
    assert {parent[-3:] for server in frugal.servers.values() for parent in parents(server)} == {"-01"}


def test_only_a_kept_trace_is_referred_to(frugal):
    """Log lines name the trace when there is one, and name none otherwise."""
    kept = {span.trace_id for span in frugal.collector.spans}
    told = [line for line in frugal.lines if "outcome" in line]
    assert {line["trace_id"] for line in told if "trace_id" in line} <= kept
    steady = [line for line in told if line["url"] == frugal.servers["steady"].url()]
    assert steady
    assert not any("trace_id" in line for line in steady)


def test_internal_metrics_of_the_sdk_stay_out(frugal):
    """A switch of the SDK's adds nothing to the exposition."""
    assert "otel_sdk" not in frugal.text


def test_a_backend_continues_the_trace(tmp_path):
    """The server span of an instrumented target hangs below our client span, in one trace, across services."""
    with sink() as collector:
        exporter = OTLPSpanExporter(f"{collector.url}/v1/traces")
        provider = TracerProvider(resource=Resource({"service.name": "backend"}), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = provider.get_tracer("backend")

        def serve(peer):
            context = TraceContextTextMapPropagator().extract(fields(peer.read()))
            with tracer.start_as_current_span("handle", context, kind=SpanKind.SERVER):
                peer.send(OK)

        with Server(serve) as server, tracing(collector, tmp_path, [target("backend", server.url())]):
            wait_for(lambda: any(span.kind == "SERVER" for span in collector.spans), "the backend's span")
            handled = next(span for span in collector.spans if span.kind == "SERVER")
            wait_for(lambda: len([s for s in collector.spans if s.trace_id == handled.trace_id]) == 7, "both parts")
            both = [span for span in collector.spans if span.trace_id == handled.trace_id]
        assert tree(both, only=("url_monitor.result",)) == outline("""
            probe backend
              - url_monitor.result: 'success'
              GET CLIENT
                connect
                request
                wait
                transfer
                handle SERVER
        """)
        assert {span.resource["service.name"] for span in both} == {"otel-url-monitor", "backend"}
        provider.shutdown()


DISABLED = {"OTEL_SDK_DISABLED": "true"}
NO_TRACES = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRIC_EXPORT_INTERVAL": "200"}


@pytest.mark.parametrize(("env", "pushed"), [(DISABLED, False), (NO_TRACES, True)], ids=["all", "traces"])
def test_tracing_can_be_switched_off(tmp_path, env, pushed):
    """Switched off there are no spans and no traceparent; the SDK's switch ends the push too, and never `/metrics`."""
    with sink() as collector, Server(answers(OK)) as server:
        with tracing(collector, tmp_path, [target("ok", server.url())], env=env) as service:
            samples = service.wait_for_sample(
                "url_monitor_probe_results_total", 2, url=server.url(), name="ok", result="success"
            )
            if pushed:
                collector.wait_for_push()
            service.end(signal.SIGTERM)
            service.assert_ended_well()
        assert samples.get("probe_success", url=server.url(), name="ok") == 1
        assert samples.get("url_monitor_otlp_lost_spans_total") == 0
        assert collector.requests_to("/v1/traces") == []
        assert bool(collector.requests) is pushed
        assert set(parents(server)) == {None}


def test_a_stop_does_not_wait_for_a_collector(tmp_path):
    """With a collector that never answers a stop ends in time, and says how many spans were left."""
    with sink(answer=hang) as collector, Server(answers(OK)) as server:
        with tracing(collector, tmp_path, [target("ok", server.url())], interval="200ms") as service:
            wait_for(lambda: collector.requests_to("/v1/traces"), "spans are being sent")
            seconds = service.end(signal.SIGTERM)
            service.assert_ended_well()
            assert re.search(r'"\d+ spans could not be sent before the end"', service.log)
        assert seconds < 5


def test_a_refusing_collector_is_not_traced_either(tmp_path):
    """Failed posts make no spans: what arrives once the collector works tells of the target alone."""
    with sink(answer=says(404)) as collector, Server(answers(OK)) as server:
        with tracing(collector, tmp_path, [target("ok", server.url())]) as service:
            service.wait_for_sample("url_monitor_otlp_export_failures_total", 2)
            del collector.requests[:]
            collector.answer = says(200)
            wait_for(lambda: collector.requests_to("/v1/traces"), "spans")
            service.end(signal.SIGTERM)
        assert b"/v1/traces" not in b"".join(request.message.SerializeToString() for request in collector.requests)


CONNECTED = Phases(connect=0.01, processing=0.03, transfer=0.06)
NAMED = Phases(resolve=0.01, connect=0.02, tls=0.03, processing=0.04, transfer=0.05)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, [], id="nothing was measured"),
        pytest.param({"status": 0, "duration": 0.0}, [], id="nothing was sent"),
        pytest.param(
            {"phases": NAMED, "sending": 0.01, "is_tls": True, "duration": 0.15},
            ["dns 0-10", "connect 10-30", "tls 30-60", "request 60-70", "wait 70-100", "transfer 100-150"],
            id="all of them",
        ),
        pytest.param(
            {"phases": CONNECTED, "sending": 0.05, "duration": 0.1},
            ["connect 0-10", "request 10-40", "wait 40-40", "transfer 40-100"],
            id="the answer began before all was sent",
        ),
        pytest.param(
            {"phases": CONNECTED, "duration": 0.1},
            ["connect 0-10", "wait 10-40", "transfer 40-100"],
            id="when it was sent is not known",
        ),
        pytest.param(
            {"phases": CONNECTED, "sending": 0.01, "completed": False, "duration": 0.1},
            ["connect 0-10", "request 10-20", "wait 20-40", "transfer 40-100 failed"],
            id="in the body",
        ),
        pytest.param(
            {"phases": CONNECTED, "completed": False, "duration": 0.1},
            ["connect 0-10", "wait 10-40", "transfer 40-100 failed"],
            id="in the body of an early answer",
        ),
        pytest.param(
            {"status": 0, "phases": Phases(connect=0.01, processing=0.03), "sending": 0.01, "duration": 0.1},
            ["connect 0-10", "request 10-20", "wait 20-40", "transfer 40-100 failed"],
            id="in the headers",
        ),
        pytest.param(
            {"status": 0, "phases": Phases(connect=0.1), "duration": 0.1},
            ["connect 0-100", "request 100-100 failed"],
            id="at once after the connection was made",
        ),
        pytest.param({"status": 0, "duration": 0.1}, ["dns 0-100 failed"], id="before a name was resolved"),
        pytest.param(
            {"status": 0, "url": "http://[::1]/", "duration": 0.1}, ["connect 0-100 failed"], id="without a name"
        ),
        pytest.param(
            {"status": 0, "phases": Phases(resolve=0.02), "is_tls": True, "duration": 0.1},
            ["dns 0-20", "connect 20-100 failed"],
            id="before a connection was made",
        ),
        pytest.param(
            {"status": 0, "phases": Phases(resolve=0.02, connect=0.03), "is_tls": True, "duration": 0.1},
            ["dns 0-20", "connect 20-50", "tls 50-100 failed"],
            id="in the handshake",
        ),
    ],
)
def test_phases_in_order(fields, expected):
    """Phases follow one another; the one in which it broke off reaches to the end and is the only one that failed."""
    found = phases_of(make_hop(**fields))
    assert [
        f"{phase.name} {phase.begin * 1000:.0f}-{phase.end * 1000:.0f}{' failed' if phase.has_failed else ''}"
        for phase in found
    ] == expected
