"""The demo: seven built-in targets that do what their names say."""

import contextlib
import http.client
import json
import signal
import socket
import ssl
import time
from urllib.parse import urlsplit

import pytest

from otel_url_monitor.demo import demo_targets, flapping_status
from processes import free_port, resident_bytes, running, wait_for

NAMES = ("200", "503", "slow", "redirect", "flapping", "expired-certificate", "unknown-host")


@pytest.fixture(scope="module")
def demos():
    """Two demos at once, each of whose targets has been probed; the second one finds the usual ports taken."""
    with running("demo", "--port", "0") as first:
        assert first.url
        with running("demo", "--port", str(free_port())) as second:
            for service in (first, second):
                service.exposed = exposed_when_probed(service)
            yield first, second


@pytest.fixture
def demo(demos):
    """A demo that was there first."""
    return demos[0]


def exposed_when_probed(service):
    """The samples, as soon as every target was probed."""

    def probed():
        samples = service.samples()
        return len(samples.labels("url_monitor_probe_last_run_timestamp_seconds")) == len(NAMES) and samples

    return wait_for(probed, "every target is probed")


def name_of(labels):
    """What a target is there to show: the path of its URL, or that its host is unknown."""
    return urlsplit(labels["url"]).path.removeprefix("/") or "unknown-host"


def value(samples, metric, name, **labels):
    """The value of a metric of the target of that name."""
    (url,) = (found["url"] for found in samples.labels("probe_success") if name_of(found) == name)
    return samples.get(metric, url=url, **labels)


def test_all_seven_targets_are_there(demo):
    """Every target was probed within its first interval, and carries its URL alone."""
    shown = demo.exposed.labels("sample_external_url_up")
    assert {name_of(labels) for labels in shown} == set(NAMES)
    assert {tuple(labels) for labels in shown} == {("url",)}


def test_each_target_does_what_its_name_says(demo):
    """Good, failing, slow, redirected, expired and unknown: the metrics tell them apart."""
    samples = demo.exposed
    success = {name: value(samples, "probe_success", name) for name in NAMES if name != "flapping"}
    assert success == {"200": 1, "503": 0, "slow": 1, "redirect": 1, "expired-certificate": 0, "unknown-host": 0}
    status = {name: value(samples, "probe_http_status_code", name) for name in NAMES if name != "flapping"}
    assert status == {"200": 200, "503": 503, "slow": 200, "redirect": 200, "expired-certificate": 0, "unknown-host": 0}
    assert value(samples, "sample_external_url_response_ms", "slow") > 900
    assert value(samples, "sample_external_url_response_ms", "unknown-host") is None
    assert value(samples, "probe_http_redirects", "redirect") == 1
    assert value(samples, "probe_http_redirects", "200") == 0
    assert value(samples, "url_monitor_probe_failure_info", "503", reason="unexpected_status") == 1
    assert value(samples, "url_monitor_probe_failure_info", "expired-certificate", reason="tls_expired") == 1
    assert value(samples, "probe_ssl_earliest_cert_expiry", "expired-certificate") < time.time()
    classes = {labels["class"]: name_of(labels) for labels in samples.labels("url_monitor_probe_failures_total")}
    assert classes | {"content": ""} == {"dns": "unknown-host", "tls": "expired-certificate", "content": ""}


def test_the_flapping_target_answers_by_the_clock():
    """The flapping target is up and down by turns, 20 seconds each."""
    assert [flapping_status(now) for now in (0.0, 19.9, 20.0, 39.9, 40.0)] == [200, 200, 503, 503, 200]
    with demo_targets() as targets:
        (url,) = (target.url for target in targets if target.display_url.endswith("/flapping"))
        allowed = {flapping_status(time.time())}
        status = get_status(url)
        assert status in allowed | {flapping_status(time.time())}


def get_status(url):
    parts = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)) as connection:
        connection.request("GET", parts.path)
        return connection.getresponse().status


def test_the_demo_says_where_to_look(demo):
    """The first line has the address of page and metrics."""
    first = json.loads(demo.log.splitlines()[0])
    assert (first["level"], demo.url in first["message"].replace("localhost", "127.0.0.1")) == ("info", True)
    assert demo.get("/")[0] == 200


def test_the_demo_is_light(demo):
    """Main process and worker together stay under 120 MB."""
    assert sum(map(resident_bytes, demo.processes())) < 120e6


def test_the_demo_works_where_its_ports_are_taken(demos):
    """With 5014 and 5015 in use, two other ports serve the targets; nothing else changes."""
    samples = demos[1].exposed
    assert value(samples, "probe_success", "200") == 1
    assert value(samples, "url_monitor_probe_failure_info", "expired-certificate", reason="tls_expired") == 1
    ports = {urlsplit(labels["url"]).port for labels in samples.labels("probe_success")}
    assert len(ports) == 3  # none is given for the host that does not exist
    assert not {5014, 5015} & ports


def test_a_silent_client_does_not_hold_up_the_secure_target():
    """A client that connects and never begins its handshake leaves the others served."""
    with demo_targets() as targets:
        (url,) = (target.url for target in targets if target.url.startswith("https:"))
        address = ("127.0.0.1", urlsplit(url).port)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(address, timeout=5):
            connection = http.client.HTTPSConnection(*address, context=context, timeout=5)
            connection.request("GET", "/200")
            assert connection.getresponse().status == 200
            connection.close()


def test_the_demo_stops_like_any_service(demos):
    """Both signals end a demo with code 0, and its log was calm over its whole life."""
    for service, number in zip(demos, (signal.SIGTERM, signal.SIGINT), strict=True):
        service.end(number)
        service.assert_ended_well()
