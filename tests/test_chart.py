"""What the chart renders."""

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import otel_url_monitor
from chart import CHART, SWITCHES, Objects, fault, generate, helm

every_switch = pytest.mark.parametrize("values", SWITCHES.values(), ids=SWITCHES)


def test_a_registry_alone_makes_a_configmap_a_deployment_and_a_service() -> None:
    """A user who has nothing but the image gets a monitor that watches itself on port 5004."""
    made = Objects()

    assert made.kinds() == ["ConfigMap", "Deployment", "Pod", "Service"]
    assert made.container()["image"] == f"registry.example.com/team/otel-url-monitor:{otel_url_monitor.__version__}"
    assert made.one("Service")["spec"]["ports"] == [
        {"name": "http", "port": 5004, "targetPort": "http", "appProtocol": "http"}
    ]
    assert made.container()["ports"] == [{"name": "http", "containerPort": 5004}]
    assert yaml.safe_load(made.config()) == {"targets": ["http://localhost:5004/-/healthy"]}


def test_without_a_registry_one_sentence_says_how_to_give_it() -> None:
    """`helm template` fails by name, and `helm lint` of the bare chart passes."""
    done = helm("template", "demo", str(CHART))

    assert done.returncode != 0
    assert "image.registry is required, for example --set image.registry=registry.example.com/team" in done.stderr
    assert done.stderr.count("image.registry") == 2
    linted = helm("lint", str(CHART))
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({"registry": "r.example.com"}, "r.example.com/otel-url-monitor:0.1.0"),
        ({"registry": "r.example.com/"}, "r.example.com/otel-url-monitor:0.1.0"),
        ({"registry": "localhost:5000/a/b_c/d"}, "localhost:5000/a/b_c/d/otel-url-monitor:0.1.0"),
        ({"registry": "[::1]:5000"}, "[::1]:5000/otel-url-monitor:0.1.0"),
        ({"registry": "r", "repository": "tools/monitor", "tag": "2.0.0-rc.1"}, "r/tools/monitor:2.0.0-rc.1"),
        ({"registry": "r", "tag": "1", "digest": "sha256:" + "a" * 64}, "r/otel-url-monitor@sha256:" + "a" * 64),
    ],
)
def test_the_image_is_named_by_registry_repository_and_tag_or_digest(image: dict[str, str], reference: str) -> None:
    """Both pods run the same image; a slash at the registry's end does no harm."""
    made = Objects({"image": image})

    assert [pod["containers"][0]["image"] for pod in made.pods()] == [reference, reference]


@pytest.mark.parametrize("registry", ["https://r.example.com", "r.example.com /x", " ", "r.example.com/Team", "a//b"])
def test_a_registry_that_is_none_is_refused_in_words(registry: str) -> None:
    """A pasted URL or a blank would only fail when the image is pulled."""
    message = fault({"image": {"registry": registry}})

    assert "image.registry must be host[:port][/path] without a scheme, such as registry.example.com/team" in message
    assert message.endswith(f'got "{registry}"')


def test_pull_secrets_are_those_of_the_pods() -> None:
    """They are named on the pods: there is no ServiceAccount to carry them."""
    made = Objects({"image": {"registry": "r", "pullSecrets": ["one", "two"]}})

    assert [pod["imagePullSecrets"] for pod in made.pods()] == [[{"name": "one"}, {"name": "two"}]] * 2


@every_switch
def test_every_pod_is_restricted_read_only_and_without_credentials(values: dict[str, Any]) -> None:
    """The Pod Security profile *restricted*, a root file system that cannot be written, and no token."""
    for pod in Objects(values).pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"].get("runAsUser") != 0
        assert {"hostNetwork", "hostPID", "hostIPC", "initContainers", "serviceAccountName"}.isdisjoint(pod)
        for volume in pod.get("volumes", []):
            assert {"configMap", "secret"} & set(volume)
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert all("hostPort" not in port for port in container.get("ports", []))
            assert "cpu" not in container["resources"]["limits"]
            assert container["resources"]["requests"]


