"""The file a user writes: what it becomes, and how it is refused."""

import dataclasses
import json
import os
import re
import stat
import string
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from otel_url_monitor.config import Config, ConfigError, Fault, from_urls, json_schema, load
from otel_url_monitor.config.schema import NOT_SUPPORTED_YET
from otel_url_monitor.config.values import format_duration, parse_duration
from otel_url_monitor.model import BasicAuth, BearerToken, Expect, Limits, MetricsLevel, Request, Target, Tls

BAD = Path(__file__).parent / "config" / "bad"
DOCS = Path(__file__).parent.parent / "docs" / "configuration.md"
# The environment of the bad files; no message may show what is in it.
ENVIRON = {"SECRET": "s3cr3t-value", "MINUTE": "1m", "TEAM": "s3cr3t-team"}

EXAMPLE = """
interval: 15s
timeout: 5s
labels: {env: prod}
metrics: {level: standard}
server: {host: 0.0.0.0, port: 5004}
targets:
  - https://example.com/
  - url: https://api.example.com/v1/health
    labels: {name: api, team: payments}
    interval: 30s
    request:
      method: POST
      headers: {Accept: application/json}
      body: '{"ping": true}'
      basic_auth: {username: probe, password: "${API_PASSWORD}"}
      follow_redirects: true
      max_redirects: 10
    tls: {verify: true, ca_file: ca.pem, server_name: api.internal}
    expect:
      status: [200-299, 304, 5xx]
    limits: {headers: 64KiB, body: 10MB}
  - url: https://api.example.com/v1/upload?api_key=k
    request: {method: PUT, body_file: body.json, bearer_token_file: token}
    limits: {body: 2048}
"""


