"""The chart's values and their schema."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from chart import CHART, Objects, fault, generate, template
from otel_url_monitor.config import Config, json_schema, load

SCHEMA = json.loads(generate.SCHEMA.read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
DOCUMENT = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text()

# Whole objects of Kubernetes, which checks them itself, and maps with keys of the user's own.
OPEN = {"affinity", "dnsConfig", "global", "valueFrom"}


def test_the_configurations_schema_is_the_applications_own() -> None:
    """`make chart` writes it anew after a change of the application's."""
    assert generate.SCHEMA.read_text() == generate.values_schema()


def test_the_schema_is_one() -> None:
    """Draft 7 is what every Helm 3 and 4 understands."""
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator(SCHEMA).validate(VALUES)


def test_no_key_is_taken_that_means_nothing() -> None:
    """A misspelt key is a fault at every depth, but inside Kubernetes' own objects."""
    for name, schema in _objects(SCHEMA, ""):
        assert schema.get("additionalProperties", name in OPEN) is not True or name in OPEN, name


def _objects(schema: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema that describes objects, with the name of its key; those of lists of Kubernetes' objects are not."""
    if isinstance(schema, list):
        for each in schema:
            yield from _objects(each, name)
    elif isinstance(schema, dict):
        kind = schema.get("type")
        if kind == "object" or (isinstance(kind, list) and "object" in kind):
            yield name, schema
        for key, value in schema.items():
            if key in {"properties", "$defs", "definitions"}:
                for each, inner in value.items():
                    yield from _objects(inner, each)
            elif not (key == "items" and value == {"type": "object"}):
                yield from _objects(value, name)


def test_schema_and_values_have_the_same_keys() -> None:
    """A key that the schema knows has a default that says what it is, and none is left out of the schema."""

    def compare(schema: dict[str, Any], values: dict[str, Any], place: str) -> None:
        assert set(schema["properties"]) - {"global"} == set(values), place
        for key, value in values.items():
            inner = schema["properties"][key]
            if isinstance(value, dict) and inner.get("properties") and key not in {"config", "resources"}:
                compare(inner, value, f"{place}.{key}")

    compare(SCHEMA, VALUES, "values")


def test_every_value_is_explained_on_its_line() -> None:
    """values.yaml is the reference of the chart."""
    text = (CHART / "values.yaml").read_text()
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\s*[A-Za-z_]+:(\s|$)", line) and not line.startswith("        ") and "#" not in line:
            indent = len(line) - len(line.lstrip())
            following = next(each for each in lines[number + 1 :] if each.strip())
            is_section = len(following) - len(following.lstrip()) > indent
            assert is_section, f"values.yaml:{number + 1} {line}"


MISTAKES: dict[str, dict[str, Any]] = {
    "image: Additional property registri is not allowed": {"image": {"registry": "r", "registri": "x"}},
    "(root): Additional property extra is not allowed": {"extra": 1},
    "serviceMonitor: Additional property enable is not allowed": {"serviceMonitor": {"enable": True}},
    "config: Additional property intervall is not allowed": {"config": {"intervall": "15s"}},
    "config.interval: Invalid type. Expected: string, given: integer": {"config": {"interval": 15}},
    "config.targets.0.url: Does not match pattern": {"config": {"targets": [{"url": "ftp://example.com"}]}},
    "config.targets.0.interval: Does not match pattern": {
        "config": {"targets": [{"url": "http://example.com", "interval": "5 s"}]}
    },
    "config.labels.tier: Invalid type. Expected: string, given: number": {"config": {"labels": {"tier": 1.20}}},
    'config.labels: Property name of "url" does not match': {"config": {"labels": {"url": "x"}}},
    'config.labels: Property name of "a__b" does not match': {"config": {"labels": {"a__b": "x"}}},
    "replicas: Invalid type. Expected: integer, given: string": {"replicas": "two"},
    "sharding.shards: Must be greater than or equal to 1": {"sharding": {"shards": 0}},
    "sharding.shards: Must be less than or equal to 1000": {"sharding": {"shards": 1001}},
    "podSecurityContext.runAsUser: Must be greater than or equal to 1": {"podSecurityContext": {"runAsUser": 0}},
    "image.digest: Does not match pattern": {"image": {"registry": "r", "digest": "0123"}},
    "env.0: name is required": {"env": [{"value": "x"}]},
    "terminationGracePeriodSeconds: Must be greater than or equal to 6": {"terminationGracePeriodSeconds": 0},
    "serviceMonitor.interval: Does not match pattern": {"serviceMonitor": {"interval": "30"}},
}


@pytest.mark.parametrize(("message", "values"), MISTAKES.items())
def test_a_mistake_is_refused_by_key(message: str, values: dict[str, Any]) -> None:
    """Helm names the key before anything reaches the cluster."""
    assert f"- {message}" in fault(values)


@pytest.mark.parametrize(
    "config",
    [
        None,
        {"targets": None},
        {"server": None},
        {"server": {"host": "::", "port": 5004}},
        {"targets": [{"url": "http://example.com", "limits": {"body": 1073741824}}]},
        {"targets": [{"url": "http://example.com", "request": {"method": "POST", "body": "one\ntwo\n"}}]},
        {"targets": ["${URL}"], "interval": "${INTERVAL}", "labels": {"a": "no", "b": "1.20", "c": "1:30", "d": "é"}},
        {"tracing": {"success_ratio": 1}, "timeout": "5s", "interval": "1h30m"},
        yaml.safe_load(DOCUMENT.partition("```yaml\n")[2].partition("```")[0]),
    ],
)
def test_the_application_reads_what_was_written_in_the_values(config: dict[str, Any] | None, tmp_path: Path) -> None:
    """Helm's way through JSON and back changes no value of the configuration."""
    environ = {"URL": "http://example.com", "INTERVAL": "15s", "TEAM": "a"}
    for name in ("secrets/api", "ca.pem"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "secrets" / "api").write_text("secret")
    _write_certificate(tmp_path / "ca.pem")
    values = Objects({"config": config}).config()
    if config is not None and config != {"targets": None}:
        config = VALUES["config"] | config
    path = tmp_path / "monitor.yaml"

    def read(text: str) -> Config:
        path.write_text(text)
        return load(path, environ)

    assert read(values) == read(json.dumps(config or {}))


def _write_certificate(path: Path) -> None:
    import trustme  # noqa: PLC0415 - slow

    trustme.CA().cert_pem.write_to_path(str(path))


def test_the_chart_can_be_part_of_another(tmp_path: Path) -> None:
    """A parent chart hands its `global` values down, which the closed schema must let in."""
    parent = tmp_path / "parent"
    (parent / "charts").mkdir(parents=True)
    (parent / "charts" / "otel-url-monitor").symlink_to(CHART)
    (parent / "Chart.yaml").write_text("{apiVersion: v2, name: parent, version: 0.0.0}\n")
    done = template({"global": {"imageRegistry": "x"}, "otel-url-monitor": {"image": {"registry": "r"}}}, chart=parent)

    assert done.returncode == 0, done.stderr
    assert 'image: "r/otel-url-monitor:' in done.stdout


PATTERNS = sorted(set(re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', json.dumps(json_schema()))))


@pytest.mark.parametrize("pattern", [json.loads(each) for each in PATTERNS])
def test_patterns_say_the_same_without_lookahead(pattern: str) -> None:
    """Go's regular expressions, which Helm uses, have no lookahead; the rewritten schema takes the same texts."""
    rewritten = generate.without_lookahead(pattern)
    assert "(?=" not in rewritten["pattern"]
    assert "(?!" not in rewritten["pattern"]
    validator = jsonschema.Draft7Validator(rewritten)

    @given(st.one_of(st.from_regex(pattern), st.from_regex(rewritten["pattern"]), st.text("ab_0159smh", max_size=8)))
    def check(text: str) -> None:
        assert validator.is_valid(text) == bool(re.search(pattern, text))

    check()


@pytest.mark.parametrize("pattern", ["a(?=b)", "^a(?!b)", "^(?:a|(?=b))$"])
def test_a_lookahead_that_cannot_be_rewritten_is_an_error(pattern: str) -> None:
    """Better no schema than one that Helm cannot compile."""
    with pytest.raises(ValueError, match="only lookaheads at the start"):
        generate.without_lookahead(pattern)
