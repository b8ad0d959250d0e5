"""The certificates a server showed, as libcurl lists them (`CURLINFO_CERTINFO`), turned into facts."""

import hashlib
import ssl
from collections.abc import Iterable, Mapping

from otel_url_monitor.model import Certificate

_MAX_TEXT = 1024
"""Characters kept of a name: a certificate may carry 10,000 of them, and it is the target's to choose."""

_MAX_CHAIN = 16
_MAX_KNOWN = 1024


def parse_chain(listing: Iterable[Iterable[tuple[bytes, bytes]]]) -> tuple[Certificate, ...]:
    """The chain in the order shown, leaf first; certificates that cannot be read are left out."""
    found = (_certificate(dict(fields)) for fields in list(listing)[:_MAX_CHAIN])
    return tuple(certificate for certificate in found if certificate is not None)


# Most probes meet the certificates of the probe before: parsing them anew would cost 60 us a probe. The key is a
# digest, so that what a target sends is not kept.
_known: dict[bytes, Certificate | None] = {}


def _certificate(fields: Mapping[bytes, bytes]) -> Certificate | None:
    digest = hashlib.sha256(fields.get(b"Cert", b"")).digest()
    if digest not in _known:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known[digest] = _parse(fields)
    return _known[digest]


def _parse(fields: Mapping[bytes, bytes]) -> Certificate | None:
    try:
        return Certificate(
            subject=_text(fields.get(b"Subject", b"")),
            issuer=_text(fields.get(b"Issuer", b"")),
            serial=_text(fields.get(b"Serial Number", b"")),
            not_before=float(ssl.cert_time_to_seconds(fields[b"Start date"].decode("ascii"))),
            not_after=float(ssl.cert_time_to_seconds(fields[b"Expire date"].decode("ascii"))),
            sha256=hashlib.sha256(ssl.PEM_cert_to_DER_cert(fields[b"Cert"].decode("ascii"))).hexdigest(),
            names=_text(fields.get(b"X509v3 Subject Alternative Name", b"")),
        )
    except (KeyError, ValueError):
        return None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")[:_MAX_TEXT]
