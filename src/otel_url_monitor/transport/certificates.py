"""The certificates a server showed, as libcurl lists them (`CURLINFO_CERTINFO`), turned into facts."""

import hashlib
import ssl
from collections.abc import Iterable
from functools import lru_cache

from otel_url_monitor.model import Certificate

_MAX_TEXT = 1024
"""Characters kept of a name: a certificate may carry 10,000 of them, and it is the target's to choose."""

_MAX_CHAIN = 16


def parse_chain(listing: Iterable[Iterable[tuple[bytes, bytes]]]) -> tuple[Certificate, ...]:
    """The chain in the order shown, leaf first; certificates that cannot be read are left out."""
    parsed = (_parse(*_fields(fields)) for fields in list(listing)[:_MAX_CHAIN])
    return tuple(certificate for certificate in parsed if certificate is not None)


def _fields(fields: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
    by_name = dict(fields)
    wanted = (b"Subject", b"Issuer", b"Serial Number", b"Start date", b"Expire date", b"Cert")
    return (*(by_name.get(name, b"") for name in wanted), by_name.get(b"X509v3 Subject Alternative Name", b""))


# Most probes meet the certificates of the probe before: parsing them anew would cost 60 us a probe.
@lru_cache(maxsize=1024)
def _parse(
    subject: bytes, issuer: bytes, serial: bytes, start: bytes, expire: bytes, pem: bytes, names: bytes
) -> Certificate | None:
    try:
        return Certificate(
            subject=_text(subject),
            issuer=_text(issuer),
            serial=_text(serial),
            not_before=float(ssl.cert_time_to_seconds(start.decode("ascii"))),
            not_after=float(ssl.cert_time_to_seconds(expire.decode("ascii"))),
            sha256=hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))).hexdigest(),
            names=_text(names),
        )
    except ValueError:
        return None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")[:_MAX_TEXT]