def test_no_template_asks_for_rights() -> None:
    """Whatever is turned on, nothing reads the Kubernetes API: no roles, no ServiceAccount."""
    text = "".join(path.read_text() for path in (CHART / "templates").rglob("*.yaml"))
    kinds = {line.removeprefix("kind: ") for line in text.splitlines() if line.startswith("kind: ")}

    assert kinds == {
        "ConfigMap",
        "NetworkPolicy",
        "Pod",
        "PodDisruptionBudget",
        "PrometheusRule",
        "Service",
        "{{ $kind }}",  # ServiceMonitor and PodMonitor
        "{{ if $sharded }}StatefulSet{{ else }}Deployment{{ end }}",
    }
    assert "rbac." not in text
    assert "serviceAccount" not in text


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = one | other
    return both | {key: one[key] | other[key] for key in one.keys() & other.keys() if isinstance(one[key], dict)}


@every_switch
def test_a_change_of_version_or_configuration_leaves_selectors_and_pods_alone(
    values: dict[str, Any], tmp_path: Path
) -> None:
    """Selectors cannot be changed, and the pods take a new configuration over by themselves."""
    later = tmp_path / "chart"
    shutil.copytree(CHART, later)
    chart = later / "Chart.yaml"
    chart.write_text(chart.read_text().replace("\nversion: ", "\nversion: 9"))
    values = _merged({"image": {"registry": "r", "tag": "1"}}, values)
    before = Objects(values)
    after = Objects(values | {"config": {"targets": ["http://localhost:5004/-/ready"]}}, chart=later)

    assert after.workload()["metadata"]["labels"]["helm.sh/chart"] == "otel-url-monitor-90.1.0"
    assert before.workload()["spec"] == after.workload()["spec"]
    assert before.one("Service")["spec"] == after.one("Service")["spec"]


@every_switch
def test_what_selects_pods_selects_the_monitors_and_not_the_test(values: dict[str, Any]) -> None:
    """Service, budget, policy and monitors find the pods by labels; the pod of `helm test` is not one of them."""
    made = Objects(values)
    labels = made.workload()["spec"]["template"]["metadata"]["labels"].items()
    services = made.one("Service")["metadata"]["labels"].items()
    for each in made.all:
        selector = each.get("spec", {}).get("podSelector") or each.get("spec", {}).get("selector")
        if not selector:
            continue
        wanted = selector.get("matchLabels", selector).items()
        assert wanted <= (services if each["kind"] == "ServiceMonitor" else labels)
        assert not wanted <= made.test()["metadata"]["labels"].items()


@every_switch
def test_names_and_labels_fit_their_limits(values: dict[str, Any]) -> None:
    """A StatefulSet's pods carry its name and a hash in a label; labels have 63 characters."""
    made = Objects(values)
    assert len(made.workload()["metadata"]["name"]) <= 52
    for each in made.all:
        assert len(each["metadata"]["name"]) <= (63 if each["kind"] in {"Service", "Pod"} else 253)
        assert all(len(value) <= 63 for value in each["metadata"]["labels"].values())


def test_the_configuration_is_mounted_as_a_folder() -> None:
    """A file that is mounted alone (subPath) would never change."""
    made = Objects()

    assert made.container()["args"] == ["run", "--config=/etc/otel-url-monitor/monitor.yaml", "--port=5004"]
    assert made.container()["volumeMounts"] == [
        {"name": "config", "mountPath": "/etc/otel-url-monitor", "readOnly": True}
    ]
    assert made.pod()["volumes"] == [{"name": "config", "configMap": {"name": "demo-otel-url-monitor"}}]


@pytest.mark.parametrize(
    ("values", "volume"),
    [
        ({"existingConfigMap": "mine"}, {"name": "config", "configMap": {"name": "mine"}}),
        ({"existingSecret": "mine"}, {"name": "config", "secret": {"secretName": "mine"}}),
    ],
)
def test_an_existing_configuration_takes_the_place_of_ours(values: dict[str, Any], volume: dict[str, Any]) -> None:
    """The file can come from elsewhere; then the chart makes none."""
    made = Objects(values)

    assert made.pod()["volumes"] == [volume]
    assert "ConfigMap" not in made.kinds()


