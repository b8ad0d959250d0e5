#!/usr/bin/env python3
# ruff: noqa: S603 - a script for developers, which runs helm
"""Write what is generated: the configuration's part of the chart's values.schema.json, and the rendered examples."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from otel_url_monitor.config import json_schema

HERE = Path(__file__).parent
CHART = HERE / "otel-url-monitor"
SCHEMA = CHART / "values.schema.json"
EXAMPLES = sorted(path.parent for path in HERE.glob("examples/*/values.yaml"))

_NUMBER = {"type": "number", "minimum": 0}
_DURATION = {"type": "string", "pattern": "^([0-9]+(ms|[smhdwy]))+$"}


def main() -> None:
    """Write everything anew."""
    SCHEMA.write_text(values_schema())
    for example in EXAMPLES:
        (example / "rendered.yaml").write_text(rendered(example))


def values_schema() -> str:
    """values.schema.json with the application's present schema under `config`, and the rules' present thresholds."""
    schema = json.loads(SCHEMA.read_text())
    config = for_helm(json_schema())
    schema["$defs"] = config.pop("$defs")
    del config["$schema"]
    schema["properties"]["config"] = config
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    thresholds = values["prometheusRule"]["thresholds"].items()
    schema["properties"]["prometheusRule"]["properties"]["thresholds"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {key: _NUMBER if isinstance(value, int | float) else _DURATION for key, value in thresholds},
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def for_helm(schema: Any) -> Any:
    """A schema of the application as Helm can use it.

    Helm reads YAML 1.1 first, where `1.20` is a number and `no` is false: what is text must be quoted. And its regular
    expressions are Go's, which have no lookahead.
    """
    if isinstance(schema, list):
        return [for_helm(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == ["string", "number", "boolean"]:
        return schema | {"type": "string"}
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        return schema | without_lookahead(pattern)
    return {key: for_helm(value) for key, value in schema.items()}


def without_lookahead(pattern: str) -> dict[str, Any]:
    """The same pattern, its lookaheads as schemas of their own."""
    conditions: list[dict[str, Any]] = []
    while found := re.match(r"(\^(?:\(\?:)?)\(\?([=!])", pattern):
        end = _closing(pattern, found.end(1))
        ahead = {"pattern": f"^(?:{pattern[found.end() : end]})"}
        conditions.append(ahead if found[2] == "=" else {"not": ahead})
        pattern = found[1] + pattern[end + 1 :]
    if re.search(r"\(\?<?[=!]", pattern):
        raise ValueError(f"only lookaheads at the start can be rewritten: {pattern}")
    return {"pattern": pattern} | ({"allOf": conditions} if conditions else {})


def _closing(pattern: str, opening: int) -> int:
    """Where the group ends that begins there."""
    depth = 0
    for found in re.finditer(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[()]", pattern[opening:]):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth == 0:
            return opening + found.start()
    raise ValueError(f"unbalanced: {pattern}")


def rendered(example: Path) -> str:
    """What the chart makes of an example, but the rules and dashboards, which are files of the chart."""
    command = ["template", "example", str(CHART), "--namespace=monitoring", f"--values={example / 'values.yaml'}"]
    output = subprocess.run([helm(), *command], check=True, stdout=subprocess.PIPE, text=True).stdout
    return "---\n".join(text for text in _documents(output) if not _is_file_of_the_chart(yaml.safe_load(text)))


def _documents(output: str) -> Iterator[str]:
    return (text.lstrip("\n") for text in re.split(r"^---\n", output, flags=re.MULTILINE) if text.strip())


def _is_file_of_the_chart(document: dict[str, Any]) -> bool:
    return document["kind"] == "PrometheusRule" or "-dashboard-" in document["metadata"]["name"]


def helm() -> str:
    """Path of helm: the one that was installed beside this Python, or else any."""
    path = shutil.which("helm", path=Path(sys.executable).parent) or shutil.which("helm")
    if path is None:
        raise FileNotFoundError("helm is not installed")
    return path


if __name__ == "__main__":
    main()
