"""What the chart renders is valid to Kubernetes and to prometheus-operator."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from chart import SWITCHES, Objects

kubernetes_validate = pytest.importorskip("kubernetes_validate")

DEFINITIONS = [json.loads(path.read_text()) for path in (Path(__file__).parent / "crds").glob("*.json")]
CUSTOM = {each["spec"]["names"]["kind"]: each["spec"]["versions"][0] for each in DEFINITIONS}

every_switch = pytest.mark.parametrize("values", SWITCHES.values(), ids=SWITCHES)


@every_switch
def test_every_object_is_valid_and_has_no_unknown_field(values: dict[str, Any]) -> None:
    """Strictly, by the schemas of an old, a recent and the newest Kubernetes."""
    for each in Objects(values).all:
        if each["kind"] not in CUSTOM:
            for version in ("1.31", "1.34", kubernetes_validate.latest_version()):
                kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor", "PrometheusRule"])
def test_objects_of_the_operator_are_valid_and_have_no_unknown_field(kind: str) -> None:
    """By its own definitions, with every key of ours set."""
    made = Objects(SWITCHES[kind]).one(kind)

    assert made["apiVersion"] == f"monitoring.coreos.com/{CUSTOM[kind]['name']}"
    _validator(kind).validate(made["spec"])


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor", "PrometheusRule"])
def test_an_unknown_field_of_the_operators_objects_would_be_found(kind: str) -> None:
    """The check above is one: the API server would drop the field without a word."""
    made = Objects(SWITCHES[kind]).one(kind)
    made["spec"]["unknown"] = 1

    with pytest.raises(jsonschema.ValidationError, match="'unknown' was unexpected"):
        _validator(kind).validate(made["spec"])


def _validator(kind: str) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(_closed(CUSTOM[kind]["schema"]["openAPIV3Schema"]["properties"]["spec"]))


def _closed(schema: Any) -> Any:
    """A definition's schema, open to nothing that it does not name."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if "properties" in schema:
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed
