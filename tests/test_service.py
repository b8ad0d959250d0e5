"""The whole service as a process: what it measures, how it ends, and what it survives."""

import contextlib
import fcntl
import itertools
import json
import os
import random
import re
import signal
import socket
import struct
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from otel_url_monitor.model import Target
from otel_url_monitor.scheduler import phase
from otel_url_monitor.service import CannotListenError, _listen
from processes import (
    COMMAND,
    assert_calm,
    catches,
    free_port,
    hostile,
    is_alive,
    redirect_in_circles,
    reset,
    run_command,
    running,
    running_command,
    send_endless_body,
    send_endless_headers,
    send_garbage,
    silent_port,
    site,
    stay_silent,
    wait_for,
    write_config,
)
from servers import OK, Server, answers, certificate_pem, key_pem, own_chain

CANARY = "canary-5a1e"
SIGNALS = (signal.SIGTERM, signal.SIGINT)
BEHAVIOURS = (stay_silent, send_garbage, send_endless_body, send_endless_headers, reset, redirect_in_circles)

DRIVER = """
import json, logging, sys
from otel_url_monitor.logs import LogWriter
from otel_url_monitor.config import Config
from otel_url_monitor.model import MetricsLevel, Target
from otel_url_monitor.service import Options, run

urls, level, options, executable = json.loads(sys.argv[1])
sys.executable = executable or sys.executable
targets = tuple(Target(url=url, display_url=url, interval=0.2, timeout=0.2) for url in urls)
config = Config(targets=targets, host="127.0.0.1", port=0, metrics_level=MetricsLevel(level))
options = Options(config=config, **options)
LogWriter(logging.INFO).start()
run(options, lambda url: print(url + "/metrics", flush=True))
"""


@contextlib.contextmanager
def driven(*urls, level="standard", executable=None, silence_limit=1.0, **options):
    """The service without its command line, with a shorter patience or another interpreter for its workers."""
    settings = json.dumps([urls, level, {"silence_limit": silence_limit, **options}, executable])
    with running_command((sys.executable, "-c", DRIVER, settings)) as service:
        yield service


def rotating(folder, count):
    """A TLS handshake that shows another certificate each time."""
    key = ec.generate_private_key(ec.SECP256R1())
    wraps = [own_chain(folder, certificate_pem("127.0.0.1", key), key=key_pem(key)) for _ in range(count)]
    turns = itertools.cycle(wraps)

    def wrap(connection):
        return next(turns)(connection)

    return wrap


def test_a_certificate_that_changes_all_the_time(tmp_path):
    """What a target showed once and never again is forgotten, with the target still there and its counters unbroken."""
    name = "probe_ssl_last_chain_info"
    with Server(answers(OK), rotating(tmp_path, 500)) as server:
        urls = [server.url(f"/{number}") for number in range(10)]
        with driven(*urls, level="full", tidy_seconds=1.0) as service:
            shown, kept, counted = set(), [], []
            while len(shown) < 300:
                samples = service.samples()
                shown |= {labels["fingerprint_sha256"] for labels in samples.labels(name)}
                kept.append(1_000_000 - samples.get("url_monitor_attribute_sets_headroom"))
                counted.append(samples.total("url_monitor_probe_results_total"))
                time.sleep(0.25)
            assert max(kept[4:]) < 200
            assert len(samples.labels(name)) <= len(urls)
            assert counted == sorted(counted)
            service.end(signal.SIGTERM)
            service.assert_ended_well()


