"""One exchange: its phases on libcurl's clock, and the library contract that it hangs on."""

import time
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from requests.adapters import BaseAdapter

from otel_url_monitor.model import Hop, Limits, Phases, ProbeResult, Target, Tls
from otel_url_monitor.prober import Prober
from otel_url_monitor.transport import Budget, CurlAdapter, ProbeSession, TransportError
from servers import OK, Peer, Server, answers, refusing_port, tls, unanswering_port

ROUNDING = 6e-6
"""Five phases, each rounded to a microsecond."""


def slowly(seconds: float) -> Any:
    """A server that answers after exactly this time."""

    def handle(peer: Peer) -> None:
        peer.read()
        time.sleep(seconds)
        peer.send(OK)

    return handle


@pytest.fixture
def prober(ca_file: Path) -> Prober:
    """With the tests' own trust."""
    return Prober(ca_file, tls_facts=True)


def probe(prober: Prober, url: str, **more: Any) -> ProbeResult:
    """One probe of a URL."""
    return prober(Target(url=url, display_url=url, **more))


def happened(phases: Phases) -> list[str]:
    """The names of the phases that did."""
    return [
        name for name in ("resolve", "connect", "tls", "processing", "transfer") if getattr(phases, name) is not None
    ]


def total(phases: Phases) -> float:
    """Seconds of all phases."""
    return sum(getattr(phases, name) for name in happened(phases))


def test_phases_of_a_complete_exchange(prober: Prober, ca: trustme.CA) -> None:
    """The phases add up to the duration, and only those that happened are there."""
    with Server(answers(OK)) as plain, Server(answers(OK), tls(ca.issue_cert("localhost", "127.0.0.1"))) as secure:
        hops = {
            name: probe(prober, url).hops[0]
            for name, url in (
                ("http address", plain.url()),
                ("http name", plain.url(host="localhost")),
                ("https address", secure.url()),
                ("https name", secure.url(host="localhost")),
            )
        }
    assert {name: happened(hop.phases) for name, hop in hops.items()} == {
        "http address": ["connect", "processing", "transfer"],
        "http name": ["resolve", "connect", "processing", "transfer"],
        "https address": ["connect", "tls", "processing", "transfer"],
        "https name": ["resolve", "connect", "tls", "processing", "transfer"],
    }
    for hop in hops.values():
        assert hop.completed
        assert total(hop.phases) == pytest.approx(hop.duration, abs=ROUNDING)


def test_phases_of_a_followed_redirect(prober: Prober) -> None:
    """A redirect whose body is not waited for still has all its phases, and the hops add up to the probe."""
    moved = b"HTTP/1.1 302 Found\r\nLocation: /end\r\nContent-Length: 1000\r\n\r\nabc"
    with Server(answers(moved, OK)) as server:
        result = probe(prober, server.url())
    assert [hop.completed for hop in result.hops] == [True, True]
    assert [total(hop.phases) for hop in result.hops] == pytest.approx([h.duration for h in result.hops], abs=ROUNDING)
    assert result.duration == sum(hop.duration for hop in result.hops)


def test_phases_that_did_not_happen(prober: Prober, ca: trustme.CA) -> None:
    """What a failed exchange did not get to is absent, not zero."""
    waits = Server(lambda peer: (peer.read(), peer.wait())[1])
    stops = Server(
        lambda peer: (peer.read(), peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), peer.wait())[2]
    )
    untrusted = Server(answers(OK), tls(trustme.CA().issue_cert("127.0.0.1")))
    closes = Server(lambda peer: peer.read() and None)
    no_hello = Server(Peer.wait, lambda connection: (connection.recv(1), connection)[1])
    with refusing_port() as refused, unanswering_port() as silent, waits, stops, untrusted, no_hello, closes:
        urls = {
            "refused": f"http://127.0.0.1:{refused}/",
            "refused name": f"http://localhost:{refused}/",
            "connect timeout": f"http://127.0.0.1:{silent}/",
            "no response": waits.url(),
            "body timeout": stops.url(),
            "untrusted": untrusted.url(),
            "no handshake": no_hello.url(),
            "closes": closes.url(),
        }
        hops = {name: probe(prober, url, timeout=0.3).hops[0] for name, url in urls.items()}
    assert {name: happened(hop.phases) for name, hop in hops.items()} == {
        "refused": [],
        "refused name": ["resolve"],
        "connect timeout": [],
        "no response": ["connect"],
        "body timeout": ["connect", "processing", "transfer"],
        "untrusted": ["connect"],
        "no handshake": ["connect"],
        "closes": ["connect"],
    }
    assert {name: hop.address for name, hop in hops.items() if hop.address is None} == {
        "refused": None,
        "refused name": None,
        "connect timeout": None,
    }
    assert {hop.duration >= 0.29 for name, hop in hops.items() if name in ("no response", "body timeout")} == {True}


