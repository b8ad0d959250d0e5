"""The chart as helm renders it."""

import importlib.util
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
REGISTRY = {"image": {"registry": "registry.example.com/team"}}

_spec = importlib.util.spec_from_file_location("generate", ROOT / "helm" / "generate.py")
assert _spec is not None
assert _spec.loader is not None
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)

CHART: Path = generate.CHART


def helm(*arguments: str, values: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm; the values go in as a file."""
    try:
        path = generate.helm()
    except FileNotFoundError as error:
        if os.environ.get("OUM_REQUIRE_TOOLS") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    if values is not None:
        arguments = (*arguments, "--values=-")
    return subprocess.run(
        (path, *arguments), input=json.dumps(values), capture_output=True, text=True, timeout=60, check=False
    )


def template(values: Mapping[str, Any], *arguments: str, chart: Path = CHART) -> subprocess.CompletedProcess[str]:
    """Render the chart with these values; the registry is given unless they give an image."""
    return helm("template", "demo", str(chart), "--namespace=ns", *arguments, values={**REGISTRY, **values})


def fault(values: Mapping[str, Any]) -> str:
    """What helm says against these values, without its preamble."""
    done = template(values)
    assert done.returncode != 0, done.stdout
    return done.stderr.removeprefix("Error: ").partition("\n\nUse --debug")[0].strip()


class Objects:
    """What the chart makes of values, but the hooks of `helm test`."""

    def __init__(self, values: Mapping[str, Any] | None = None, *arguments: str, chart: Path = CHART) -> None:
        done = template(values or {}, *arguments, chart=chart)
        assert done.returncode == 0, done.stderr
        self.all: list[dict[str, Any]] = [found for found in yaml.safe_load_all(done.stdout) if found]

    def kinds(self) -> list[str]:
        """The kinds of all objects, sorted."""
        return sorted(each["kind"] for each in self.all)

    def one(self, kind: str) -> dict[str, Any]:
        """The only object of a kind."""
        (found,) = (each for each in self.all if each["kind"] == kind)
        return found

    def workload(self) -> dict[str, Any]:
        """The Deployment or StatefulSet."""
        (found,) = (each for each in self.all if each["kind"] in {"Deployment", "StatefulSet"})
        return found

    def pod(self) -> dict[str, Any]:
        """The specification of the monitor's pods."""
        return self.workload()["spec"]["template"]["spec"]

    def container(self) -> dict[str, Any]:
        """The monitor's container."""
        (found,) = self.pod()["containers"]
        return found

    def test(self) -> dict[str, Any]:
        """The pod of `helm test`."""
        return self.one("Pod")

    def pods(self) -> list[dict[str, Any]]:
        """The specification of every pod."""
        return [self.pod(), self.test()["spec"]]

    def config(self) -> str:
        """The configuration file."""
        return self.one("ConfigMap")["data"]["monitor.yaml"]


# Every switch of the chart, so that tests can hold what is true whatever is set. Each turns on what it is named for.
SWITCHES: dict[str, dict[str, Any]] = {
    "alone": {},
    "sharded": {"sharding": {"shards": 4}},
    "replicas": {"replicas": 2},
    "existing ConfigMap": {"existingConfigMap": "mine"},
    "existing Secret": {"existingSecret": "mine"},
    "ServiceMonitor": {
        "serviceMonitor": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "interval": "30s",
            "scrapeTimeout": "10s",
            "metricRelabelings": [{"action": "labeldrop", "regex": "pod"}],
            "relabelings": [{"targetLabel": "cluster", "replacement": "a"}],
        }
    },
    "PodMonitor": {
        "podMonitor": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "interval": "30s",
            "scrapeTimeout": "10s",
            "metricRelabelings": [{"action": "labeldrop", "regex": "pod"}],
            "relabelings": [{"targetLabel": "cluster", "replacement": "a"}],
        }
    },
    "PrometheusRule": {"prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}}},
    "dashboards": {"dashboards": {"enabled": True, "annotations": {"grafana_folder": "URLs"}}},
    "NetworkPolicy": {"networkPolicy": {"enabled": True}},
    "NetworkPolicy for some": {"networkPolicy": {"enabled": True, "ingressFrom": [{"namespaceSelector": {}}]}},
    "PodDisruptionBudget": {"podDisruptionBudget": {"enabled": True}},
    "PodDisruptionBudget in percent": {"podDisruptionBudget": {"enabled": True, "maxUnavailable": "25%"}},
    "topology spread": {"topologySpread": {"enabled": True}},
    "environment": {
        "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
        "envFrom": [{"secretRef": {"name": "mine"}}],
    },
    "sharded environment": {"sharding": {"shards": 2}, "env": [{"name": "A", "value": "b"}]},
    "volumes": {
        "extraVolumes": [{"name": "secrets", "secret": {"secretName": "mine"}}],
        "extraVolumeMounts": [{"name": "secrets", "mountPath": "/secrets", "readOnly": True}],
    },
    "arguments": {"extraArgs": ["--workers=2"]},
    "image": {
        "image": {
            "registry": "[::1]:5000/team/",
            "digest": "sha256:" + "0" * 64,
            "pullPolicy": "Always",
            "pullSecrets": ["one", "two"],
        }
    },
    "placement": {
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]
                }
            }
        },
        "priorityClassName": "high",
        "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
        "podLabels": {"team": "a"},
        "podAnnotations": {"note": "b"},
    },
    "node port": {"service": {"type": "NodePort", "port": 80, "annotations": {"a": "b"}}},
    "users of the cluster's choice": {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}},
    "long names": {"fullnameOverride": "a" * 52, "nameOverride": "b" * 52, "sharding": {"shards": 1000}},
}