def soon(base, count, interval=15.0):
    """URLs whose places on the grid of that interval come in four to seven seconds."""
    urls = (f"{base}/?n={number}" for number in range(10_000))
    now = time.time()
    chosen = (url for url in urls if 4 < phase(Target(url=url, display_url=url, interval=interval), now) < 7)
    return sorted(itertools.islice(chosen, count))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A service that probes two good targets, others that fail or are hostile, and one that changes."""
    with contextlib.ExitStack() as stack:
        good, changing = stack.enter_context(site()), stack.enter_context(site())
        bad = [stack.enter_context(hostile(behaviour)).url for behaviour in BEHAVIOURS]
        goods = [f"{good.url}/a", f"{good.url}/b?token={CANARY}"]
        closed = f"http://127.0.0.1:{free_port()}/?api_key={CANARY}"
        urls = [*goods, f"{good.url}/500", f"{good.url}/redirect", f"{changing.url}/", closed, *bad]
        config = write_config(tmp_path_factory.mktemp("world"), urls, interval="500ms", timeout="400ms")
        service = stack.enter_context(running("run", "-c", str(config), "--port", "0", "--host", "127.0.0.1"))
        service.good, service.changing, service.bad, service.urls = good, changing, bad, urls
        yield service


@pytest.fixture(scope="module", autouse=True)
def patient(tmp_path_factory):
    """Services whose probes take seconds to come: one of two bare URLs, and three of 50 probes that hang.

    They are started first of all, so that nothing waits for them.
    """
    with silent_port() as silent, site() as target, contextlib.ExitStack() as stack:
        urls = soon(silent, 50, interval=60.0)
        config = write_config(tmp_path_factory.mktemp("hanging"), urls, interval="60s", timeout="60s")
        bare = stack.enter_context(running("run", *soon(target.url, 2), "--port", "0"))
        hanging = [
            stack.enter_context(running("run", "-c", str(config), "--port", "0", "--workers", workers))
            for workers in ("1", "1", "2")
        ]
        yield bare, hanging


@pytest.fixture(scope="module")
def bare(patient):
    """A service that was given two URLs and nothing else."""
    return patient[0]


@pytest.fixture(scope="module")
def hanging(patient):
    """Three services, each with 50 probes in flight that hang; the last one has two workers."""
    for service in patient[1]:
        # A machine so slow that a place on the grid was missed has the next one a minute later.
        service.wait_for_sample("url_monitor_probes_in_flight", 50, seconds=90)
    return patient[1]


# What is measured


def test_a_file_decides_labels_and_interval(tmp_path):
    """`run -c FILE` probes at the file's interval and puts its labels on every series of a target."""
    config = tmp_path / "monitor.yaml"
    with site() as target:
        config.write_text(
            "interval: 200ms\ntimeout: 150ms\nlabels: {env: test}\nmetrics: {level: full}\n"
            "server: {host: 127.0.0.1, port: 0}\n"
            f"targets:\n  - url: {target.url}/x\n    labels: {{name: api}}\n"
        )
        identity = {"url": f"{target.url}/x", "name": "api", "env": "test"}
        with running("run", "-c", str(config)) as service:
            samples = service.wait_for_sample(
                "url_monitor_probe_results_total", 3, result="success", **identity, seconds=10
            )
            assert samples.labels("sample_external_url_up") == [identity]
            assert samples.get("probe_timeout_seconds", **identity) == 0.15
            assert samples.labels("url_monitor_probe_latency_seconds_count") == [identity]


def test_the_seed_metrics_say_who_is_up(world):
    """`sample_external_url_up` is 1 for a final 200 and 0 for all else; `response_ms` is there when an answer was."""
    for url in world.urls:
        shown = url.replace(CANARY, "REDACTED")
        samples = world.wait_for_sample("url_monitor_probe_last_run_timestamp_seconds", 1, url=shown)
    base = world.good.url
    up = {labels["url"]: samples.get("sample_external_url_up", **labels) for labels in samples.labels("probe_success")}
    assert up == {
        f"{base}/a": 1,
        f"{base}/b?token=REDACTED": 1,
        f"{base}/500": 0,
        f"{base}/redirect": 1,
        f"{world.changing.url}/": 1,
        world.urls[5].replace(CANARY, "REDACTED"): 0,
        **dict.fromkeys(world.bad, 0),
    }
    answered = {labels["url"] for labels in samples.labels("sample_external_url_response_ms")}
    assert {f"{base}/a", f"{base}/500", f"{base}/redirect"} <= answered
    assert world.urls[5].replace(CANARY, "REDACTED") not in answered


def test_a_secret_in_a_url_is_shown_nowhere(world):
    """The value of `?token=` and its kin is neither in the log, nor on /metrics, nor on the page."""
    for shown in (world.log, world.get("/metrics")[1], world.get("/")[1]):
        assert CANARY not in shown
    assert world.good.hits[f"/b?token={CANARY}"] > 0
    assert "api_key=REDACTED" in world.log


