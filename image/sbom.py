# ruff: noqa: INP001 - a script of the image's build, not a package
"""Write a CycloneDX bill of materials of the image it runs in: Python packages, what wheels bundle, Debian packages.

The time in it is `SOURCE_DATE_EPOCH`, so that building the same again gives the same.
"""

import hashlib
import json
import os
import platform
import re
import sys
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import pycurl
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_US = "otel-url-monitor"
_DPKG_STATUS = Path("/var/lib/dpkg/status")
_OS_RELEASE = Path("/etc/os-release")

# pycurl's wheel carries these; scanners know them by CPE only. Its zlib is not among them: that one is the system's.
_PRODUCTS = {
    "libcurl": "haxx:libcurl",
    "OpenSSL": "openssl:openssl",
    "brotli": "google:brotli",
    "libssh2": "libssh2:libssh2",
    "nghttp2": "nghttp2:nghttp2",
    "ngtcp2": "ngtcp2:ngtcp2",
    "nghttp3": "ngtcp2:nghttp3",
    "mit-krb5": "mit:kerberos_5",
}
_NOT_CARRIED = ("PycURL", "zlib")

_Component = dict[str, Any]


def document(environ: Mapping[str, str]) -> dict[str, Any]:
    """The whole document."""
    found = {canonicalize_name(each.name): each for each in metadata.distributions()}
    ours = found.pop(_US)
    packages = (ours, *found.values())
    linked = tuple(_linked(pycurl.version))
    files = {_purl(each): tuple(_libraries(each)) for each in packages}
    components = [*map(_distribution, found.values()), *linked, *chain(*files.values()), _interpreter(), *_debian()]
    depends_on = {
        _purl(each): _requirements(each, found) + [file["bom-ref"] for file in files[_purl(each)]] for each in packages
    }
    depends_on[_purl(found["pycurl"])] += [each["bom-ref"] for each in linked]
    created = datetime.fromtimestamp(int(environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    content = {
        "metadata": {
            "timestamp": created.isoformat().replace("+00:00", "Z"),
            "lifecycles": [{"phase": "build"}],
            "component": _distribution(ours) | {"type": "application"},
        },
        "components": sorted(components, key=lambda each: each["bom-ref"]),
        "dependencies": [{"ref": ref, "dependsOn": sorted(on)} for ref, on in sorted(depends_on.items())],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1}
    return head | content


def _distribution(found: metadata.Distribution) -> _Component:
    component = {"type": "library", "bom-ref": _purl(found), "name": found.name, "version": found.version}
    if summary := found.metadata.get("Summary"):
        component["description"] = summary
    return component | _licenses(found) | {"purl": _purl(found)}


def _licenses(found: metadata.Distribution) -> dict[str, Any]:
    if expression := found.metadata.get("License-Expression"):
        return {"licenses": [{"expression": expression}]}
    classified = [
        each.rpartition(" :: ")[2]
        for each in found.metadata.get_all("Classifier", ())
        if each.startswith("License :: ")
    ]
    # Older packages put the whole text into the field, whose first line names it.
    named = classified or [each.splitlines()[0] for each in (found.metadata.get("License"),) if each]
    return {"licenses": [{"license": {"name": name}} for name in named]} if named else {}


def _purl(found: metadata.Distribution) -> str:
    return f"pkg:pypi/{canonicalize_name(found.name)}@{found.version}"


def _requirements(of: metadata.Distribution, found: Mapping[str, metadata.Distribution]) -> list[str]:
    required = (Requirement(text) for text in of.requires or ())
    names = {canonicalize_name(each.name) for each in required if each.marker is None or each.marker.evaluate()}
    return [_purl(found[name]) for name in names if name in found]


def _libraries(of: metadata.Distribution) -> Iterator[_Component]:
    """The shared libraries that a wheel carries: some of them (libidn2, libunistring) do not say their version."""
    for each in of.files or ():
        if each.parent.name.endswith(".libs"):
            digest = hashlib.sha256(each.locate().read_bytes()).hexdigest()
            hashes = [{"alg": "SHA-256", "content": digest}]
            yield {"type": "file", "bom-ref": f"{_purl(of)}#{each}", "name": str(each), "hashes": hashes}


def _linked(version: str) -> Iterator[_Component]:
    for each in version.split():
        name, _, number = each.partition("/")
        if name not in _NOT_CARRIED:
            purl = f"pkg:generic/{name.lower()}@{number}"
            component = {"type": "library", "bom-ref": purl, "name": name, "version": number, "purl": purl}
            if product := _PRODUCTS.get(name):
                component["cpe"] = f"cpe:2.3:a:{product}:{number.lower()}:*:*:*:*:*:*:*"
            yield component


def _interpreter() -> _Component:
    number = platform.python_version()
    purl = f"pkg:generic/python@{number}"
    component = {"type": "platform", "bom-ref": purl, "name": "python", "version": number, "purl": purl}
    return component | {"cpe": f"cpe:2.3:a:python:python:{number}:*:*:*:*:*:*:*"}


def _debian() -> Iterator[_Component]:
    if not _DPKG_STATUS.exists():
        return
    system = dict(re.findall(r'^(\w+)="?([^"\n]*)', _OS_RELEASE.read_text(), re.MULTILINE))
    distro = f"{system['ID']}-{system['VERSION_ID']}"
    for paragraph in _DPKG_STATUS.read_text().split("\n\n"):
        field = dict(re.findall(r"^([\w-]+): (.*)", paragraph, re.MULTILINE))
        if field.get("Status") == "install ok installed":
            version = field["Version"].replace("+", "%2B").replace(":", "%3A")
            name = field["Package"].replace("+", "%2B")
            purl = f"pkg:deb/{system['ID']}/{name}@{version}?arch={field['Architecture']}&distro={distro}"
            yield {
                "type": "library",
                "bom-ref": purl,
                "name": field["Package"],
                "version": field["Version"],
                "purl": purl,
            }


if __name__ == "__main__":
    json.dump(document(os.environ), sys.stdout, indent=1)
    sys.stdout.write("\n")