def test_processing_is_the_server_s_time(prober: Prober) -> None:
    """A server that thinks for 50 ms is measured as 50 ms; the best of five, as the machine may be busy."""
    with Server(slowly(0.05)) as server:
        hops = [probe(prober, server.url()).hops[0] for _ in range(5)]
    assert all((hop.phases.processing or 0) >= 0.05 for hop in hops)
    assert min(hop.duration for hop in hops) < 0.06


def test_what_is_recorded_of_a_response(prober: Prober, ca: trustme.CA) -> None:
    """Status, version, sizes, dates, address and TLS facts are the server's."""
    response = b"\r\n".join(
        (
            b"HTTP/1.0 203 Fine",
            b"Content-Length: 5",
            b"Last-Modified: Thu, 01 Jan 1970 00:01:40 GMT",
            b"",
            b"hello",
        )
    )
    with Server(answers(response), tls(ca.issue_cert("127.0.0.1"))) as server:
        hop = probe(prober, server.url("/a?token=secret&b=c")).hops[0]
    assert hop == Hop(
        url=f"https://127.0.0.1:{server.port}/a?token=REDACTED&b=c",
        status=203,
        completed=True,
        started_at=hop.started_at,
        duration=hop.duration,
        phases=hop.phases,
        sending=hop.sending,
        address="127.0.0.1",
        http_version=1.0,
        content_length=5,
        body_bytes=5,
        last_modified=100.0,
        is_tls=True,
        chain=hop.chain,
        verified=True,
        tls_version="TLSv1.3",
        tls_cipher="TLS_AES_256_GCM_SHA384",
    )
    assert 0 <= (hop.sending or -1.0) <= (hop.phases.processing or 0.0)
    assert 0 <= time.time() - hop.started_at < 10


def test_what_was_not_named_is_absent(ca_file: Path, ca: trustme.CA) -> None:
    """A server that names no length and no date has none, and TLS facts cost nothing when nobody asks for them."""
    with (
        Server(answers(b"HTTP/1.1 200 OK\r\n\r\nhello")) as plain,
        Server(answers(OK), tls(ca.issue_cert("127.0.0.1"))) as secure,
    ):
        prober = Prober(ca_file)
        hop, secured = probe(prober, plain.url()).hops[0], probe(prober, secure.url()).hops[0]
    assert (hop.content_length, hop.body_bytes, hop.last_modified, hop.is_tls, hop.chain) == (-1, 5, None, False, ())
    assert (secured.tls_version, secured.tls_cipher) == (None, None)


class Recorder(BaseAdapter):
    """Keeps the keyword arguments it was called with."""

    def send(self, request: requests.PreparedRequest, **given: Any) -> requests.Response:  # type: ignore[override]
        self.given = given
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, request.url or ""
        return response


def test_session_passes_what_it_does_not_know() -> None:
    """Requests hands unknown keyword arguments to the adapter: budget and TLS rules travel that way."""
    recorder = Recorder()
    request = requests.PreparedRequest()
    request.prepare(method="GET", url="http://site.example/")
    marks = {"budget": object(), "tls": object(), "follows": object()}
    ProbeSession(recorder).send(request, allow_redirects=False, stream=True, proxies={}, **marks)
    assert {name: recorder.given.get(name) for name in marks} == marks
    assert recorder.given["proxies"] == {}


def test_a_session_adds_nothing() -> None:
    """No header, proxy, credential or redirect of requests' own gets into a probe."""
    session = ProbeSession(Recorder())
    assert (dict(session.headers), session.trust_env, session.proxies, session.auth) == ({}, False, {}, None)
    assert set(session.adapters) == {"http://", "https://"}


def test_a_closed_adapter_opens_again(ca_file: Path) -> None:
    """Closing frees the handles and breaks nothing."""
    adapter = CurlAdapter(ca_file)
    request = requests.PreparedRequest()
    with Server(answers(OK)) as server:
        request.prepare(method="GET", url=server.url())
        for _ in range(2):
            budget = Budget.starting_at(time.perf_counter(), 5.0, Limits())
            response = adapter.send(request, budget=budget, tls=Tls(), follows=True)
            assert (response.status_code, response.reason, response.content) == (200, "OK", b"")
            adapter.close()


def test_an_exhausted_budget_ends_at_once(ca_file: Path) -> None:
    """A hop that starts after the deadline fails as a timeout, without waiting."""
    request = requests.PreparedRequest()
    with Server(lambda peer: peer.wait()) as server:
        request.prepare(method="GET", url=server.url())
        budget = Budget.starting_at(time.perf_counter() - 9, 5.0, Limits())
        with pytest.raises(TransportError) as caught:
            CurlAdapter(ca_file).send(request, budget=budget, tls=Tls(), follows=True)
    assert caught.value.hop.duration < 0.25
    assert str(caught.value) in ("connect_timeout", "response_timeout")