def test_the_log_tells_changes_and_nothing_else(world):
    """On a pipe each line is JSON; a target that falls over and gets up again is two lines, however often probed."""
    url = f"{world.changing.url}/"
    world.wait_for_sample("url_monitor_probe_results_total", 2, url=url, result="success")

    def changes():
        return [json.loads(line) for line in world.log.splitlines() if url in line]

    before = changes()
    world.changing.status = 503
    wait_for(lambda: len(changes()) > len(before), "the failure is logged")
    failures = world.samples().get("url_monitor_probe_results_total", url=url, result="failure") or 0
    world.wait_for_sample("url_monitor_probe_results_total", failures + 2, url=url, result="failure")
    world.changing.status = 200
    wait_for(lambda: len(changes()) > len(before) + 1, "the recovery is logged")
    new = changes()[len(before) :]
    assert [(line["level"], line["outcome"], line.get("reason"), line["url"]) for line in new] == [
        ("warning", "failure", "unexpected_status", url),
        ("info", "success", None, url),
    ]
    assert new[0]["message"] == f"{url} is now failure: unexpected_status (status 503, expected 200-299)"
    logged = [json.loads(line) for line in world.log.splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in logged))
    assert len(logged) <= 2 + len(world.urls) + 2  # up; one line for each that was down at first; these two


def test_two_urls_on_the_command_line_are_all_it_takes(bare):
    """`run URL URL` serves both seed metrics with exactly the label `url`, at the first place on the grid."""
    urls = [labels["url"] for labels in bare.samples().labels("url_monitor_probe_results_total")][::3]
    assert len(set(urls)) == 2
    for url in urls:
        samples = bare.wait_for_sample("sample_external_url_response_ms", 0, url=url, seconds=10)
    assert [samples.get("sample_external_url_up", url=url) for url in urls] == [1, 1]
    assert samples.labels("sample_external_url_up") == [{"url": url} for url in urls]
    assert samples.labels("sample_external_url_response_ms") == [{"url": url} for url in urls]
    bare.end(signal.SIGTERM)
    bare.assert_ended_well()


# HTTP


@pytest.mark.parametrize(
    ("path", "answer"), [("/-/healthy", "healthy\n"), ("/-/ready", "ready\n")], ids=["healthy", "ready"]
)
def test_health_is_one_word(world, path, answer):
    """Liveness and readiness answer 200 with one word while targets are down."""
    assert world.get(path) == (200, answer)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/-/healthy", 405),
        ("POST", "/metrics", 405),
        ("DELETE", "/", 405),
        ("HEAD", "/metrics", 200),
        ("GET", "/nothing", 404),
        ("GET", "/metrics/", 307),
    ],
)
def test_other_methods_and_paths_are_refused(world, method, path, status):
    """Only what is documented is answered."""
    parts = urlsplit(world.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert connection.makefile("rb").readline().split()[1] == str(status).encode()


def test_a_scrape_never_waits_for_a_probe(hanging):
    """With every one of 50 probes hanging, /metrics answers within half a second."""
    for _ in range(5):
        begin = time.monotonic()
        assert hanging[0].samples().get("url_monitor_targets") == 50
        assert time.monotonic() - begin < 0.5


# Stopping


def end_together(services, *numbers):
    """End each service with its own signals, all at the same time; each is to end well."""
    with ThreadPoolExecutor(len(services)) as pool:
        list(pool.map(lambda pair: pair[0].end(*pair[1]), zip(services, numbers, strict=True)))
    for service in services:
        service.assert_ended_well()


@contextlib.contextmanager
def two(*arguments):
    """Two services of the same configuration, one for each signal."""
    with running("run", *arguments, "--port", "0") as first, running("run", *arguments, "--port", "0") as second:
        yield first, second


def test_a_stop_at_any_moment_of_the_start_is_a_stop(tmp_path):
    """From the moment signals are caught, through loading and the first probes, a Ctrl-C or SIGTERM is code 0."""
    config = write_config(tmp_path, [f"http://127.0.0.1:{free_port()}/{n}" for n in range(20)], interval="1s")
    moments = [*(n / 10 for n in range(8)), *(random.uniform(0, 1.5) for _ in range(6))]

    def stop_after(number):
        with running("run", "-c", str(config), "--port", "0", "--workers", "2", process_group=0) as service:
            wait_for(lambda: catches(service.pid, signal.SIGTERM), "signals are caught")
            assert time.monotonic() - service.started < 2
            time.sleep(moments[number])  # the moment is the point, not a state
            os.killpg(service.pid, SIGNALS[number % 2])
            service.process.wait(timeout=5)
            service.assert_ended_well()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(stop_after, range(len(moments))))


