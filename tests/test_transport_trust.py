"""Which roots are trusted when nobody says."""

from pathlib import Path

from otel_url_monitor.transport import default_ca_file


def test_the_environment_names_the_roots() -> None:
    """`SSL_CERT_FILE` is believed, whether the file exists or not: a probe reports one that is missing."""
    assert default_ca_file({"SSL_CERT_FILE": "/nowhere/roots.pem"}) == Path("/nowhere/roots.pem")


def test_there_are_always_roots() -> None:
    """Without the variable, or with an empty one, there is a file of roots on every machine."""
    for environ in ({}, {"SSL_CERT_FILE": ""}):
        assert default_ca_file(environ).read_bytes().count(b"BEGIN CERTIFICATE") > 50