def test_health_is_asked_on_the_pods_port() -> None:
    """Ready once the configuration is loaded, alive while the probers answer; a target's state plays no part."""
    container = Objects().container()

    asked = {kind: container[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {
        "startupProbe": {"path": "/-/ready", "port": "http"},
        "livenessProbe": {"path": "/-/healthy", "port": "http"},
        "readinessProbe": {"path": "/-/ready", "port": "http"},
    }


def test_shards_are_a_statefulset_that_learns_its_part_from_the_pods_label() -> None:
    """No API access: the ordinal comes from a label by the downward API, the number from the values."""
    made = Objects({"sharding": {"shards": 4}})
    spec = made.one("StatefulSet")["spec"]

    assert made.kinds() == ["ConfigMap", "Pod", "Service", "StatefulSet"]
    assert spec["replicas"] == 4
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["serviceName"] == made.one("Service")["metadata"]["name"] == "demo-otel-url-monitor-shards"
    assert made.one("Service")["spec"]["clusterIP"] == "None"
    assert made.container()["args"][-1] == "--shard=$(POD_INDEX)/4"
    assert made.container()["env"] == [
        {
            "name": "POD_INDEX",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}},
        }
    ]


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({}, "http://demo-otel-url-monitor:5004/metrics"),
        ({"service": {"port": 80}}, "http://demo-otel-url-monitor:80/metrics"),
        (
            {"sharding": {"shards": 3}, "service": {"port": 80}},
            "http://demo-otel-url-monitor-[0-2].demo-otel-url-monitor-shards:5004/metrics",
        ),
    ],
)
def test_helm_test_fetches_the_metrics_of_every_pod_by_way_of_the_service(values: dict[str, Any], url: str) -> None:
    """The command that a user would type, in the same image; curl expands the range of shards."""
    made = Objects(values)
    pod = made.test()
    (container,) = pod["spec"]["containers"]

    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert container["image"] == made.container()["image"]
    assert url in shlex.split(container["args"][0].partition("$(curl")[2].partition(")")[0])
    assert "grep '^sample_external_url_up{'" in container["args"][0]


def test_whoever_is_allowed_connects_to_the_port_and_nobody_to_another() -> None:
    """One rule that names port and peers together; two rules would open the port to all."""
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    made = Objects({"networkPolicy": {"enabled": True, "ingressFrom": [prometheus]}})
    spec = made.one("NetworkPolicy")["spec"]

    test = {
        "podSelector": {
            "matchLabels": {
                "app.kubernetes.io/name": "otel-url-monitor-test",
                "app.kubernetes.io/instance": "demo",
            }
        }
    }
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"] == [{"ports": [{"port": 5004, "protocol": "TCP"}], "from": [prometheus, test]}]
    assert test["podSelector"]["matchLabels"].items() <= made.test()["metadata"]["labels"].items()


def test_a_network_policy_lets_probes_out_but_not_to_the_metadata_service() -> None:
    """A URL in the configuration shall not be a way to a cloud's credentials."""
    spec = Objects({"networkPolicy": {"enabled": True}}).one("NetworkPolicy")["spec"]

    assert spec["ingress"] == [{"ports": [{"port": 5004, "protocol": "TCP"}]}]
    assert spec["egress"] == [
        {
            "to": [
                {"namespaceSelector": {}},
                {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}},
                {"ipBlock": {"cidr": "::/0", "except": ["fd00:ec2::254/128"]}},
            ]
        }
    ]


@pytest.mark.parametrize(
    ("kind", "endpoints"), [("ServiceMonitor", "endpoints"), ("PodMonitor", "podMetricsEndpoints")]
)
def test_monitors_say_what_is_set_and_leave_the_rest_to_prometheus(kind: str, endpoints: str) -> None:
    """Without an interval Prometheus' own applies."""
    key = kind[0].lower() + kind[1:]
    plain = Objects({key: {"enabled": True}}).one(kind)["spec"]
    full = Objects(SWITCHES[kind]).one(kind)

    assert plain[endpoints] == [{"port": "http", "path": "/metrics"}]
    assert full["metadata"]["labels"]["release"] == "prometheus"
    assert full["spec"][endpoints] == [
        {
            "port": "http",
            "path": "/metrics",
            "interval": "30s",
            "scrapeTimeout": "10s",
            "relabelings": [{"targetLabel": "cluster", "replacement": "a"}],
            "metricRelabelings": [{"action": "labeldrop", "regex": "pod"}],
        }
    ]


def test_every_rule_file_is_in_the_rules() -> None:
    """The rules are files of the chart; thresholds are filled in, and Prometheus' own templates left alone."""
    rules = Objects({"prometheusRule": {"enabled": True}}).one("PrometheusRule")
    files = sorted((CHART / "files" / "rules").glob("*.yaml"))
    groups = [group["name"] for group in rules["spec"]["groups"]]

    assert len(set(groups)) == len(groups) >= len(files) > 0
    for file in files:
        assert any(f"name: {name}\n" in file.read_text() for name in groups)
    assert "{{ $labels." in str(rules)
    assert ".Values" not in str(rules)


