"""What holds of the image's recipe before anything is built."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from otel_url_monitor.config import from_urls
from processes import require_tool

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# One instruction each: comments taken out, continued lines joined.
INSTRUCTIONS = [
    line.split(maxsplit=1)
    for line in re.sub(r"\s*\\\n\s*", " ", re.sub(r"(?m)^#.*\n", "", DOCKERFILE)).splitlines()
    if line
]
ALLOWED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]


def arguments(name):
    """What follows every instruction of that name, in order."""
    return [rest for found, rest in INSTRUCTIONS if found == name]


def test_every_stage_stands_on_one_base_that_can_be_replaced():
    """The base is one build argument, held by the tag of a minor version, and by digest where somebody gives one."""
    stages = [from_.split() for from_ in arguments("FROM")]
    named = {stage[2] for stage in stages if len(stage) == 3}
    assert {stage[0] for stage in stages} - named == {"${PYTHON_IMAGE}"}
    default = arguments("ARG")[0].removeprefix("PYTHON_IMAGE=")
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", default)
    assert INSTRUCTIONS[0][0] == "ARG"


def test_the_stand_in_is_of_the_same_debian_as_the_default_base():
    """What the tests build on is the release that the default base is made of."""
    (expression,) = re.findall(r"sed -nE 's/(.+)/\\1/p'", (ROOT / "image" / "base.sh").read_text())
    suite = re.search(expression, DOCKERFILE, re.MULTILINE)
    assert suite
    assert suite[1] in arguments("ARG")[0]


def test_nothing_is_installed_that_is_not_locked():
    """Every package from an index is held by hash and prebuilt, and our own wheel is taken from no index."""
    installs = [part for run in arguments("RUN") for part in run.split(" && ") if re.search(r"pip .*install", part)]
    assert len(installs) == 3
    for install in installs:
        assert {"--require-hashes", "--only-binary"} <= set(install.split()) or "--no-index" in install
    locked = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-build.txt").read_text()
    entries = re.split(r"\n(?=\S)", locked.strip())
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)
    assert not arguments("ADD")


def test_it_runs_as_a_numbered_user():
    """The last user is a number and not root, so that a kubelet can verify `runAsNonRoot`."""
    (user,) = arguments("USER")
    assert re.fullmatch(r"([1-9]\d{3,}):\1", user)
    assert DOCKERFILE.index("\nUSER ") > DOCKERFILE.rindex("\nRUN ")


def test_what_starts_is_started_without_a_shell():
    """Signals reach the service, and the health check needs no shell."""
    (entry,), (command,), (health,) = arguments("ENTRYPOINT"), arguments("CMD"), arguments("HEALTHCHECK")
    assert json.loads(entry)[-1] == "otel-url-monitor"
    assert json.loads(command) == ["run"]
    check = json.loads(health.partition(" CMD ")[2])
    port = from_urls(()).port
    assert check[0] == "curl"
    assert check[-1] == f"http://localhost:{port}/-/healthy"
    assert arguments("EXPOSE") == [str(port)]
    # curl gives up before the runtime does: its message is what `inspect` shows.
    assert float(check[check.index("--max-time") + 1]) < float(re.search(r"--timeout=(\d+)s", health)[1])


def test_the_context_is_a_list_of_what_may_enter():
    """Nothing enters the build but what is named, all that is named exists, and all of it is used."""
    assert ALLOWED[0] == "*"
    allowed = {line.removeprefix("!") for line in ALLOWED[1:] if line.startswith("!")}
    assert [line for line in ALLOWED[1:] if not line.startswith("!")] == ["**/__pycache__"]
    assert all((ROOT / path).exists() for path in allowed)
    copied = [copy.split()[:-1] for copy in arguments("COPY") if not copy.startswith("--from=")]
    assert {path for paths in copied for path in paths} == allowed


def test_hadolint_finds_nothing():
    """The linter has no complaint, and each rule it is told to ignore has its reason above."""
    subprocess.run([require_tool("hadolint"), "--failure-threshold", "style", ROOT / "Dockerfile"], check=True)
    ignored = re.findall(r"(?m)^(.*)\n# hadolint ignore=", DOCKERFILE)
    assert ignored
    assert all(reason.startswith("# ") for reason in ignored)


@pytest.fixture(scope="module")
def bill():
    """The bill of materials of the environment that the tests run in."""
    if not list(metadata.distributions(name="otel-url-monitor")):
        pytest.skip("otel-url-monitor is on the path without being installed")
    environ = {**os.environ, "SOURCE_DATE_EPOCH": "86400"}
    command = [sys.executable, ROOT / "image" / "sbom.py"]
    written = [subprocess.run(command, env=environ, capture_output=True, check=True).stdout for _ in range(2)]
    assert written[0] == written[1], "the same twice gives the same"
    return json.loads(written[0])


def test_the_bill_lists_every_package(bill):
    """Each installed distribution is there once with its version; ours is what the bill is about."""
    subject = bill["metadata"]["component"]
    listed = [each["purl"] for each in [subject, *bill["components"]] if "pkg:pypi/" in each.get("purl", "")]
    installed = {f"pkg:pypi/{canonicalize_name(each.name)}@{each.version}" for each in metadata.distributions()}
    assert sorted(listed) == sorted(installed)
    assert subject["name"] == "otel-url-monitor"
    assert bill["metadata"]["timestamp"] == "1970-01-02T00:00:00Z"


def test_the_bill_lists_what_scanners_of_python_packages_miss(bill):
    """The libcurl and OpenSSL in pycurl's wheel can be looked up by CPE, and pycurl depends on them."""
    found = {each["name"]: each for each in bill["components"]}
    version = found["libcurl"]["version"]
    assert found["libcurl"]["cpe"] == f"cpe:2.3:a:haxx:libcurl:{version}:*:*:*:*:*:*:*"
    assert found["OpenSSL"]["cpe"].startswith("cpe:2.3:a:openssl:openssl:3.")
    assert "zlib" not in found
    (needs,) = [each["dependsOn"] for each in bill["dependencies"] if each["ref"] == found["pycurl"]["purl"]]
    assert {f"pkg:generic/libcurl@{version}", f"pkg:generic/openssl@{found['OpenSSL']['version']}"} <= set(needs)


def test_the_bill_holds_together(bill):
    """References are unique, and every edge leads to something listed."""
    refs = [each["bom-ref"] for each in (bill["metadata"]["component"], *bill["components"])]
    assert len(refs) == len(set(refs))
    edges = {on for each in bill["dependencies"] for on in (each["ref"], *each["dependsOn"])}
    assert edges <= set(refs)
