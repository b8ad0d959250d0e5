"""The image as it is run in production: its own user, no capability, nothing to write to."""

import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from processes import Samples, assert_calm, require_tool, wait_for

ROOT = Path(__file__).parent.parent
CONFIG = "/etc/otel-url-monitor/monitor.yaml"
HARDENED = ("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges")
# Budgets: measured are 80 MB over the base, 92 MB resident, 1 s to start and 0.5 s to stop on an idle machine.
ADDED_BYTES = 95_000_000
TOTAL_BYTES = 230_000_000
RESIDENT_BYTES = 130_000_000
START_SECONDS = 10.0
STOP_SECONDS = 10.0

_logger = logging.getLogger(__name__)


def run(*command, check=True, **options):
    """A command to its end, with what it wrote."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **options)
    assert not check or done.returncode == 0, done.stderr
    return done


class Podman:
    """The container engine, told not to need systemd or a wide environment."""

    def __init__(self, program, image):
        self._command = (program, "--log-level=fatal", *(("--runtime=runc",) if shutil.which("runc") else ()))
        self.image = image

    def __call__(self, *arguments, check=True):
        return run(*self._command, *arguments, check=check)

    def inspect(self, what="image", name=None):
        """What is known of an image or a container."""
        (found,) = json.loads(self(what, "inspect", name or self.image).stdout)
        return found

    def run(self, *arguments, options: Sequence[str] = HARDENED, check=False):
        """The image with these arguments, to its end."""
        return self("run", "--rm", *_engine_options(), *options, self.image, *arguments, check=check)

    @contextlib.contextmanager
    def running(self, *arguments, options: Sequence[str] = HARDENED):
        """A container of the image with these arguments."""
        name = self("run", "--detach", *_engine_options(), *options, self.image, *arguments).stdout.strip()
        try:
            yield Container(self, name)
        finally:
            self("rm", "--force", "--time=0", name)


def _engine_options():
    # No network but loopback: what answers on port 5004 is in the container. The limits are below what podman would
    # set, which a container that is itself in a container may not.
    return ("--network=none", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")


class Container:
    """A container and everything that is asked of it from inside, as `docker exec` would."""

    def __init__(self, podman, name):
        self._podman = podman
        self.name = name

    def exec(self, *command, check=True):
        return self._podman("exec", self.name, *command, check=check)

    def curl(self, path):
        """The body of a path of the service, `None` while it does not answer with success."""
        done = self.exec("curl", "--silent", "--fail", f"localhost:5004{path}", check=False)
        return done.stdout if done.returncode == 0 else None

    def wait_until_ready(self):
        wait_for(lambda: self.curl("/-/ready") or self._must_live(), "the service is ready")

    def _must_live(self):
        assert self.state()["Running"], self.log
        return False

    def samples(self):
        return Samples(self.curl("/metrics"))

    def wait_for_total(self, name, at_least, seconds=20.0, **labels):
        """The samples, as soon as all series of that name with at least these labels sum up so far."""

        def grown():
            samples = self.samples()
            return samples if samples.total(name, **labels) >= at_least else None

        return wait_for(grown, f"{name} >= {at_least}", seconds)

    def processes(self):
        """What /proc/PID/status says of every process but those of `exec`, whose parent is outside."""
        text = self.exec("sh", "-c", "cat /proc/[0-9]*/status 2>/dev/null; true").stdout
        found = [dict(re.findall(r"^(\w+):[ \t]*(.*)$", part, re.MULTILINE)) for part in text.split("Name:")[1:]]
        return [each for each in found if each["PPid"] != "0" or each["Pid"] == "1"]

    def find(self, *expression):
        """Paths of the image, without what the kernel and the engine bring."""
        places = ("/proc", "/sys", "/dev")
        skipped = [word for place in places for word in ("-path", place, "-prune", "-o")]
        return self.exec("find", "/", *skipped, *expression, "-print", check=False).stdout.splitlines()

    def state(self):
        return self._podman.inspect("container", self.name)["State"]

    def signal(self, name):
        self._podman("kill", f"--signal={name}", self.name)

    def wait(self):
        """The exit code."""
        return int(self._podman("wait", self.name).stdout)

    @property
    def log(self):
        done = self._podman("logs", self.name)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def podman():
    """The engine and the image under test."""
    image = os.environ.get("OUM_IMAGE")
    if not image and os.environ.get("OUM_REQUIRE_TOOLS") == "1":
        pytest.fail("OUM_IMAGE names no image")
    if not image:
        pytest.skip("OUM_IMAGE names no image: `make image-test` builds one")
    return Podman(require_tool("podman"), image)


@pytest.fixture(scope="module")
def demo(podman):
    """The demo, ready, in a hardened container."""
    with podman.running("demo") as container:
        container.wait_until_ready()
        yield container


@pytest.fixture(scope="module")
def config(podman):
    return podman.inspect()["Config"]


@pytest.fixture
def mounted(tmp_path):
    """Writes a configuration, and the options that mount its folder."""

    def write(text):
        (tmp_path / "monitor.yaml").write_text(text)
        (tmp_path / "monitor.yaml").chmod(0o644)
        return (*HARDENED, f"--volume={tmp_path}:{Path(CONFIG).parent}:ro")

    tmp_path.chmod(0o755)
    return write


def test_curl_inside_sees_every_target(demo):
    """`docker exec NAME curl localhost:5004/metrics` shows all demo targets, TLS among them, on a read-only root."""

    def all_seven():
        samples = demo.samples()
        return samples if len(samples.labels("sample_external_url_up")) == 7 else None

    samples = wait_for(all_seven, "seven targets")
    assert samples.get("sample_external_url_up", url="http://127.0.0.1:5014/200") == 1
    assert samples.get("sample_external_url_up", url="http://127.0.0.1:5014/503") == 0
    reasons = {each["reason"] for each in samples.labels("url_monitor_probe_failure_info")}
    assert reasons >= {"unexpected_status", "tls_expired"}


def test_it_has_no_privilege(demo):
    """Every process is user and group 10001 without a capability, and could not get one."""
    processes = demo.processes()
    assert len(processes) == 3, "init, main and prober process"
    for each in processes:
        assert {*each["Uid"].split(), *each["Gid"].split()} == {"10001"}
        assert {each[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert each["NoNewPrivs"] == "1"


def test_it_needs_nothing_to_write_to(demo):
    """Not even /tmp could be written, and nobody complained."""
    for folder in ("/", "/tmp", "/run", "/var/tmp", "/opt/venv"):
        assert demo.exec("touch", f"{folder}/x", check=False).returncode != 0
    assert_calm(demo.log)
    assert '"level": "error"' not in demo.log


def test_its_user_owns_nothing(podman):
    """Also where the root filesystem is writable, no file of the image can be changed by the service."""
    with podman.running("demo", options=()) as container:
        container.wait_until_ready()
        assert container.find("-type", "f", "-writable") == []
        folders = container.find("-type", "d", "-writable")
        assert set(folders) <= {"/tmp", "/var/tmp", "/run/lock", "/run", "/var/lock"}


def test_it_is_healthy(podman, demo):
    """The image's own health check passes while the service answers and fails when it hangs."""
    image = podman.inspect()
    assert image.get("Healthcheck", image["Config"].get("Healthcheck"))["Test"][:2] == ["CMD", "curl"]
    assert podman("healthcheck", "run", demo.name, check=False).returncode == 0
    (main,) = [each["Pid"] for each in demo.processes() if each["PPid"] == "1"]
    demo.exec("sh", "-c", f"kill -STOP {main}")
    try:
        begin = time.monotonic()
        assert podman("healthcheck", "run", demo.name, check=False).returncode != 0
        assert time.monotonic() - begin < 10
    finally:
        demo.exec("sh", "-c", f"kill -CONT {main}")
    wait_for(lambda: podman("healthcheck", "run", demo.name, check=False).returncode == 0, "healthy again")