def test_every_dashboard_is_a_configmap_that_the_sidecar_finds() -> None:
    """One each, as a ConfigMap has a limit of 1 MiB; the JSON is the file's own."""
    files = sorted((CHART / "files" / "dashboards").glob("*.json"))
    if not files:
        pytest.skip("there are no dashboards yet")
    made = Objects({"dashboards": {"enabled": True, "annotations": {"grafana_folder": "URLs"}}, "existingSecret": "x"})
    found = [each for each in made.all if each["kind"] == "ConfigMap"]

    assert [each["data"] for each in found] == [{file.name: file.read_text().rstrip("\n")} for file in files]
    for each in found:
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert each["metadata"]["annotations"] == {"grafana_folder": "URLs"}


def test_pods_spread_when_asked() -> None:
    """Over nodes, softly: a cluster of one node still runs them all."""
    made = Objects({"topologySpread": {"enabled": True}})

    assert made.pod()["topologySpreadConstraints"] == [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": made.workload()["spec"]["selector"],
        }
    ]


def test_environment_arguments_and_volumes_are_added_to_ours() -> None:
    """What the chart does not know can still be given."""
    made = Objects(SWITCHES["environment"] | SWITCHES["volumes"] | SWITCHES["arguments"] | {"sharding": {"shards": 2}})

    assert [each["name"] for each in made.container()["env"]] == ["POD_INDEX", "OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert made.container()["envFrom"] == [{"secretRef": {"name": "mine"}}]
    assert made.container()["args"][-2:] == ["--shard=$(POD_INDEX)/2", "--workers=2"]
    assert [each["name"] for each in made.container()["volumeMounts"]] == ["config", "secrets"]
    assert [each["name"] for each in made.pod()["volumes"]] == ["config", "secrets"]


EXCLUSIVE: dict[str, dict[str, Any]] = {
    "existingConfigMap and existingSecret exclude each other: there is one configuration": {
        "existingConfigMap": "a",
        "existingSecret": "b",
    },
    "serviceMonitor and podMonitor exclude each other: every pod would be scraped twice": {
        "serviceMonitor": {"enabled": True},
        "podMonitor": {"enabled": True},
    },
    "replicas and sharding.shards exclude each other: a shard is one pod": {"replicas": 2, "sharding": {"shards": 2}},
    "service.type must be ClusterIP when sharded: each pod answers for its own targets alone": {
        "service": {"type": "NodePort"},
        "sharding": {"shards": 2},
    },
    "config.server.port must be 5004, where the pods listen, got 9000; service.port is what others connect to": {
        "config": {"server": {"port": 9000}}
    },
}


@pytest.mark.parametrize(("message", "values"), EXCLUSIVE.items())
def test_what_excludes_each_other_is_refused_in_words(message: str, values: dict[str, Any]) -> None:
    """A schema knows no reasons; the template gives them."""
    assert fault(values).endswith(message)


@pytest.mark.parametrize(("values", "workload"), [({}, "deploy"), ({"sharding": {"shards": 2}}, "statefulset")])
def test_the_notes_show_the_command_that_shows_the_metrics(
    values: dict[str, Any], workload: str, tmp_path: Path
) -> None:
    """What a user reads right after the installation; only a cluster would show it, so a template of ours does."""
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    text = 'kind: Notes\ntext: {{ include (print .Template.BasePath "/NOTES.txt") . | toJson }}\n'
    (chart / "templates" / "shown.yaml").write_text(text)
    notes = Objects(values, chart=chart).one("Notes")["text"]

    assert f"\n  kubectl -n ns exec {workload}/demo-otel-url-monitor -- curl -s localhost:5004/metrics\n" in notes


def test_the_chart_is_of_the_applications_version() -> None:
    """The default tag is the appVersion: it must be the version that the tree has."""
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == otel_url_monitor.__version__


@pytest.mark.parametrize("example", generate.EXAMPLES, ids=lambda path: path.name)
def test_examples_are_rendered_as_they_stand_in_the_tree(example: Path) -> None:
    """A change of the chart shows in what it renders; `make chart` writes it anew."""
    assert generate.rendered(example) == (example / "rendered.yaml").read_text()


def test_there_are_examples() -> None:
    """The list is not empty by accident."""
    assert len(generate.EXAMPLES) >= 5
