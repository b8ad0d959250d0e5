"""Which certificates are trusted when a target names none of its own."""

from collections.abc import Mapping
from pathlib import Path

import certifi

_SYSTEM_STORES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Alpine, Arch
    Path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),  # RHEL, Fedora
    Path("/etc/ssl/ca-bundle.pem"),  # SUSE
    Path("/etc/ssl/cert.pem"),  # macOS, BSD
)


def default_ca_file(environ: Mapping[str, str]) -> Path:
    """The PEM file of trusted roots: `SSL_CERT_FILE` when set, else the system's store, else certifi's."""
    if configured := environ.get("SSL_CERT_FILE"):
        return Path(configured)
    return next((store for store in _SYSTEM_STORES if store.is_file()), Path(certifi.where()))
