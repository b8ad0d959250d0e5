"""The collector's files agree with each other, with their README and with the builder's list; no collector is run."""

import re
import subprocess
import urllib.parse

import pytest
import yaml

from collector import FILES, NAMES
from processes import require_tool, run_command

KINDS = ("receivers", "processors", "exporters", "connectors", "extensions")
ALIASES = {"exporters": {"otlp", "otlphttp", "prometheusremotewrite"}, "connectors": {"spanmetrics"}}
VARIABLE = re.compile(r"\$\{env:(\w+)(?::-([^}]*))?\}")

every_file = pytest.mark.parametrize("name", NAMES)


def text(name):
    return (FILES / f"{name}.yaml").read_text()


def load(name):
    """The file with the variables' defaults, as the collector reads it when none is set."""
    return yaml.safe_load(VARIABLE.sub(lambda found: found[2], text(name)))


def defined(config, kind):
    return set(config.get(kind, ()))


def in_pipelines(config, *kinds):
    return {each for pipeline in config["service"]["pipelines"].values() for kind in kinds for each in pipeline[kind]}


def component(identifier):
    """`otlp_http` of `otlp_http/backend`."""
    return identifier.partition("/")[0]


def used_components():
    """Every component of our files, by kind."""
    return {kind: {component(each) for name in NAMES for each in defined(load(name), kind)} for kind in KINDS}


@every_file
def test_what_is_defined_is_used(name):
    """A pipeline names nothing that is not defined, and nothing is defined that no pipeline names."""
    config = load(name)
    connectors = defined(config, "connectors")
    assert in_pipelines(config, "receivers") == defined(config, "receivers") | connectors
    assert in_pipelines(config, "exporters") == defined(config, "exporters") | connectors
    assert in_pipelines(config, "processors") == defined(config, "processors")
    assert set(config["service"]["extensions"]) == defined(config, "extensions")


def test_queues_lie_in_storage_that_is_started():
    """The storage that a queue names is one of the extensions."""
    config = load("gateway")
    queues = [exporter["sending_queue"] for exporter in config["exporters"].values() if "sending_queue" in exporter]
    assert [queue["storage"] for queue in queues] == ["file_storage/queue"]
    assert "file_storage/queue" in config["service"]["extensions"]


def test_builder_has_what_the_files_use():
    """builder.yaml lists the components of our files and no others, all of one release."""
    builder = yaml.safe_load(text("builder"))
    modules = {kind: [entry["gomod"].rpartition("/")[2].split() for entry in builder[kind]] for kind in KINDS}
    assert {kind: sorted(module.removesuffix(kind[:-1]) for module, _ in found) for kind, found in modules.items()} == {
        kind: sorted(name.replace("_", "") for name in names) for kind, names in used_components().items()
    }
    versions = {version for found in modules.values() for _, version in found}
    assert versions == {f"v{builder['dist']['version']}"}
    assert [entry["gomod"].split("/")[-1].split()[0] for entry in builder["providers"]] == [
        "envprovider",
        "fileprovider",
    ]


def test_no_deprecated_names():
    """No component goes by a name that the collector still takes, with a warning."""
    used = used_components()
    assert {kind: used[kind] & aliases for kind, aliases in ALIASES.items()} == {kind: set() for kind in ALIASES}


@every_file
def test_memory_is_limited_first(name):
    """Every pipeline begins with the memory limiter; batches are made by the sending queue, not by a processor."""
    for pipeline in load(name)["service"]["pipelines"].values():
        assert pipeline["processors"][0] == "memory_limiter"
        assert "batch" not in pipeline["processors"]


@every_file
def test_listens_on_loopback_unless_told_otherwise(name):
    """No default address is open to the network."""
    assert "0.0.0.0" not in text(name)
    config = load(name)
    listeners = [*config["extensions"].values(), *config["exporters"].values()]
    listeners += [each.get("protocols", {}).get("http", {}) for each in config["receivers"].values()]
    endpoints = [each["endpoint"] for each in listeners if "endpoint" in each]
    endpoints.append(config["service"]["telemetry"]["metrics"]["readers"][0]["pull"]["exporter"]["prometheus"]["host"])
    assert {re.sub(r"^http://|:\d+.*$", "", endpoint) for endpoint in endpoints} == {"localhost"}


@every_file
def test_health_and_own_metrics_are_there(name):
    """Each file has the health check and says how the collector itself fares."""
    config = load(name)
    assert "health_check" in config["service"]["extensions"]
    assert config["service"]["telemetry"]["metrics"]["readers"]


