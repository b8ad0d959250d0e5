"""Secrets: they get where they are meant to go, and into nothing that anybody can look at."""

import json
import signal
from pathlib import Path

from otlp import says, sink
from processes import free_port, get, running, wait_for
from servers import Server, answers

QUICK = {"OTEL_METRIC_EXPORT_INTERVAL": "300", "OTEL_BSP_SCHEDULE_DELAY": "100"}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
CANARY = "canary-8d21f"


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
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={CANARY}-otlp;x",
        }
        arguments = ("-c", str(config), "--port", "0", "--host", "127.0.0.1", "--log-level", "debug")
        with running("run", *arguments, env=env) as service:
            wait_for(lambda: len({s.attributes["url.full"] for s in collector.spans if not s.parent_id}) == 7, "traces")
            collector.wait_for_push()
            collector.answer = says(500)
            service.wait_for_sample("url_monitor_otlp_export_failures_total", 2)
            pages = [service.get(path)[1] for path in ("/metrics", "/", "/-/healthy")]
            openmetrics = get(f"{service.url}/metrics", headers={"Accept": "application/openmetrics-text"})[1]
            arguments = [Path(f"/proc/{pid}/cmdline").read_text() for pid in service.processes()]
            service.end(signal.SIGTERM)
            log = service.log
        sent = b"".join(request.message.SerializeToString() for request in collector.requests)
        for shown in (*pages, openmetrics, *arguments, log, sent.decode("latin-1")):
            assert CANARY not in shown
        assert all(f"{CANARY}-otlp" in request.headers["x-key"] for request in collector.requests)
        received = b"".join((*good.requests, *moving.requests)).decode()
        for name in ("query", "header", "bearer", "moved"):
            assert f"{CANARY}-{name}" in received