def test_a_ctrl_c_while_workers_start_is_a_stop():
    """A Ctrl-C at the moment a worker is being loaded is the main process's business alone: no traceback of another."""
    with running("run", "http://127.0.0.1:1/", "--port", "0", process_group=0) as service:
        wait_for(lambda: any(catches(pid, signal.SIGINT) for pid in service.workers()), "a worker loads its modules")
        os.killpg(service.pid, signal.SIGINT)
        service.process.wait(timeout=5)
        service.assert_ended_well()


def test_an_idle_service_stops_at_once():
    """Both signals end a service that has nothing to do, with code 0 and well under 5 s."""
    with two("http://127.0.0.1:1/") as services:
        for service in services:
            service.wait_for_workers()
            assert service.get("/-/ready")[0] == 200
        end_together(services, [signal.SIGTERM], [signal.SIGINT])


def test_hanging_probes_do_not_hold_up_a_stop(hanging):
    """Both signals end a service with 50 probes in flight that would take a minute."""
    end_together(hanging[:2], [signal.SIGTERM], [signal.SIGINT])


def test_slow_readers_do_not_hold_up_a_stop(tmp_path):
    """Ten scrapers that never read their 4 MB are cut off; both signals end the service with code 0."""
    urls = [f"http://127.0.0.1:1/{'x' * 400}{n}" for n in range(2000)]
    config = write_config(tmp_path, urls, interval="60s")
    with two("-c", str(config)) as services, contextlib.ExitStack() as stack:
        readers = [stack.enter_context(slow_reader(service.url)) for service in services for _ in range(10)]
        for reader in readers:
            wait_for(lambda reader=reader: b"\r\n\r\n" in reader.recv(4096, socket.MSG_PEEK), "the answer has begun")
        end_together(services, [signal.SIGTERM], [signal.SIGINT])
        for reader in readers:
            assert was_cut_off(reader)


@contextlib.contextmanager
def slow_reader(url):
    """A connection that asks for /metrics and reads nothing."""
    parts = urlsplit(url)
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.settimeout(20)
        reader.connect((parts.hostname, parts.port))
        reader.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        yield reader


def was_cut_off(reader):
    """Whether less than the announced length arrives."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while part := reader.recv(1 << 20):
            received += part
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    return len(body) < int(re.search(rb"content-length: (\d+)", head)[1])


def test_a_stopped_worker_does_not_hold_up_a_stop():
    """A worker that does not react is killed; both signals end the service with code 0 and leave nothing."""
    with two("http://127.0.0.1:1/") as services:
        for service in services:
            service.wait_for_sample("url_monitor_worker_resident_memory_bytes", 1, worker="0")
            os.kill(service.wait_for_workers()[0], signal.SIGSTOP)
        end_together(services, [signal.SIGTERM], [signal.SIGINT])


def test_signals_that_come_twice_change_nothing():
    """A second signal, of either kind and at once or in the midst of stopping, still ends in code 0."""
    with two("http://127.0.0.1:1/") as services:
        for service in services:
            service.wait_for_workers()
            assert service.get("/-/ready")[0] == 200
        end_together(services, [signal.SIGTERM, signal.SIGTERM], [signal.SIGINT, signal.SIGTERM, signal.SIGINT])


def test_signals_without_end_change_nothing():
    """Signals that hail down until the very end of the process do not turn its exit code."""
    with running("run", "http://127.0.0.1:1/", "--port", "0") as service:
        assert service.get("/-/ready")[0] == 200
        while service.process.poll() is None:
            service.process.send_signal(random.choice(SIGNALS))
        service.assert_ended_well()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_to_everyone_is_a_stop(number):
    """SIGTERM or SIGINT to the process group, as a terminal sends it, and to each worker, as systemd does."""
    with running("run", "http://127.0.0.1:1/", "--port", "0", "--workers", "2", process_group=0) as service:
        service.wait_for_sample("url_monitor_worker_resident_memory_bytes", 1, worker="1")
        for worker in service.wait_for_workers(2):
            os.kill(worker, number)
        os.killpg(service.pid, number)
        service.process.wait(timeout=5)
        service.assert_ended_well()


def test_workers_do_not_outlive_a_killed_service(hanging):
    """SIGKILL of the main process, which cannot tell anyone, ends its workers within 2 s, probes in flight or not."""
    workers = hanging[2].wait_for_workers(2)
    hanging[2].process.kill()
    wait_for(lambda: not any(map(is_alive, workers)), "the workers end", seconds=2)


def test_a_log_that_nobody_reads_holds_up_nothing(tmp_path):
    """With stderr full and debug logging, probing goes on and a stop is still a stop."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with site() as target, os.fdopen(reading, "rb") as end:
        config = write_config(tmp_path, [f"{target.url}/{n}" for n in range(50)], interval="200ms")
        with running("run", "-c", str(config), "--port", "0", "--log-level", "debug", stderr=writing) as service:
            os.close(writing)
            wait_for(lambda: waiting_bytes(end) > 3000, "the pipe is full")
            hits = target.hits.total()
            wait_for(lambda: target.hits.total() > hits + 500, "probing goes on")
            assert service.end(signal.SIGTERM) < 3
            service.assert_ended_well()


