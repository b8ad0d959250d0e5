"""Secrets: they get where they are meant to go, and into nothing that anybody can look at."""

import base64
import json
import signal
from pathlib import Path
from urllib.parse import quote

from otlp import break_off, says, sink
from processes import free_port, get, running, wait_for
from servers import Server, answers

QUICK = {"OTEL_METRIC_EXPORT_INTERVAL": "300", "OTEL_BSP_SCHEDULE_DELAY": "100"}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
CANARY = "canary-8d21f"
BASIC = base64.b64encode(f"u:{CANARY}-basic".encode()).decode()

# What would put headers into spans, and queries of the endpoint into logs, if anybody heeded it.
CURIOUS = {
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": ".*",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE": ".*",
}


def test_secrets_stay_where_they_belong(tmp_path):
    """What is configured as a secret gets to its target and collector, and into nothing that anybody can look at."""
    token = tmp_path / "token"
    token.write_text(f"{CANARY}-bearer\n")
    redirect = f"HTTP/1.1 302 Found\r\nLocation: /?token={CANARY}-moved\r\nContent-Length: 0\r\n\r\n".encode()
    with (
        Server(answers(OK)) as good,
        Server(answers(redirect)) as moving,
        sink() as collector,
    ):
        closed = f"http://127.0.0.1:{free_port()}"
        targets = [
            {"url": good.url(f"/?token={CANARY}-query"), "request": {"headers": {"X-Key": f"{CANARY}-header"}}},
            {"url": good.url("/b"), "request": {"bearer_token_file": str(token)}},
            {"url": good.url("/c"), "request": {"basic_auth": {"username": "u", "password": f"{CANARY}-basic"}}},
            {"url": good.url("/d"), "request": {"method": "POST", "body": f"{CANARY}-body"}},
            {"url": f"{closed}/?api_key={CANARY}-closed"},
            {"url": good.url(f"/?sig={CANARY}-tls").replace("http://", "https://")},
            {"url": moving.url("/"), "request": {"max_redirects": 2}},
        ]
        config = tmp_path / "monitor.yaml"
        settings = {"interval": "300ms", "metrics": {"level": "full"}, "tracing": {"success_ratio": 1.0}}
        config.write_text(json.dumps({**settings, "targets": targets}))
        env = {
            **QUICK,
            **CURIOUS,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces?token={CANARY}-traces",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{collector.url}/v1/metrics?token={CANARY}-metrics",
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={CANARY}-otlp;x",
        }
        arguments = ("-c", str(config), "--port", "0", "--host", "127.0.0.1", "--log-level", "debug")
        with running("run", *arguments, env=env) as service:
            wait_for(lambda: len({s.attributes["url.full"] for s in collector.spans if not s.parent_id}) == 7, "traces")
            collector.wait_for_push()
            failures = 0.0
            for trouble in (says(500, CANARY.encode()), break_off, None):
                if trouble is None:
                    collector.close()  # from now on connections are refused
                else:
                    collector.answer = trouble
                name = "url_monitor_otlp_export_failures_total"
                failures = service.wait_for_sample(name, failures + 2).get(name)
            pages = [service.get(path)[1] for path in ("/metrics", "/", "/-/healthy")]
            openmetrics = get(f"{service.url}/metrics", headers={"Accept": "application/openmetrics-text"})[1]
            arguments = [Path(f"/proc/{pid}/cmdline").read_text() for pid in service.processes()]
            service.end(signal.SIGTERM)
            log = service.log
        sent = b"".join(request.message.SerializeToString() for request in collector.requests)
        for shown in (*pages, openmetrics, *arguments, log, sent.decode("latin-1")):
            for secret in (CANARY, quote(BASIC), BASIC):
                assert secret not in shown
        assert "OTLP export fails: " in log
        assert all(f"{CANARY}-otlp" in request.headers["x-key"] for request in collector.requests)
        assert {request.path.partition("?")[2] for request in collector.requests} == {
            f"token={CANARY}-traces",
            f"token={CANARY}-metrics",
        }
        received = b"".join((*good.requests, *moving.requests)).decode()
        for name in ("query", "header", "bearer", "body", "moved"):
            assert f"{CANARY}-{name}" in received
        assert f"Basic {BASIC}" in received
