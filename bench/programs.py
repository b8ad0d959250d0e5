"""The programs of the comparison: nginx as the target, blackbox_exporter as the peer, and our service."""

import gzip
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from bench.processes import BenchError, cpu_seconds, free_port, is_listening, process_tree, running, wait_until

DELAY_MS = 50.0
"""What nginx waits at `/d50` before it answers."""

_PROMETHEUS_HEADERS = {
    # What Prometheus 2.x sends.
    "Accept": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
}

_NGINX = "nginx"
_ECHO_MODULE = Path("/usr/lib/nginx/modules/ngx_http_echo_module.so")
_BLACKBOX = "prometheus-blackbox-exporter"
_SYSTEM_ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")
_SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"


def require_programs() -> None:
    """Check that everything the comparison needs is installed.

    Raises:
        BenchError: names the Debian packages to install.
    """
    present = {
        "nginx": shutil.which(_NGINX, path=_SEARCH_PATH) is not None,
        "libnginx-mod-http-echo": _ECHO_MODULE.is_file(),
        "prometheus-blackbox-exporter": shutil.which(_BLACKBOX, path=_SEARCH_PATH) is not None,
        "ca-certificates": _SYSTEM_ROOTS.is_file(),
    }
    if missing := [package for package, is_present in present.items() if not is_present]:
        raise BenchError(f"not installed: {', '.join(missing)}. Try: apt-get install {' '.join(missing)}")


def versions() -> dict[str, str]:
    """The versions of the programs that are not ours."""
    return {"nginx": _version(_NGINX, "-v"), "blackbox_exporter": _version(_BLACKBOX, "--version")}


