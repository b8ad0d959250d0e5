"""The chart on a real Kubernetes: `make test-kubernetes` uses the cluster of KUBECONFIG and the image in IMAGE."""

import contextlib
import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from chart import CHART, SWITCHES, generate, template
from processes import Samples, require_tool, wait_for

IMAGE = os.environ.get("OUM_KUBERNETES_IMAGE", "")

pytestmark = [
    pytest.mark.skipif(not IMAGE, reason="make test-kubernetes runs these, given a cluster and an image"),
    # The kubelet looks at ConfigMaps about once a minute.
    pytest.mark.timeout(600),
]

SELF = "http://localhost:5004/-/healthy"
CRDS = Path(__file__).parent / "crds"


def _run(*command: str, given: str | None = None, seconds: float = 300) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    assert "Warning:" not in done.stderr, done.stderr
    return done.stdout


def _image() -> dict[str, str]:
    found = re.fullmatch(r"(.+)/([^/:@]+)(?::([^@]+))?(?:@(.+))?", IMAGE)
    assert found, f"IMAGE has a registry: {IMAGE}"
    return dict(zip(("registry", "repository", "tag", "digest"), found.groups(""), strict=True))


class Cluster:
    """One namespace of the cluster, which holds pods to the *restricted* profile."""

    def __init__(self) -> None:
        self._kubectl = require_tool("kubectl")
        self.namespace = f"url-monitor-test-{uuid.uuid4().hex[:8]}"
        policy = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        metadata = {"name": self.namespace, "labels": policy}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        return _run(self._kubectl, f"--namespace={self.namespace}", *arguments, given=given)

    def helm(self, *arguments: str, given: str | None = None) -> str:
        return _run(generate.helm(), f"--namespace={self.namespace}", *arguments, given=given)

    def apply(self, thing: Mapping[str, Any]) -> None:
        self.kubectl("apply", "--filename=-", given=json.dumps(thing))

    def watch(self, pod: str) -> subprocess.Popen[str]:
        """Everything that becomes of a pod from now on, as JSON."""
        command = (self._kubectl, f"--namespace={self.namespace}", "get", "pod", pod, "--watch", "--output=json")
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    @contextlib.contextmanager
    def release(self, name: str, **values: Any) -> Iterator["Release"]:
        """The chart, installed with these values."""
        release = Release(self, name)
        try:
            release.give(**values)
            yield release
        finally:
            self.helm("uninstall", name, "--wait", "--ignore-not-found")

    def close(self) -> None:
        _run(self._kubectl, "delete", "namespace", self.namespace)