def write(folder: Path, text: str | bytes, name: str = "monitor.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(folder: Path, text: str | bytes, **environ: str) -> Config:
    return load(write(folder, text), environ)


def faults(folder: Path, text: str | bytes, **environ: str) -> str:
    with pytest.raises(ConfigError) as error:
        read(folder, text, **environ)
    return str(error.value).replace(f"{folder}/", "")


@pytest.fixture
def example_folder(tmp_path: Path) -> Path:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    write(tmp_path, "{}", "body.json")
    write(tmp_path, "a-token\n", "token")
    return tmp_path


# Files that are refused


@pytest.mark.parametrize("name", sorted(path.stem for path in BAD.glob("*.yaml")))
def test_bad_file_is_refused_with_all_its_faults(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fault of a file is one line that begins with file, line and key path."""
    monkeypatch.chdir(BAD)
    with pytest.raises(ConfigError) as error:
        load(Path(f"{name}.yaml"), ENVIRON)
    assert f"{error.value}\n" == (BAD / f"{name}.txt").read_text()
    assert "s3cr3t" not in str(error.value)


def test_every_expected_message_has_its_file() -> None:
    """No expectation is left over from a file that is gone."""
    assert {path.stem for path in BAD.glob("*.txt")} == {path.stem for path in BAD.glob("*.yaml")}


def test_fault_names_file_line_and_key_path(tmp_path: Path) -> None:
    """A program that reads the faults gets the same four facts that the printed line shows."""
    path = write(tmp_path, "interval: 15s\nserver:\n  port: x\n")
    with pytest.raises(ConfigError) as error:
        load(path, {})
    message = "expected a whole number from 0 to 65535, got 'x'"
    assert error.value.faults == (Fault(str(path), 3, "server.port", message),)
    assert str(error.value) == f"{path}:3 server.port: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"interval: 15s\nlabels: {env: \xff}\n", "monitor.yaml:2: expected UTF-8 text"),
        (b"interval: 15s\nlabels: {env: \xed\xa0\x80}\n", "monitor.yaml:2: expected UTF-8 text"),
        ("interval: 15s\n".encode("utf-16"), "monitor.yaml:1: expected UTF-8 text"),
        (b"interval: 15s\n\nlabels: {env: a\0b}\n", "monitor.yaml:3: not valid YAML: control character '\\x00'"),
        (b"# " + b"x" * 8 * 1024 * 1024, "monitor.yaml: must be at most 8MiB"),
        (b"targets: " + b"[" * 40_000, "monitor.yaml:1: nested deeper than 32 levels"),
        (b"targets: " + b"{a: " * 40_000, "monitor.yaml:1: nested deeper than 32 levels"),
        (b"? " + b"[" * 40_000, "monitor.yaml:1: nested deeper than 32 levels"),
        (
            b'labels: {env: "\\ud800"}\n',
            "monitor.yaml:1: not valid YAML: found invalid Unicode character escape code while parsing a quoted scalar",
        ),
    ],
)
def test_file_that_is_no_text_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    """A file that cannot be YAML at all gives one clean fault."""
    assert faults(tmp_path, content) == message


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file or a directory is a fault of the configuration, not a crash."""
    with pytest.raises(ConfigError, match=r"monitor.yaml: cannot read: No such file or directory$"):
        load(tmp_path / "monitor.yaml", {})
    with pytest.raises(ConfigError, match=r"cannot read: Is a directory$"):
        load(tmp_path, {})


def test_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A token file that is a named pipe is refused at once: nobody may ever write into it."""
    os.mkfifo(tmp_path / "pipe")
    text = "targets:\n  - {url: 'https://example.com/', request: {bearer_token_file: pipe}}\n"
    message = "monitor.yaml:2 targets[0].request.bearer_token_file: cannot read pipe: not a regular file"
    assert faults(tmp_path, text) == message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_file_without_permission_is_refused(tmp_path: Path) -> None:
    """A secret that the service may not read is found when the configuration is loaded."""
    write(tmp_path, "a-token", "token").chmod(stat.S_IWUSR)
    text = "targets:\n  - {url: 'https://example.com/', request: {bearer_token_file: token}}\n"
    message = "monitor.yaml:2 targets[0].request.bearer_token_file: cannot read token: Permission denied"
    assert faults(tmp_path, text) == message


def test_secret_of_unlikely_size_is_refused(tmp_path: Path) -> None:
    """A path that points at something large instead of a secret is found when the configuration is loaded."""
    write(tmp_path, "x" * 65537, "token")
    text = "targets:\n  - {url: 'https://example.com/', request: {bearer_token_file: token}}\n"
    message = "monitor.yaml:2 targets[0].request.bearer_token_file: token is larger than 64KiB"
    assert faults(tmp_path, text) == message


def test_variable_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A variable with bytes that are not UTF-8 is refused by its name."""
    message = "monitor.yaml:1 labels.env: environment variable ENV is not valid UTF-8"
    assert faults(tmp_path, "labels: {env: '${ENV}'}\n", ENV="\udcff") == message


def test_long_text_is_shortened_in_a_message(tmp_path: Path) -> None:
    """A message stays one readable line whatever the file holds."""
    shown = "x" * 79 + "…"
    message = f"monitor.yaml:1 interval: expected a duration such as 15s, got '{shown}'"
    assert faults(tmp_path, f"interval: {'x' * 500}\n") == message


def test_every_key_that_is_planned_is_refused_by_name(tmp_path: Path) -> None:
    """A key of a later version is not called unknown."""
    text = (BAD / "not-supported-yet.yaml").read_text()
    found = re.findall(r"([a-z0-9_]+): not supported yet", faults(tmp_path, text))
    assert sorted(found) == sorted(key for keys in NOT_SUPPORTED_YET.values() for key in keys)


# Files that are accepted


def test_whole_file_becomes_complete_targets(example_folder: Path) -> None:
    """Every supported key arrives where it belongs, with the defaults merged into each target."""
    config = read(example_folder, EXAMPLE, API_PASSWORD="s3cr3t")
    bare = Target(
        url="https://example.com/",
        display_url="https://example.com/",
        labels=(("env", "prod"),),
        interval=15.0,
        timeout=5.0,
    )
    api = Target(
        url="https://api.example.com/v1/health",
        display_url="https://api.example.com/v1/health",
        labels=(("env", "prod"), ("name", "api"), ("team", "payments")),
        interval=30.0,
        timeout=5.0,
        request=Request(
            method="POST",
            headers=(("Accept", "application/json"),),
            body=b'{"ping": true}',
            auth=BasicAuth(username="probe", password="s3cr3t"),
        ),
        tls=Tls(verify=True, ca_file=example_folder / "ca.pem", server_name="api.internal"),
        expect=Expect(status=((200, 299), (304, 304), (500, 599))),
        limits=Limits(headers=65536, body=10_000_000),
    )
    upload = dataclasses.replace(
        bare,
        url="https://api.example.com/v1/upload?api_key=k",
        display_url="https://api.example.com/v1/upload?api_key=REDACTED",
        request=Request(
            method="PUT", body_file=example_folder / "body.json", auth=BearerToken(file=example_folder / "token")
        ),
        limits=Limits(body=2048),
    )
    assert config == Config(
        targets=(bare, api, upload), metrics_level=MetricsLevel.STANDARD, host="0.0.0.0", port=5004, warnings=()
    )


@pytest.mark.parametrize(
    "text", ["", "# nothing yet\n", "---\n", "{}", "~", "targets:\n", "targets: []\nlabels:\nserver:\n"]
)
def test_file_without_targets_is_allowed_with_a_warning(tmp_path: Path, text: str) -> None:
    """An empty file starts a monitor that probes nothing and says so."""
    path = write(tmp_path, text)
    warnings = (f"{path}: no targets, nothing is probed",)
    assert load(path, {}) == Config(host="0.0.0.0", port=5004, warnings=warnings)


def test_text_stays_as_it_was_written(tmp_path: Path) -> None:
    """YAML's own ideas about no, 1:30, 007 and 1e3 change no label."""
    text = 'labels: {a: no, b: 1:30, c: 007, d: 1e3, e: true, f: 2024-01-01, g: "~", h: 0x10}\n'
    config = read(tmp_path, text + "targets: ['https://example.com/']\n")
    expected = ["no", "1:30", "007", "1e3", "true", "2024-01-01", "~", "0x10"]
    assert config.targets[0].labels == tuple(zip("abcdefgh", expected, strict=True))


def test_numbers_and_booleans_may_be_quoted(tmp_path: Path) -> None:
    """Quotes make no difference, so a variable can stand for a number or a boolean."""
    text = """
server: {port: "5005"}
metrics: {level: "${LEVEL}"}
interval: ${INTERVAL}
targets:
  - url: https://example.com/
    request: {follow_redirects: "${FOLLOW}", max_redirects: '3'}
    tls: {verify: FALSE}
    limits: {body: "1024"}
    expect: {status: ["200", "${STATUS}"]}
"""
    config = read(tmp_path, text, LEVEL="full", INTERVAL="1m", FOLLOW="False", STATUS="4XX")
    target = config.targets[0]
    assert (config.port, config.metrics_level, target.interval) == (5005, MetricsLevel.FULL, 60.0)
    assert target.request == Request(follow_redirects=False, max_redirects=3)
    assert target.tls == Tls(verify=False)
    assert target.limits == Limits(body=1024)
    assert target.expect == Expect(status=((200, 200), (400, 499)))


def test_variables_are_taken_from_the_environment(tmp_path: Path) -> None:
    """`${VAR}` is replaced once, `$${` is a literal `${`, every other dollar sign stays."""
    text = """
labels:
  a: ${A}
  b: x${A}-${A}y
  c: "$${A}"
  d: $A $ $$
  e: ${EMPTY}
  f: $$${A}
targets: ["https://${HOST}/"]
"""
    target = read(tmp_path, text, A="<${A}>", EMPTY="", HOST="example.com").targets[0]
    assert target.url == "https://example.com/"
    assert dict(target.labels) == {"a": "<${A}>", "b": "x<${A}>-<${A}>y", "c": "${A}", "d": "$A $ $$", "f": "$${A}"}


@pytest.mark.parametrize(
    ("text", "interval", "timeout"),
    [
        ("targets: ['https://a/']", 15.0, 5.0),
        ("interval: 5s\ntargets: ['https://a/']", 5.0, 4.0),
        ("interval: 1ms\ntargets: ['https://a/']", 0.001, 0.001),
        ("timeout: 15s\ntargets: ['https://a/']", 15.0, 15.0),
        ("interval: 1m\ntimeout: 20s\ntargets: ['https://a/']", 60.0, 20.0),
        ("interval: 1m\ntargets: [{url: 'https://a/', interval: 2s}]", 2.0, 1.6),
        ("timeout: 2s\ntargets: [{url: 'https://a/', interval: 2s}]", 2.0, 2.0),
        ("timeout: 2s\ntargets: [{url: 'https://a/', interval: 30s, timeout: 30s}]", 30.0, 30.0),
        ("interval: 2s\ntargets: [{url: 'https://a/', interval: 1h}]", 3600.0, 5.0),
    ],
)
def test_timeout_follows_the_interval(tmp_path: Path, text: str, interval: float, timeout: float) -> None:
    """A timeout that is not given is 5 s or 0.8 of the target's interval, whichever is less."""
    target = read(tmp_path, text).targets[0]
    assert (target.interval, target.timeout) == (interval, pytest.approx(timeout))


def test_own_labels_go_before_common_ones(tmp_path: Path) -> None:
    """A target can replace a common label, and drop it with an empty value."""
    text = "labels: {env: prod, zone: a}\ntargets: [{url: 'https://a/', labels: {env: test, zone: '', app: x}}]\n"
    assert read(tmp_path, text).targets[0].labels == (("app", "x"), ("env", "test"))


def test_same_url_with_other_labels_is_another_target(tmp_path: Path) -> None:
    """One URL can be probed in two ways when a label tells the two apart."""
    text = (
        "targets:\n  - https://a/\n  - {url: 'https://a/', labels: {name: post}, request: {method: POST, body: ''}}\n"
    )
    config = read(tmp_path, text)
    assert [target.request.body for target in config.targets] == [None, b""]


def test_body_keeps_its_lines(tmp_path: Path) -> None:
    """A body may have line breaks and tabs, and is sent as UTF-8."""
    text = "targets:\n  - url: https://a/\n    request:\n      method: POST\n      body: |\n        a\tb\n        é\n"
    assert read(tmp_path, text).targets[0].request.body == "a\tb\né\n".encode()


def test_paths_start_at_the_configuration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths mean the same wherever the service is started, and absolute ones are kept."""
    (tmp_path / "secrets").mkdir()
    write(tmp_path, "a-token", "secrets/api")
    text = """
targets:
  - {url: 'https://a/', request: {bearer_token_file: secrets/api}}
  - {url: 'https://b/', request: {bearer_token_file: '%s/secrets/api'}}
"""
    write(tmp_path, text % tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    config = load(Path(tmp_path.name) / "monitor.yaml", {})
    token = BearerToken(file=tmp_path / "secrets" / "api")
    assert [target.request.auth for target in config.targets] == [token, token]


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "HTTPS://Example.com:8443/a/b?c=d",
        "https://[2001:db8::1]:443/",
        "http://10.0.0.1:65535/",
        "https://bücher.example/",
        "https://a_b.example./é?q={x}",
    ],
)
def test_url_is_requested_as_written(url: str) -> None:
    """No part of a sound URL is rewritten, but its fragment is dropped."""
    assert from_urls([f"{url}#top"]).targets[0].url == url


def test_five_thousand_targets_load_quickly(tmp_path: Path) -> None:
    """A large fleet starts in seconds (measured: 1 s for these on two cores; the bound is for a busy machine)."""
    entry = """
  - url: https://host-{0}.example.com/health
    labels: {{name: host-{0}, team: payments}}
    interval: 30s
    request: {{method: POST, headers: {{Accept: application/json}}, body: ping}}
    expect: {{status: [200-299, 304]}}
"""
    path = write(tmp_path, "targets:" + "".join(entry.format(number) for number in range(5000)))
    start = time.perf_counter()
    assert len(load(path, {}).targets) == 5000
    assert time.perf_counter() - start < 10


# URLs on the command line


def test_urls_alone_are_a_configuration() -> None:
    """The URLs of a command line get every default, and nothing in them is expanded."""
    config = from_urls(["https://a.example/?token=x", "https://b.example/${HOME}"])
    targets = (
        Target(url="https://a.example/?token=x", display_url="https://a.example/?token=REDACTED"),
        Target(url="https://b.example/${HOME}", display_url="https://b.example/${HOME}"),
    )
    assert config == Config(targets=targets, host="0.0.0.0", port=5004)


def test_bad_urls_are_named_by_their_argument() -> None:
    """On the command line the place of a fault is the number of the URL."""
    with pytest.raises(ConfigError) as error:
        from_urls(["example.com", "https://b/", "https://u:s3cr3t@c/", "https://b/", "https://d/\udcff"])
    assert str(error.value).splitlines() == [
        "argument 1: a URL begins with http:// or https://, did you mean 'https://example.com'?",
        "argument 3: a URL has no user:password@ here; use request.basic_auth",
        "argument 5: a URL has no spaces and no control characters",
        "argument 4: same URL (secrets masked) and labels as argument 2",
    ]


def test_no_urls_are_allowed_with_a_warning() -> None:
    """No URLs at all is said, not refused."""
    assert from_urls([]).warnings == ("command line: no targets, nothing is probed",)


def test_levels_include_the_smaller_ones() -> None:
    """A metric of a smaller level is exposed at every larger one."""
    included = {level: [str(other) for other in MetricsLevel if level.includes(other)] for level in MetricsLevel}
    assert included == {"minimal": ["minimal"], "standard": ["minimal", "standard"], "full": list(MetricsLevel)}


# JSON Schema and reference


def accepts(schema: dict[str, Any], value: object, root: dict[str, Any]) -> bool:
    """As much of JSON Schema as ours uses; an unknown keyword fails the test that meets it."""
    return all(keyword(schema, argument, value, root) for keyword, argument in keywords(schema))


def keywords(schema: dict[str, Any]) -> list[tuple[Any, Any]]:
    silent = {"description", "title", "$defs", "$schema"}
    return [(KEYWORDS[name], argument) for name, argument in schema.items() if name not in silent]


TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}


def is_type(name: str, value: object) -> bool:
    if name == "null" or value is None:
        return name == "null" and value is None
    return isinstance(value, TYPES[name]) and (not isinstance(value, bool) or name == "boolean")


def object_accepts(schema: dict[str, Any], rest: Any, value: object, root: dict[str, Any]) -> bool:
    if not isinstance(value, dict):
        return True
    others = [item for key, item in value.items() if key not in schema.get("properties", {})]
    return not others if rest is False else all(accepts(rest, item, root) for item in others)


KEYWORDS: dict[str, Any] = {
    "$ref": lambda s, a, v, r: accepts(r["$defs"][a.removeprefix("#/$defs/")], v, r),
    "anyOf": lambda s, a, v, r: any(accepts(one, v, r) for one in a),
    "type": lambda s, a, v, r: any(is_type(name, v) for name in ([a] if isinstance(a, str) else a)),
    "enum": lambda s, a, v, r: v in a,
    "pattern": lambda s, a, v, r: not isinstance(v, str) or re.search(a, v) is not None,
    "minimum": lambda s, a, v, r: not is_type("number", v) or v >= a,
    "maximum": lambda s, a, v, r: not is_type("number", v) or v <= a,
    "minItems": lambda s, a, v, r: not isinstance(v, list) or len(v) >= a,
    "items": lambda s, a, v, r: not isinstance(v, list) or all(accepts(a, item, r) for item in v),
    "required": lambda s, a, v, r: not isinstance(v, dict) or set(a) <= set(v),
    "properties": lambda s, a, v, r: not isinstance(v, dict) or all(accepts(a[k], v[k], r) for k in a if k in v),
    "propertyNames": lambda s, a, v, r: not isinstance(v, dict) or all(accepts(a, key, r) for key in v),
    "additionalProperties": object_accepts,
}


def schema_accepts(text: str) -> bool:
    schema = json_schema()
    return accepts(schema, yaml.safe_load(text), schema)


def schema_keys(node: object) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(schema_keys, node))
    if not isinstance(node, dict):
        return set()
    return set(node.get("properties", {})).union(*map(schema_keys, node.values()))


@pytest.mark.parametrize(
    "text",
    [
        EXAMPLE,
        "",
        "targets:\nlabels:\nmetrics:\n",
        "labels: {a: 5, b: true, c: 1.5, d: text}\nserver: {port: '5004'}\ninterval: ${INTERVAL}\n",
        "metrics: {level: '${LEVEL}'}\ntargets: ['${URL}', {url: '${URL}', interval: 1h30m, tls: {verify: '${V}'}}]\n",
        "targets: [{url: 'HTTP://a', limits: {headers: 1024, body: 10kB}, expect: {status: [2xx, 304, '${S}']}}]\n",
        "targets: [{url: 'http://a', request: {basic_auth: {username: 5, password: 12}}}]\n",
    ],
)
def test_schema_accepts_what_the_monitor_accepts(text: str) -> None:
    """An editor does not underline a sound file."""
    assert schema_accepts(text)


@pytest.mark.parametrize(
    "text",
    [
        "intervall: 15s",
        "interval: 15",
        "interval: ''",
        "[]",
        "server: {port: 65536}",
        "metrics: {level: all}",
        "labels: {url: a}",
        "labels: {__a: a}",
        "labels: {a: [b]}",
        "targets: [ftp://a]",
        "targets: [{interval: 15s}]",
        "targets: [{url: 'https://a', request: {headers: {'a b': c}}}]",
        "targets: [{url: 'https://a', request: {basic_auth: {password: a}}}]",
        "targets: [{url: 'https://a', expect: {status: []}}]",
        "targets: [{url: 'https://a', network: {}}]",
        "discovery: {}",
    ],
)
def test_schema_refuses_what_the_monitor_refuses(text: str) -> None:
    """An editor underlines a mistake before the file is deployed."""
    assert not schema_accepts(text)


def test_schema_is_closed_and_describes_every_key() -> None:
    """Every mapping refuses unknown keys, and every key says what it does."""
    schema = json_schema()
    sections = [schema, *schema["$defs"].values()]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert all(section["additionalProperties"] is False and section["description"] for section in sections)
    leaves = [leaf for section in sections for leaf in section["properties"].values()]
    assert all("description" in leaf or "$ref" in json.dumps(leaf) for leaf in leaves)


def test_reference_mentions_every_key() -> None:
    """docs/configuration.md leaves out no key, neither of this version nor of a later one."""
    keys = schema_keys(json_schema()).union(*NOT_SUPPORTED_YET.values())
    documented = set(re.findall(r"[a-z0-9_]+", " ".join(re.findall(r"`([^`\n]+)`", DOCS.read_text()))))
    assert keys - documented == set()


def test_reference_example_is_a_sound_file(example_folder: Path) -> None:
    """The example that people copy from docs/configuration.md loads as it stands."""
    (example_folder / "secrets").mkdir()
    write(example_folder, "s3cr3t\n", "secrets/api")
    text = re.search(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert text
    assert len(read(example_folder, text[1], TEAM="payments").targets) == 3


def test_reference_shows_real_messages(tmp_path: Path) -> None:
    """The faults that docs/configuration.md prints are the ones of the file it shows."""
    shown = re.search(r"```yaml\n(# monitor.yaml with.*?)```.*?```text\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert shown
    assert faults(tmp_path, shown[1]) + "\n" == shown[2]


# Any file at all


def load_or_refuse(folder: Path, content: bytes) -> Config | ConfigError:
    try:
        return load(write(folder, content), {"A": "x"})
    except ConfigError as error:
        return error


def is_well_formed(answer: Config | ConfigError) -> bool:
    return isinstance(answer, Config) or len(str(answer).splitlines()) == len(answer.faults) > 0


@pytest.fixture(scope="module")
def any_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


@given(content=st.one_of(st.text().map(lambda text: text.encode(errors="surrogatepass")), st.binary()))
@example(content=b"!a &b")
@example(content=b"*a")
@example(content=b"? *a\n: b")
@example(content=b"- <<: *a")
@example(content=b"targets: [!x [a], *b, &c]")
@example(content=b'"a\\nb\\L": c')
def test_any_bytes_are_loaded_or_refused(any_folder: Path, content: bytes) -> None:
    """Whatever the file holds, the answer is a configuration or a list of faults, one line each."""
    assert is_well_formed(load_or_refuse(any_folder, content))


KEYS = st.one_of(st.sampled_from(sorted(schema_keys(json_schema()))), st.text(string.printable, max_size=5))
SCALARS = st.one_of(
    st.sampled_from(["https://a/", "15s", "5s", "POST", "true", "2xx", "64KiB", "${A}", "${B}", "a", "80"]),
    st.none(),
    st.text(max_size=5),
)
NODES = st.recursive(SCALARS, lambda nodes: st.lists(nodes, max_size=3) | st.dictionaries(KEYS, nodes, max_size=4))
TARGETS = st.dictionaries(KEYS, NODES, max_size=5).map(lambda target: {"url": "https://a/", **target})


@given(targets=st.lists(TARGETS | NODES, max_size=4), common=st.dictionaries(KEYS, NODES, max_size=4))
def test_any_mapping_is_loaded_or_refused(any_folder: Path, targets: list[Any], common: dict[str, Any]) -> None:
    """Known keys with any values in any place end in a configuration or in faults, and the schema agrees."""
    text = json.dumps({"targets": targets, **common})
    answer = load_or_refuse(any_folder, text.encode())
    assert is_well_formed(answer)
    assert isinstance(answer, ConfigError) or schema_accepts(text)


@given(milliseconds=st.integers(1, 365 * 86_400_000))
def test_durations_survive_being_written(milliseconds: int) -> None:
    """A duration that is printed can be copied back into the file."""
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("15s", 15.0), ("1m30s", 90.0), ("90s", 90.0), ("1h", 3600.0), ("2d", 172800.0), ("1w", 604800.0)],
)
def test_durations_are_those_of_prometheus(text: str, seconds: float) -> None:
    """A duration means here what it means in Prometheus."""
    assert parse_duration(text) == seconds