def _version(program: str, option: str) -> str:
    command = [shutil.which(program, path=_SEARCH_PATH) or program, option]
    answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    return answer.stdout.splitlines()[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The nginx that everybody probes.

    Attributes:
        folder: where all programs of the run keep their files.
        collector_port: answers every POST as an OTLP collector that took everything.
        trust: PEM file with the machine's whole trust store and the CA of this site.
    """

    folder: Path
    port: int
    tls_port: int
    collector_port: int
    trust: Path

    def urls(self, count: int, path: str = "/") -> list[str]:
        """Different URLs of the same plain page; literal addresses, so that nobody's resolver is measured."""
        return [f"http://127.0.0.1:{self.port}{path}?target={number}" for number in range(count)]

    def tls_urls(self, count: int) -> list[str]:
        """Different URLs of the same page over TLS."""
        return [f"https://127.0.0.1:{self.tls_port}/?target={number}" for number in range(count)]


@contextmanager
def nginx(folder: Path) -> Iterator[Site]:
    """A Debian nginx on three loopback ports with files of its own."""
    ports = free_port(), free_port(), free_port()
    site = Site(folder=folder, port=ports[0], tls_port=ports[1], collector_port=ports[2], trust=folder / "trust.pem")
    _issue_certificate(site)
    configuration = folder / "nginx.conf"
    configuration.write_text(_nginx_configuration(site))
    log = folder / "nginx.log"
    program = shutil.which(_NGINX, path=_SEARCH_PATH) or _NGINX
    with running([program, "-p", str(folder), "-c", str(configuration)], log) as process:
        wait_until(lambda: is_listening(site.port) and is_listening(site.tls_port), process, log)
        yield site


def _issue_certificate(site: Site) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    leaf.private_key_and_cert_chain_pem.write_to_path(site.folder / "leaf.pem")
    site.trust.write_bytes(_SYSTEM_ROOTS.read_bytes() + authority.cert_pem.bytes())


def _nginx_configuration(site: Site) -> str:
    # Without tickets and session cache every handshake is a full one, for whoever would have resumed a session.
    return f"""
daemon off;
worker_processes 1;
pid {site.folder}/nginx.pid;
error_log stderr;
load_module {_ECHO_MODULE};
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {site.folder}/nginx-body;
    proxy_temp_path {site.folder}/nginx-proxy;
    fastcgi_temp_path {site.folder}/nginx-fastcgi;
    uwsgi_temp_path {site.folder}/nginx-uwsgi;
    scgi_temp_path {site.folder}/nginx-scgi;
    server {{
        listen 127.0.0.1:{site.port} backlog=4096;
        listen 127.0.0.1:{site.tls_port} ssl backlog=4096;
        ssl_certificate {site.folder}/leaf.pem;
        ssl_certificate_key {site.folder}/leaf.pem;
        ssl_session_tickets off;
        ssl_session_cache off;
        location / {{ return 200 "ok\\n"; }}
        location /d50 {{ echo_sleep {DELAY_MS / 1000}; echo ok; }}
    }}
    server {{
        # An empty message is OTLP's word for success. The body is read and thrown away.
        listen 127.0.0.1:{site.collector_port};
        client_max_body_size 0;
        location / {{ return 200 ""; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back from one request.

    Attributes:
        body: as it was on the wire.
        duration: seconds from before the connection to the last byte.
    """

    status: int
    body: bytes
    is_gzip: bool
    duration: float

    @property
    def text(self) -> str:
        """The body, unpacked."""
        return (gzip.decompress(self.body) if self.is_gzip else self.body).decode()


def get(port: int, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """GET from a loopback port over a new connection."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    duration = time.perf_counter() - started
    is_gzip = response.headers.get("Content-Encoding") == "gzip"
    return Answer(status=response.status, body=body, is_gzip=is_gzip, duration=duration)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A running program that serves HTTP on a loopback port."""

    pid: int
    port: int

    def tree_cpu_seconds(self) -> float:
        """CPU time of the program with all its child processes."""
        return cpu_seconds(process_tree(self.pid))

    def scrape(self) -> Answer:
        """One scrape with the headers of Prometheus.

        Raises:
            BenchError: the answer is not an exposition.
        """
        answer = get(self.port, "/metrics", _PROMETHEUS_HEADERS)
        if answer.status != 200 or not answer.body:
            raise BenchError(f"/metrics answered {answer.status}: {answer.text[:200]}")
        return answer


@contextmanager
def blackbox(site: Site) -> Iterator[Program]:
    """Debian's blackbox_exporter with one module, `http_2xx`; idle unless it is asked."""
    configuration = site.folder / "blackbox.json"
    module = {"prober": "http", "timeout": "5s", "http": {"preferred_ip_protocol": "ip4"}}
    configuration.write_text(json.dumps({"modules": {"http_2xx": module}}))
    port, log = free_port(), site.folder / "blackbox.log"
    program = shutil.which(_BLACKBOX, path=_SEARCH_PATH) or _BLACKBOX
    command = [program, f"--config.file={configuration}", f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with running(command, log, _environment(site)) as process:
        wait_until(lambda: is_listening(port), process, log)
        yield Program(pid=process.pid, port=port)


def traces_to(port: int) -> dict[str, str]:
    """The variables that send traces, and nothing else, to a collector on this loopback port."""
    return {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{port}/v1/traces"}


@contextmanager
def service(
    site: Site, urls: Sequence[str], interval: float, variables: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """Our service, past the first probe of every target; every trace is kept when the variables ask for any."""
    port = free_port()
    configuration, log = site.folder / f"monitor-{port}.yaml", site.folder / f"service-{port}.log"
    settings = {"interval": f"{interval:g}s", "targets": list(urls), "tracing": {"success_ratio": 1.0}}
    configuration.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "otel_url_monitor", "run", "-c", str(configuration)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with running(command, log, _environment(site) | dict(variables or {})) as process:
        wait_until(lambda: _is_ready(port), process, log)
        # First probes are spread over one interval; the second more is for imports and caches to settle.
        time.sleep(interval + 1)
        yield Program(pid=process.pid, port=port)


def _is_ready(port: int) -> bool:
    try:
        return get(port, "/-/ready").status == 200
    except OSError:
        return False


def _environment(site: Site) -> dict[str, str]:
    """Ours and the peer's: the same trust store, and no telemetry settings of the surrounding shell."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return kept | {"SSL_CERT_FILE": str(site.trust)}


def samples(exposition: str, name: str) -> list[Sample]:
    """The samples of one name in an exposition, in either format: they write a sample alike."""
    # Only the wanted lines are parsed: the whole exposition would take the parser a tenth of a second.
    lines = [line for line in exposition.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    families = text_string_to_metric_families("\n".join(lines) + "\n")
    return [sample for family in families for sample in family.samples]