def waiting_bytes(pipe):
    """How many bytes are in a pipe."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"))[0]


# Not starting


def test_a_port_in_use_is_said_in_one_line():
    """The port's being taken is exit code 2 and one line, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_command("run", "http://127.0.0.1:1/", "--host", "127.0.0.1", "--port", str(port))
    message = f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", message)


def test_a_port_is_ours_from_the_first_moment_on():
    """A port is found taken even when who has it is not serving yet."""
    with _listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(CannotListenError, match=f"^cannot listen on 127.0.0.1:{port}: Address already in use$"):
            _listen("127.0.0.1", port)


def test_of_two_services_that_start_at_once_one_gets_the_port():
    """Two services started at the same moment on one port: one serves, the other says why it does not."""
    port = str(free_port())
    arguments = ("run", "http://127.0.0.1:1/", "--host", "127.0.0.1", "--port", port)
    with running(*arguments) as first, running(*arguments) as second:
        loser, winner = wait_for(
            lambda: (
                [each for each in (first, second) if each.process.poll() is not None]
                and sorted((first, second), key=lambda each: each.process.poll() is None)
            ),
            "one of them gives up",
        )
        assert loser.process.returncode == 2
        assert loser.log == f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"
        assert winner.get("/-/ready") == (200, "ready\n")


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("nowhere.invalid", "error: cannot listen on nowhere.invalid:0: Name or service not known"),
        ("192.0.2.1", "error: cannot listen on 192.0.2.1:0: Cannot assign requested address"),
        ("2001:db8::1", "error: cannot listen on [2001:db8::1]:0: Cannot assign requested address"),
        ("a" * 64, f"error: cannot listen on {'a' * 64}:0: not a host name"),
    ],
    ids=["unknown", "foreign", "foreign-ipv6", "not-a-name"],
)
def test_a_host_that_is_not_ours_is_said_in_one_line(host, message):
    """An address that cannot be listened on is exit code 2 and one line."""
    ended = run_command("run", "http://127.0.0.1:1/", "--host", host, "--port", "0")
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", message + "\n")


# Workers


def counters(samples):
    """Every counter of probes."""
    return {key: value for key, value in samples.by_series.items() if key[0].startswith("url_monitor_probe_results")}