def test_its_memory_is_bounded(demo):
    """All processes of the demo together stay within the budget after they have probed."""
    demo.wait_for_total("url_monitor_probe_results_total", 20)
    resident = sum(int(each["VmRSS"].split()[0]) * 1024 for each in demo.processes())
    _logger.info("resident: %.1f MB", resident / 1e6)
    assert 20_000_000 < resident < RESIDENT_BYTES


def test_it_starts_soon(podman):
    """From the start of the container to readiness it takes seconds also where it must not write bytecode."""
    begin = time.monotonic()
    with podman.running("demo") as container:
        container.wait_until_ready()
        seconds = time.monotonic() - begin
        _logger.info("ready after %.2f s, the engine's own work included", seconds)
    assert seconds < START_SECONDS


def test_its_bytecode_is_compiled(demo):
    """What the service imports is there as bytecode that is taken whatever the layers' times say."""
    program = (
        "import importlib.util, os, sys, otel_url_monitor.service, otel_url_monitor.worker\n"
        "files = [getattr(m, '__file__', None) for m in sys.modules.values()]\n"
        "missing = [f for f in files if f and f.endswith('.py')"
        " and not os.path.exists(importlib.util.cache_from_source(f))]\n"
        "flags = {open(importlib.util.cache_from_source(f), 'rb').read(8)[4] for f in files"
        " if f and f.startswith('/opt/venv') and f.endswith('.py')}\n"
        "print(missing, flags)"
    )
    assert demo.exec("python", "-c", program).stdout.strip() == "[] {1}"


