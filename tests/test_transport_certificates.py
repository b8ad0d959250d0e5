"""Certificates: facts about what was shown, and whose word is trusted."""

import hashlib
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from otel_url_monitor.model import Certificate, FailureReason, ProbeResult, Request, Target, Tls
from otel_url_monitor.prober import Prober
from otel_url_monitor.transport.certificates import parse_chain
from servers import OK, Server, answers, handshake, redirects, server_context, tls

PAST, PRESENT, FUTURE = (
    datetime(2020, 1, 1, tzinfo=UTC),
    datetime(2021, 1, 1, tzinfo=UTC),
    datetime(2044, 1, 1, tzinfo=UTC),
)


@pytest.fixture
def prober(ca_file: Path) -> Prober:
    """With the tests' own trust."""
    return Prober(ca_file)


@pytest.fixture
def other(tmp_path: Path) -> tuple[trustme.CA, Path]:
    """A CA that is not trusted by default, and its file."""
    other, path = trustme.CA(), tmp_path / "other.pem"
    other.cert_pem.write_to_path(str(path))
    return other, path


def probe(prober: Prober, url: str, **more: Any) -> ProbeResult:
    """One probe of a URL."""
    return prober(Target(url=url, display_url=url, **more))


def loaded(certificate: trustme.LeafCert) -> x509.Certificate:
    """A certificate as another library reads it."""
    return x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes())


def test_facts_of_a_certificate(prober: Prober, ca: trustme.CA) -> None:
    """What is recorded is what stands in the certificate."""
    leaf = ca.issue_cert("127.0.0.1", "site.example", common_name="site", not_before=PAST, not_after=FUTURE)
    with Server(answers(OK), tls(leaf)) as server:
        (found,) = probe(prober, server.url()).hops[0].chain
    truth = loaded(leaf)
    assert found == Certificate(
        subject=found.subject,
        issuer=found.issuer,
        serial=found.serial,
        not_before=PAST.timestamp(),
        not_after=FUTURE.timestamp(),
        sha256=truth.fingerprint(hashes.SHA256()).hex(),
        names="IP Address:127.0.0.1, DNS:site.example",
    )
    assert found.subject.endswith("CN = site")
    assert int(found.serial.replace(":", ""), 16) == truth.serial_number


@pytest.mark.parametrize("kind", ["expired", "untrusted", "wrong_host"])
def test_facts_survive_a_failed_verification(prober: Prober, ca: trustme.CA, kind: str) -> None:
    """The date of the certificate that just broke the site is known, and it is not called verified."""
    leaf = {
        "expired": lambda: ca.issue_cert("127.0.0.1", not_before=PAST, not_after=PRESENT),
        "untrusted": lambda: trustme.CA().issue_cert("127.0.0.1", not_before=PAST, not_after=PRESENT),
        "wrong_host": lambda: ca.issue_cert("other.example", not_before=PAST, not_after=PRESENT),
    }[kind]()
    with Server(answers(OK), tls(leaf)) as server:
        hop = probe(prober, server.url()).hops[0]
    assert [certificate.not_after for certificate in hop.chain] == [PRESENT.timestamp()]
    assert (hop.verified, hop.status, hop.completed) == (False, 0, False)


def test_without_verification_everything_is_shown(prober: Prober) -> None:
    """`verify: false` accepts an untrusted, expired certificate of another host, and calls it unverified."""
    leaf = trustme.CA().create_child_ca().issue_cert("other.example", not_before=PAST, not_after=PRESENT)
    with Server(answers(OK), tls(leaf)) as server:
        result = probe(prober, server.url(), tls=Tls(verify=False))
        refused = probe(prober, server.url())
    assert (result.failure, len(result.hops[0].chain), result.hops[0].verified) == (None, 2, False)
    assert refused.failure is not None


def test_ca_file_replaces_the_default(prober: Prober, ca: trustme.CA, other: tuple[trustme.CA, Path]) -> None:
    """A target's own roots are trusted for that target, and the default ones no longer are."""
    authority, path = other
    with (
        Server(answers(OK), tls(authority.issue_cert("127.0.0.1"))) as own,
        Server(answers(OK), tls(ca.issue_cert("127.0.0.1"))) as usual,
    ):
        found = [probe(prober, server.url(), tls=Tls(ca_file=path)).failure for server in (own, usual)]
    assert found == [None, FailureReason.TLS_UNTRUSTED]


def test_trust_does_not_leak(prober: Prober, ca: trustme.CA, other: tuple[trustme.CA, Path]) -> None:
    """Probes of one thread, in any order, each trust their own target's roots and no other's."""
    authority, path = other
    rules = {"default": Tls(), "other": Tls(ca_file=path), "none": Tls(verify=False)}
    right = {("default", "usual"), ("other", "own"), ("none", "usual"), ("none", "own")}
    with (
        Server(answers(OK), tls(authority.issue_cert("127.0.0.1"))) as own,
        Server(answers(OK), tls(ca.issue_cert("127.0.0.1"))) as usual,
    ):
        for order in ("default other none", "none other default", "other none default", "other default none"):
            for rule in order.split():
                for name, server in (("own", own), ("usual", usual)):
                    succeeded = probe(prober, server.url(), tls=rules[rule]).failure is None
                    assert succeeded == ((rule, name) in right), (order, rule, name)