def test_a_killed_worker_is_replaced_and_nothing_counted_is_lost():
    """After SIGKILL of the worker a new one probes on the same grid; no counter falls or runs ahead of the truth."""
    with site() as target, driven(*(f"{target.url}/{n}" for n in range(10)), silence_limit=15.0) as service:
        success = {"url": f"{target.url}/0", "result": "success"}
        before = service.wait_for_sample("url_monitor_probe_results_total", 8, **success)
        os.kill(service.workers()[0], signal.SIGKILL)
        killed_at = time.time()
        known = counters(before)
        while (samples := service.samples()).get("url_monitor_worker_restarts_total") == 0 or (
            samples.get("url_monitor_probe_results_total", **success)
            < before.get("url_monitor_probe_results_total", **success) + 8
        ):
            fallen = [key for key, value in counters(samples).items() if value < known[key]]
            assert fallen == []
            known = counters(samples)
            assert time.time() < killed_at + 20
        assert samples.get("url_monitor_worker_restarts_total") == 1
        hits = target.hits.total()

        def counted():
            return service.samples().total("url_monitor_probe_results_total")

        # Ten in flight at most, and what fifty probes a second left in a batch.
        wait_for(lambda: counted() >= hits - 30, "all but the last moments of the killed worker are counted")
        assert counted() <= target.hits.total()
        places = [(moment - killed_at) % 0.2 for moment in target.seen_at["/0"]]
        away = [min((place - places[0]) % 0.2, (places[0] - place) % 0.2) for place in places]
        assert sorted(away)[len(away) // 2] < 0.02
        assert re.search(r"worker 0 ended with code -9; restarting in 0\.1 s", service.log)


def test_a_worker_that_cannot_live_makes_us_unhealthy(tmp_path):
    """Workers that die at once are tried again and again, and /-/healthy names the worker; /metrics still answers."""
    with driven("http://127.0.0.1:1/", executable="/bin/false") as service:
        _, words = wait_for(lambda: (found := service.get("/-/healthy"))[0] == 503 and found, "a complaint")
        assert re.fullmatch(r"worker 0 has not answered for \d+ s\n", words)
        assert service.wait_for_sample("url_monitor_worker_restarts_total", 4)
        waits = wait_for(lambda: re.findall(r"restarting in (\S+) s", service.log)[3:] and service.log, "the log")
        assert re.findall(r"restarting in (\S+) s", waits)[:4] == ["0.1", "0.5", "1.0", "2.0"]
        service.end(signal.SIGTERM)
        service.assert_ended_well()


def test_a_stopped_worker_makes_us_unhealthy_until_it_goes_on():
    """While a worker is stopped /metrics answers at once and /-/healthy is 503 after the limit; then 200 again."""
    with driven("http://127.0.0.1:1/", "http://127.0.0.1:1/2") as service:
        service.wait_for_sample("url_monitor_worker_resident_memory_bytes", 1, worker="0")
        (worker,) = service.workers()
        os.kill(worker, signal.SIGSTOP)
        stopped_at = time.monotonic()
        wait_for(lambda: service.get("/-/healthy")[0] == 503, "a complaint")
        assert 0.5 < time.monotonic() - stopped_at < 10
        begin = time.monotonic()
        assert service.samples().get("url_monitor_targets") == 2
        assert time.monotonic() - begin < 0.5
        os.kill(worker, signal.SIGCONT)
        wait_for(lambda: service.get("/-/healthy") == (200, "healthy\n"), "all is well again")
        assert service.workers() == [worker]
        assert service.samples().get("url_monitor_worker_restarts_total") == 0


def test_three_workers_share_the_targets(tmp_path):
    """With `--workers 3` each target is probed once per interval, by one of them."""
    with site() as target:
        config = write_config(tmp_path, [f"{target.url}/{n}" for n in range(30)], interval="500ms")
        with running("run", "-c", str(config), "--port", "0", "--workers", "3") as service:
            service.wait_for_workers(3)
            wait_for(lambda: len(target.hits) == 30 and min(target.hits.values()) >= 3, "all are probed")
            most, least = max(target.hits.values()), min(target.hits.values())
            assert most - least <= 1
            samples = service.samples()
            assert {labels["worker"] for labels in samples.labels("url_monitor_worker_cpu_seconds_total")} == set("012")
            service.end(signal.SIGTERM)
            service.assert_ended_well()


# Weight


def test_the_main_process_does_not_load_what_only_probing_needs():
    """Neither libcurl nor requests is loaded beside the metrics: that is the workers' memory."""
    command = (sys.executable, "-X", "importtime", *COMMAND[1:])
    with running_command((*command, "run", "http://127.0.0.1:1/", "--port", "0")) as service:
        assert service.get("/metrics")[0] == 200
        loaded = set(re.findall(r"import time:.*\| +(\S+)", service.log))
        assert {"otel_url_monitor.service", "uvicorn.server"} <= loaded
        assert not {"pycurl", "requests", "urllib3", "otel_url_monitor.transport"} & loaded


# After all that


def test_hostile_targets_harm_nobody_else(world):
    """Silent, garbling, endless and resetting targets fail for 5 s; their neighbours stay up and we stay healthy."""
    good = f"{world.good.url}/a"
    world.wait_for_sample("url_monitor_probe_results_total", 10, url=good, result="success")
    for url in world.bad:
        samples = world.wait_for_sample("url_monitor_probe_results_total", 10, url=url, result="failure")
        assert samples.total("url_monitor_probe_results_total", url=url) == samples.total(
            "url_monitor_probe_results_total", url=url, result="failure"
        )
    assert samples.total("url_monitor_probe_results_total", url=good, result="failure") == 0
    assert samples.total("url_monitor_probe_results_total", result="unknown") == 0
    assert samples.total("url_monitor_worker_restarts_total") == 0
    assert samples.get("probe_success", url=good) == 1
    assert world.get("/-/healthy") == (200, "healthy\n")
    assert_calm(world.log)