@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_a_signal_ends_it_well(podman, signal):
    """SIGTERM, as `docker stop` sends it, and SIGINT end a busy service with code 0 well within Docker's 10 seconds."""
    with podman.running("demo") as container:
        container.wait_until_ready()
        container.wait_for_total("url_monitor_probe_results_total", 3)
        begin = time.monotonic()
        container.signal(signal)
        code = container.wait()
        seconds = time.monotonic() - begin
        _logger.info("SIG%s ended it in %.2f s", signal, seconds)
        assert (code, seconds < STOP_SECONDS) == (0, True)
        assert_calm(container.log)


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2, 0.4])
def test_a_stop_is_never_lost(podman, delay):
    """A SIGTERM that comes while the interpreter starts ends the container too, with code 0."""
    with podman.running("demo") as container:
        time.sleep(delay)  # into the start, wherever it is by then
        begin = time.monotonic()
        container.signal("TERM")
        assert container.wait() == 0
        assert time.monotonic() - begin < STOP_SECONDS


def test_no_zombie_remains(podman, mounted):
    """After 1,000 probes, a prober process that was killed, health checks and a shell's orphans nothing is undead."""
    lines = [f"  - http://localhost:5004/-/ready?{number}" for number in range(25)]
    options = mounted("\n".join(["interval: 1s", "timeout: 900ms", "targets:", *lines]))
    with podman.running(options=options) as container:
        container.wait_until_ready()
        container.wait_for_total("url_monitor_probe_results_total", 100)
        (main,) = [each["Pid"] for each in container.processes() if each["PPid"] == "1"]
        (worker,) = [each["Pid"] for each in container.processes() if each["PPid"] == main]
        container.exec("sh", "-c", f"kill -KILL {worker}")
        for _ in range(5):
            assert podman("healthcheck", "run", container.name, check=False).returncode in (0, 1)
            container.exec("sh", "-c", "(sleep 0.1 & sleep 0.2 &)")
        samples = container.wait_for_total("url_monitor_probe_results_total", 1000, seconds=90, result="success")
        assert samples.total("url_monitor_worker_restarts_total") == 1
        states = wait_for(
            lambda: len(found := [each["State"] for each in container.processes()]) == 3 and found, "init and our two"
        )
        assert not [state for state in states if state.startswith("Z")]


def test_a_mounted_file_is_the_default(podman, mounted):
    """Without arguments the service reads the file at the documented place; SIGHUP reaches it through init."""
    with podman.running(options=mounted("targets: ['http://localhost:5004/-/ready?one']\n")) as container:
        container.wait_until_ready()
        one = wait_for(lambda: container.samples().labels("sample_external_url_up"), "a result")
        assert one == [{"url": "http://localhost:5004/-/ready?one"}]
        mounted("targets: ['http://localhost:5004/-/ready?two']\n")
        container.signal("HUP")
        wait_for(
            lambda: (
                container.samples().labels("sample_external_url_up") == [{"url": "http://localhost:5004/-/ready?two"}]
            ),
            "the other file",
        )


def test_urls_can_be_given(podman):
    """`docker run IMAGE run URL...` needs no file."""
    with podman.running("run", "http://localhost:5004/-/ready") as container:
        container.wait_until_ready()
        wait_for(
            lambda: container.samples().get("sample_external_url_up", url="http://localhost:5004/-/ready") == 1,
            "it is up",
        )


def test_without_a_file_it_says_which(podman):
    """With neither a file nor URLs the container ends with code 2 and one line that names the file."""
    done = podman.run()
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"{CONFIG}: cannot read: No such file or directory"]