@pytest.mark.parametrize("name", ["schlüssel", "鍵", "with space"])
def test_a_ca_file_of_any_name(prober: Prober, ca: trustme.CA, tmp_path: Path, name: str) -> None:
    """The path of a CA file may hold any characters that a path may hold."""
    path = tmp_path / f"{name}.pem"
    ca.cert_pem.write_to_path(str(path))
    with Server(answers(OK), tls(ca.issue_cert("127.0.0.1"))) as server:
        assert probe(prober, server.url(), tls=Tls(ca_file=path)).failure is None


def test_many_ca_files(prober: Prober, tmp_path: Path) -> None:
    """More CA files than handles are kept work as well as one, and do not pile up descriptors."""
    authorities = [trustme.CA() for _ in range(12)]
    for number, authority in enumerate(authorities):
        authority.cert_pem.write_to_path(str(tmp_path / f"{number}.pem"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        for number, authority in enumerate(authorities):
            with Server(answers(OK), tls(authority.issue_cert("127.0.0.1"))) as server:
                mine = probe(prober, server.url(), tls=Tls(ca_file=tmp_path / f"{number}.pem"))
                next_one = probe(prober, server.url(), tls=Tls(ca_file=tmp_path / f"{(number + 1) % 12}.pem"))
            assert (mine.failure, next_one.failure) == (None, FailureReason.TLS_UNTRUSTED)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 8 * 2  # two for each handle kept


@pytest.mark.parametrize("how", ["written", "replaced"])
def test_a_changed_ca_file_counts_at_once(
    prober: Prober, ca: trustme.CA, other: tuple[trustme.CA, Path], how: str
) -> None:
    """New roots in the file are trusted by the next probe, and removed ones are not, without a restart."""
    authority, path = other
    with (
        Server(answers(OK), tls(ca.issue_cert("127.0.0.1"))) as new,
        Server(answers(OK), tls(authority.issue_cert("127.0.0.1"))) as old,
    ):
        before = [probe(prober, server.url(), tls=Tls(ca_file=path)).failure for server in (new, old)]
        if how == "written":
            path.write_bytes(ca.cert_pem.bytes())
        else:
            fresh = path.with_suffix(".new")
            fresh.write_bytes(ca.cert_pem.bytes())
            fresh.replace(path)
        after = [probe(prober, server.url(), tls=Tls(ca_file=path)).failure for server in (new, old)]
    assert before == [FailureReason.TLS_UNTRUSTED, None]
    assert after == [None, FailureReason.TLS_UNTRUSTED]


class NamedServer(Server):
    """A TLS server that keeps the names it was asked for."""

    def __init__(self, certificate: trustme.LeafCert, handler: Any) -> None:
        context, self.names = server_context(), []  # type: ssl.SSLContext, list[str | None]
        certificate.configure_cert(context)
        context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        super().__init__(handler, handshake(context))


def test_server_name(prober: Prober, ca: trustme.CA) -> None:
    """`server_name` is what is sent as SNI and verified; address and Host header stay the URL's."""
    with NamedServer(ca.issue_cert("site.example"), answers(OK)) as server:
        result = probe(prober, server.url("/a"), tls=Tls(server_name="site.example"))
        wrong = probe(prober, server.url("/a"), tls=Tls(server_name="other.example"))
        custom = probe(
            prober,
            server.url("/b"),
            tls=Tls(server_name="site.example"),
            request=Request(headers=(("Host", "virtual.example"),)),
        )
    assert (result.failure, result.hops[0].verified, result.hops[0].address) == (None, True, "127.0.0.1")
    assert result.hops[0].phases.resolve is None
    assert wrong.failure is FailureReason.TLS_HOSTNAME_MISMATCH
    assert custom.failure is None
    assert server.names == ["site.example", "other.example", "site.example"]
    hosts = [
        [line for line in request.split(b"\r\n") if line.lower().startswith(b"host:")] for request in server.requests
    ]
    assert hosts == [[f"Host: 127.0.0.1:{server.port}".encode()], [b"Host: virtual.example"]]


def test_server_name_ends_with_its_origin(prober: Prober, ca: trustme.CA) -> None:
    """After a redirect the same origin is asked by the same name, and another origin by its own."""
    with (
        NamedServer(ca.issue_cert("localhost"), answers(OK)) as second,
        NamedServer(ca.issue_cert("site.example"), redirects_in_turn("/next", second.url(host="localhost"))) as first,
    ):
        result = probe(prober, first.url(), tls=Tls(server_name="site.example"))
    assert (result.failure, len(result.hops)) == (None, 3)
    assert (first.names, second.names) == (["site.example", "site.example"], ["localhost"])


def redirects_in_turn(*locations: str) -> Any:
    """Redirects the first request here, the second there."""
    left = list(locations)
    return redirects(lambda: left.pop(0))


def test_a_strange_listing_is_no_error() -> None:
    """Certificates that cannot be read are left out, long texts are cut, and a chain has an end."""
    pem = trustme.CA().cert_pem.bytes()
    good = [
        (b"Subject", b"CN=\xff" + b"a" * 9000),
        (b"Start date", b"Jan  1 00:00:00 2020 GMT"),
        (b"Expire date", b"Jan  1 00:00:00 2044 GMT"),
        (b"Cert", pem),
    ]
    bad = [(b"Start date", b"soon"), (b"Cert", b"-")]
    chain = parse_chain([bad, [], *[good] * 100])
    assert len(chain) == 14
    assert chain[0].sha256 == hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()
    assert len(chain[0].subject) == 1024