@every_file
def test_variables_have_a_default_and_are_documented(name):
    """Every `${env:NAME}` has a default, and the README's table has it as it is."""
    variables = VARIABLE.findall(text(name))
    assert variables
    assert not re.search(r"\$\{(?!env:|1\})", text(name)), "a variable of another kind"
    rows = {row[0]: row for row in re.findall(r"^\| `(\w+)` \| `([^`]*)` \| ([\w ,]+) \|", readme(), re.MULTILINE)}
    for variable, default in variables:
        assert default
        assert rows[variable][1] == default
        assert name in rows[variable][2].split(", ")


def test_readme_documents_no_other_variables():
    """What the README's table has is used."""
    documented = set(re.findall(r"^\| `(\w+)` \| `", readme(), re.MULTILINE))
    assert documented == {variable for name in NAMES for variable, _ in VARIABLE.findall(text(name))}


def readme():
    return (FILES / "README.md").read_text()


@every_file
def test_scrapes_or_is_pushed_to(name):
    """No file both scrapes the monitor and takes its metrics over OTLP."""
    assert len({component(each) for each in defined(load(name), "receivers")}) == 1


def test_redaction_is_one_pattern():
    """Attributes, status, events and data points are redacted by the same pattern: the monitor's own list of keys."""
    redact = load("gateway")["processors"]["transform/redact"]
    statements = [*redact["trace_statements"], *redact["metric_statements"]]
    assert [re.match(r"\w+\(([\w.]+)", each)[1] for each in statements] == [
        "span.attributes",
        "span.status.message",
        "spanevent.attributes",
        "datapoint.attributes",
    ]
    (pattern,) = {each[each.index('"(?i)') :] for each in statements}
    (keys,) = re.findall(r"\(\?:(token\|[\w|]+)\)", pattern)
    documented = (FILES.parent / "docs" / "metrics.md").read_text().partition("the values of the query keys ")[2]
    assert keys.split("|") == re.findall(r"`(\w+)`", documented.partition(" read `REDACTED`")[0])


def test_redaction_is_last_before_everything_that_leaves():
    """Nothing leaves the gateway unredacted."""
    for pipeline in load("gateway")["service"]["pipelines"].values():
        assert pipeline["processors"][-1] == "transform/redact"


def test_series_outlive_the_intervals():
    """The exposition keeps a series over several pushes, and span metrics over a day between two probes."""
    config = load("gateway")
    assert int(config["exporters"]["prometheus"]["metric_expiration"].removesuffix("m")) >= 3  # 1m is the SDK's default
    assert int(config["connectors"]["span_metrics"]["series_expiration"].removesuffix("h")) >= 24


def test_promtool_accepts_the_scrape_configuration(tmp_path):
    """What the prometheus receiver is given, and what compose gives to Prometheus, is sound."""
    promtool = require_tool("promtool")
    embedded = tmp_path / "prometheus.yaml"
    embedded.write_text(yaml.safe_dump(load("scrape")["receivers"]["prometheus"]["config"]))
    for path in (embedded, FILES / "prometheus.yaml"):
        ended = subprocess.run((promtool, "check", "config", path), capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr


def test_compose_mounts_what_is_there():
    """Every file that compose.yaml mounts or builds exists, and no port is open to the network."""
    services = yaml.safe_load(text("compose"))["services"]
    assert set(services) == {"monitor", "collector", "prometheus", "jaeger"}
    mounts = [mount.split(":")[0] for service in services.values() for mount in service.get("volumes", ())]
    assert [mount for mount in mounts if mount.startswith(".") and not (FILES / mount).is_file()] == []
    assert (FILES / services["monitor"]["build"] / "Dockerfile").is_file()
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_compose_monitors_what_compose_starts():
    """The monitor's file is sound, and watches the other services, and one that is not there."""
    ended = run_command("check", str(FILES / "monitor.yaml"))
    assert ended.returncode == 0, ended.stderr
    services = set(yaml.safe_load(text("compose"))["services"])
    hosts = {urllib.parse.urlsplit(target["url"]).hostname for target in yaml.safe_load(text("monitor"))["targets"]}
    assert hosts == services - {"monitor"} | {"missing.invalid"}


def test_compose_uses_variables_that_the_gateway_has():
    """The variables that compose.yaml sets are the gateway's, and its image is of the release that we build."""
    collector = yaml.safe_load(text("compose"))["services"]["collector"]
    assert set(collector["environment"]) <= {variable for variable, _ in VARIABLE.findall(text("gateway"))}
    assert collector["image"].partition(":")[2] == yaml.safe_load(text("builder"))["dist"]["version"]


def test_compose_never_scrapes_the_monitor():
    """Prometheus has the monitor's metrics from the gateway, which gets them pushed: never twice."""
    targets = re.findall(r'"(\w+):(\d+)"', text("prometheus"))
    assert targets == [("collector", "8889"), ("collector", "8888")]