def test_it_is_labelled(podman, config):
    """The annotations of the OCI image specification say what it is, of what commit and on what base."""
    labels = {
        key.removeprefix("org.opencontainers.image."): value
        for key, value in config["Labels"].items()
        if key.startswith("org.opencontainers.image.")
    }
    version = podman.run("--version").stdout.split()[-1]
    assert labels.pop("version") == version
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", labels.pop("revision"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels.pop("created"))
    assert re.search(r":\d|:[a-z]", labels.pop("base.name"))
    assert labels.pop("source")
    assert labels.pop("description")
    assert labels == {"title": "otel-url-monitor", "licenses": "Apache-2.0"}


def test_nothing_of_the_build_is_in_it(demo, config):
    """No sources, tests, history, secrets, pip of ours or package lists; no variable but the three."""
    assert demo.find("-name", ".git", "-o", "-name", "Dockerfile", "-o", "-name", "*.whl") in (
        [],
        _whls_of_debian(demo),
    )
    assert demo.find("-path", "/build", "-o", "-path", "/run/secrets/*", "-o", "-name", "test_image.py") == []
    assert demo.find("-path", "/opt/venv/*/site-packages/pip", "-o", "-path", "/var/lib/apt/lists/*") == []
    packages = {each["name"] for each in _bill(demo)["components"] if each["bom-ref"].startswith("pkg:pypi/")}
    assert not packages & {"hatchling", "pytest", "pip", "mypy"}
    ours = {each.partition("=")[0] for each in config["Env"]}
    assert {"PATH", "PYTHONDONTWRITEBYTECODE", "OTEL_URL_MONITOR_CONFIG"} <= ours
    assert not [name for name in ours if re.search("PIP|PROXY|CERT|TOKEN", name.upper())]


def _whls_of_debian(demo):
    """What `python3 -m venv` of Debian unpacks pip from; the official image has none."""
    return demo.find("-path", "/usr/share/python-wheels/*.whl")


def test_the_system_trusts_the_usual_authorities(demo):
    """The store that probes use by default is Debian's, with its hundred and more roots."""
    program = (
        "from otel_url_monitor.transport import default_ca_file\n"
        "path = default_ca_file({})\n"
        "print(path, path.read_text().count('BEGIN CERTIFICATE'))"
    )
    path, count = demo.exec("python", "-c", program).stdout.split()
    assert path == "/etc/ssl/certs/ca-certificates.crt"
    assert int(count) > 100


def _bill(container):
    return json.loads(container.exec("cat", "/usr/share/sbom/otel-url-monitor.cdx.json").stdout)


def test_the_bill_lists_every_requirement(demo):
    """Each locked requirement is in the bill of materials with its version, and no other package from PyPI."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    locked = [Requirement(line.rstrip(" \\")) for line in lines if line and not line.startswith((" ", "#"))]
    wanted = {
        f"pkg:pypi/{canonicalize_name(each.name)}@{next(iter(each.specifier)).version}"
        for each in locked
        if each.marker is None or each.marker.evaluate()
    }
    bill = _bill(demo)
    purls = {each.get("purl", "") for each in bill["components"]}
    assert {purl for purl in purls if purl.startswith("pkg:pypi/")} == wanted
    debian = {purl.split("@")[0] for purl in purls if purl.startswith("pkg:deb/")}
    assert {f"pkg:deb/debian/{name}" for name in ("curl", "tini", "ca-certificates", "libc6")} <= debian


def test_the_bill_is_valid(demo, tmp_path):
    """It keeps to the schema of CycloneDX 1.6."""
    (tmp_path / "bill.json").write_text(json.dumps(_bill(demo)))
    program = (
        "import sys, pathlib\n"
        "from cyclonedx.schema import SchemaVersion\n"
        "from cyclonedx.validation.json import JsonStrictValidator\n"
        "print(JsonStrictValidator(SchemaVersion.V1_6).validate_str(pathlib.Path(sys.argv[1]).read_text()))"
    )
    tools = run(ROOT / "image" / "tools.sh").stdout.strip()
    assert run(f"{tools}/python", "-c", program, tmp_path / "bill.json").stdout == "None\n"


def test_its_size_is_bounded(podman, config):
    """It adds to its base no more than the budget."""
    size = podman.inspect()["Size"]
    _logger.info("size: %.1f MB", size / 1e6)
    assert size < TOTAL_BYTES
    base = config["Labels"]["org.opencontainers.image.base.name"]
    if podman("image", "exists", base, check=False).returncode == 0:
        added = size - podman.inspect(name=base)["Size"]
        _logger.info("over its base: %.1f MB", added / 1e6)
        assert added < ADDED_BYTES