class Release:
    """An installed chart."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self.name = name
        self.fullname = f"{name}-otel-url-monitor"

    def give(self, **values: Any) -> None:
        """Install, or upgrade to these values, and wait until the pods are ready."""
        given = json.dumps({"image": _image(), **values})
        flags = ("--install", "--wait", "--timeout=5m", "--values=-")
        self._cluster.helm("upgrade", self.name, str(CHART), *flags, given=given)

    def test(self) -> None:
        """`helm test`."""
        assert "Succeeded" in self._cluster.helm("test", self.name)

    def objects(self, kinds: str) -> list[dict[str, Any]]:
        selector = f"--selector=app.kubernetes.io/instance={self.name}"
        found = json.loads(self._cluster.kubectl("get", kinds, selector, "--output=json"))
        return list(found["items"])

    def pods(self) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.objects("pods"))

    def identity(self) -> list[tuple[str, int]]:
        """What changes when a pod is replaced or its container restarted."""
        return [
            (pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"])
            for pod in self.objects("pods")
        ]

    def execute(self, where: str, *command: str) -> str:
        return self._cluster.kubectl("exec", where, "--", *command)

    def samples(self, where: str = "") -> Samples:
        """What the pod, or the only one, says at the address that every user knows."""
        where = where or f"deploy/{self.fullname}"
        return Samples(self.execute(where, "curl", "-sS", "localhost:5004/metrics"))

    def urls(self, where: str = "") -> set[str]:
        """The targets of a pod."""
        return {labels["url"] for labels in self.samples(where).labels("url_monitor_probe_results_total")}

    def wait_for_up(self, url: str) -> Samples:
        def up() -> Samples | None:
            samples = self.samples()
            return samples if samples.get("sample_external_url_up", url=url) == 1 else None

        return wait_for(up, f"{url} is up", 180)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    try:
        yield made
    finally:
        made.close()


def test_a_registry_alone_is_enough(cluster: Cluster) -> None:
    """Installed with nothing but the image, it is ready, passes `helm test`, and shows its metrics where users look."""
    with cluster.release("alone") as release:
        release.test()
        samples = release.samples()

        assert samples.get("sample_external_url_up", url=SELF) == 1
        assert release.identity()[0][1] == 0
        listing = release.execute(f"deploy/{release.fullname}", "sh", "-c", "ls /var/run/secrets 2>&1; id -u; env")
        assert "kubernetes.io" not in listing
        assert "\n10001\n" in listing
        assert "_SERVICE_HOST" not in listing.replace("KUBERNETES_SERVICE_HOST", "")


def test_a_change_of_the_configuration_restarts_nothing(cluster: Cluster) -> None:
    """The pods take a good configuration over, and stay with what they have when it is a bad one."""
    first, second = f"{SELF}?first", f"{SELF}?second"
    with cluster.release("reload", config={"targets": [first], "interval": "2s"}) as release:
        release.wait_for_up(first)
        before = release.identity()

        release.give(config={"targets": [second], "interval": "2s", "timeout": "1m"})
        wait_for(
            lambda: release.samples().get("url_monitor_config_last_reload_successful") == 0, "the bad one is told", 180
        )
        assert release.urls() == {first}

        release.give(config={"targets": [second], "interval": "2s"})
        samples = release.wait_for_up(second)
        assert release.urls() == {second}
        assert samples.get("url_monitor_config_last_reload_successful") == 1
        assert release.identity() == before


def test_a_deleted_pod_ends_by_itself_and_is_replaced(cluster: Cluster) -> None:
    """Well within its grace period, with exit code 0."""
    with cluster.release("ending") as release:
        release.wait_for_up(SELF)
        (pod,) = release.pods()
        watch = cluster.watch(pod)
        begin = time.monotonic()
        cluster.kubectl("delete", "pod", pod)
        took = time.monotonic() - begin
        time.sleep(1)
        watch.terminate()
        seen, _ = watch.communicate()

        assert took < 10, "the grace period is 15 s"
        assert re.findall(r'"exitCode": (\d+)', seen)[-1:] == ["0"]
        cluster.kubectl("rollout", "status", f"deploy/{release.fullname}", "--timeout=2m")
        assert release.pods() != [pod]


def test_shards_are_a_partition_of_the_configuration(cluster: Cluster) -> None:
    """Every target is probed by exactly one pod, also after the number of shards has changed."""
    targets = {f"{SELF}?{number}" for number in range(40)}
    config = {"targets": sorted(targets), "interval": "5s"}
    with cluster.release("shards", config=config, sharding={"shards": 4}) as release:
        assert release.pods() == [f"{release.fullname}-{ordinal}" for ordinal in range(4)]
        _assert_partition(release, targets)
        release.test()

        release.give(config=config, sharding={"shards": 2})
        wait_for(lambda: len(release.pods()) == 2, "two are left")
        _assert_partition(release, targets)


def _assert_partition(release: Release, targets: set[str]) -> None:
    parts = [release.urls(pod) for pod in release.pods()]

    assert all(parts)
    assert set().union(*parts) == targets
    assert sum(map(len, parts)) == len(targets)


def test_an_upgrade_goes_anywhere_and_an_uninstall_leaves_nothing(cluster: Cluster) -> None:
    """From one pod to shards and back: different objects under one release."""
    with cluster.release("path") as release:
        before = release.pods()
        release.give(env=[{"name": "CHANGED", "value": "yes"}])
        wait_for(lambda: len(release.pods()) == 1, "the old pod is gone", 60)
        assert release.pods() != before

        release.give(sharding={"shards": 2})
        wait_for(lambda: len(release.pods()) == 2, "only the shards are left", 60)
        release.give()
        wait_for(lambda: len(release.pods()) == 1, "the shards are gone", 60)
        release.test()

        cluster.helm("uninstall", release.name, "--wait")
        kinds = "all,configmaps,secrets,serviceaccounts,roles,rolebindings,endpointslices"
        wait_for(lambda: release.objects(kinds) == [], "everything is gone", 60)


@pytest.fixture(scope="module")
def operator(cluster: Cluster) -> Iterator[None]:
    """The kinds of prometheus-operator, for as long as the tests need them unless the cluster has them."""
    known = cluster.kubectl("get", "customresourcedefinitions", "--output=name")
    missing = [path for path in sorted(CRDS.glob("*.json")) if f"{path.stem}.monitoring.coreos.com" not in known]
    for path in missing:
        cluster.kubectl("create", f"--filename={path}")
        cluster.kubectl("wait", "--for=condition=Established", f"--filename={path}")
    yield
    for path in missing:
        _run("kubectl", "delete", f"--filename={path}")


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("values", SWITCHES.values(), ids=SWITCHES)
def test_the_api_server_takes_every_object_without_a_warning(cluster: Cluster, values: dict[str, Any]) -> None:
    """Strictly: no unknown field, nothing deprecated, nothing that the *restricted* profile would refuse."""
    done = template(values, f"--namespace={cluster.namespace}")
    assert done.returncode == 0, done.stderr

    cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename=-", given=done.stdout)
