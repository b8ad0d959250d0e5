"""The commands: what they print, where, and with which exit code."""

import json
import re
import signal

import pytest
from click.testing import CliRunner

from otel_url_monitor import __version__, catalogue
from otel_url_monitor.cli import main
from otel_url_monitor.config import json_schema
from otel_url_monitor.instruments import ROWS
from processes import run_command, running, site, wait_for, write_config

COMMANDS = ("check", "demo", "metrics", "run", "schema")


@pytest.fixture(autouse=True)
def signals():
    """`run` takes signals over before it looks at its arguments: give them back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, action in kept.items():
        signal.signal(number, action)


def invoke(*arguments, **env):
    return CliRunner().invoke(main, arguments, env=env, prog_name="otel-url-monitor")


def refused(*arguments, **env):
    """What is said on stderr when nothing is started."""
    ended = invoke(*arguments, **env)
    assert (ended.exit_code, ended.stdout) == (2, "")
    return ended.stderr


def usage_error(command, sentence):
    return (
        f"Usage: otel-url-monitor {command} [OPTIONS] [URL]...\n"
        f"Try 'otel-url-monitor {command} --help' for help.\n\nError: {sentence}\n"
    )


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Configuration files of every sort, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "good.yaml": "targets: [http://127.0.0.1:1/]\n",
        "two.yaml": "targets: [http://127.0.0.1:1/a, http://127.0.0.1:1/b]\n",
        "empty.yaml": "targets: []\n",
        "broken.yaml": "interval: 5s\ntargets: [\n  - x: }\n",
        "unknown.yaml": "intervall: 3s\ntargets:\n  - url: http://127.0.0.1:1/\n    timeout: soon\n",
        "secret.yaml": (
            "targets:\n  - url: http://127.0.0.1:1/\n"
            "    request: {basic_auth: {username: probe, password_file: secrets/api}}\n"
        ),
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


UNKNOWN = [
    "unknown.yaml:1 intervall: unknown key, did you mean 'interval'?",
    "unknown.yaml:4 targets[0].timeout: expected a duration such as 15s, got 'soon'",
]
SECRET = "secret.yaml:3 targets[0].request.basic_auth.password_file: cannot read secrets/api: No such file or directory"


# run


def test_run_needs_something_to_monitor():
    """Without URLs and file, `run` says in one sentence what to give it."""
    assert refused("run") == usage_error("run", "nothing to monitor: give URLs, or a configuration file with -c")


def test_run_takes_urls_or_a_file(files):
    """URLs beside `-c` would leave open which of the two is meant."""
    said = refused("run", "-c", "good.yaml", "http://127.0.0.1:1/")
    assert said == usage_error("run", "give URLs or a configuration file, not both")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--port", "65536"), "Invalid value for '--port': 65536 is not in the range 0<=x<=65535."),
        (("--port", "-1"), "Invalid value for '--port': -1 is not in the range 0<=x<=65535."),
        (("--workers", "0"), "Invalid value for '--workers': 0 is not in the range 1<=x<=64."),
        (
            ("--log-level", "loud"),
            "Invalid value for '--log-level': 'loud' is not one of 'debug', 'info', 'warning', 'error'.",
        ),
    ],
)
def test_run_refuses_values_out_of_range(arguments, sentence):
    """A port, a number of workers or a log level that cannot be is named with what can be."""
    assert refused("run", "http://127.0.0.1:1/", *arguments) == usage_error("run", sentence)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("unknown.yaml", UNKNOWN),
        ("secret.yaml", [SECRET]),
        ("missing.yaml", ["missing.yaml: cannot read: No such file or directory"]),
        (".", [".: cannot read: Is a directory"]),
    ],
)
def test_run_says_what_is_wrong_with_a_file(files, name, lines):
    """Each fault is one line that begins with its place, and nothing is started."""
    assert refused("run", "-c", name).splitlines() == lines


def test_run_says_where_a_file_is_not_yaml(files):
    """A file that cannot be parsed is one line with the number of the line to look at."""
    assert re.fullmatch(r"broken\.yaml:[23]: not valid YAML: .*\n", refused("run", "-c", "broken.yaml"))


def test_run_says_what_is_wrong_with_a_url():
    """A faulty URL is named by its place on the command line; a password in it is not repeated."""
    ended = run_command("run", "http://127.0.0.1:1/", "example.com", "http://me:s3cret@127.0.0.1/")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        "argument 2: a URL begins with http:// or https://, did you mean 'https://example.com'?",
        "argument 3: a URL has no user:password@ here; use request.basic_auth",
    ]


def test_the_environment_names_the_file(files):
    """`$OTEL_URL_MONITOR_CONFIG` stands in for `-c`."""
    env = {"OTEL_URL_MONITOR_CONFIG": "two.yaml"}
    with running("run", "--port", "0", env=env, cwd=files) as service:
        assert service.samples().get("url_monitor_targets") == 2
    said = refused("run", OTEL_URL_MONITOR_CONFIG="missing.yaml")
    assert said == "missing.yaml: cannot read: No such file or directory\n"


def test_what_is_on_the_command_line_overrides_the_environment(files):
    """URLs and `-c` win over `$OTEL_URL_MONITOR_CONFIG`, which may well be a file for something else."""
    env = {"OTEL_URL_MONITOR_CONFIG": "missing.yaml"}
    for arguments in (("http://127.0.0.1:1/",), ("-c", "good.yaml")):
        with running("run", *arguments, "--port", "0", env=env, cwd=files) as service:
            assert service.samples().get("url_monitor_targets") == 1


def test_options_override_the_file(tmp_path):
    """`--host` and `--port` win over the file's `server`."""
    config = write_config(tmp_path, ["http://127.0.0.1:1/"], server="{host: 192.0.2.1, port: 1}")
    with running("run", "-c", str(config), "--host", "127.0.0.1", "--port", "0") as service:
        assert service.get("/-/ready") == (200, "ready\n")


def test_every_level_of_the_file_reaches_the_metrics(tmp_path):
    """`metrics.level` decides what is exposed: minimal leaves the phases out, full adds the timeout."""
    expected = {"minimal": (False, False), "standard": (True, False), "full": (True, True)}
    with site() as target:
        for level, exposed in expected.items():
            config = write_config(tmp_path, [target.url], interval="200ms", metrics=f"{{level: {level}}}")
            with running("run", "-c", str(config), "--port", "0") as service:
                samples = service.wait_for_sample("probe_success", 1, url=f"{target.url}")
                names = {name for name, _ in samples.by_series}
                assert ("probe_http_duration_seconds" in names, "probe_timeout_seconds" in names) == exposed


def test_warnings_are_part_of_the_log(files):
    """A file without targets is run, and the log says in its own form that nothing is probed."""
    with running("run", "-c", "empty.yaml", "--port", "0", cwd=files) as service:
        assert service.get("/-/healthy") == (200, "healthy\n")
        first = json.loads(service.log.splitlines()[0])
        assert (first["level"], first["message"]) == ("warning", "empty.yaml: no targets, nothing is probed")
        service.end(signal.SIGTERM)
        service.assert_ended_well()


def test_the_log_level_decides_what_is_said(tmp_path):
    """At `--log-level debug` there is a line for each probe; at `warning` not even the start is one."""
    with site() as target:
        arguments = ("run", "-c", str(write_config(tmp_path, [target.url], interval="200ms")), "--port", "0")
        with running(*arguments, "--log-level", "debug") as service:
            words = f"{target.url}: success"
            wait_for(lambda: [json.loads(line)["message"] for line in service.log.splitlines()].count(words) > 2, words)
        with running(*arguments, "--log-level", "warning") as service:
            hits = target.hits.total()
            wait_for(lambda: target.hits.total() > hits + 2, "probes")
            service.end(signal.SIGTERM)
            assert service.log == ""


# check


def test_check_accepts_good_files(files):
    """Each file without faults is a line on stdout; warnings go to stderr."""
    ended = invoke("check", "good.yaml", "two.yaml", "empty.yaml")
    assert ended.exit_code == 0
    assert ended.stdout.splitlines() == [
        "good.yaml: 1 target, no faults",
        "two.yaml: 2 targets, no faults",
        "empty.yaml: 0 targets, no faults",
    ]
    assert ended.stderr == "warning: empty.yaml: no targets, nothing is probed\n"


def test_check_says_all_faults_of_all_files(files):
    """Every fault of every file is said at once, one line each, and the exit code is 2."""
    ended = invoke("check", "unknown.yaml", "good.yaml", "secret.yaml", "missing.yaml")
    assert ended.exit_code == 2
    assert ended.stdout == "good.yaml: 1 target, no faults\n"
    assert ended.stderr.splitlines() == [
        *UNKNOWN,
        SECRET,
        "missing.yaml: cannot read: No such file or directory",
    ]


def test_check_speaks_json(files):
    """`--format json` is a list of objects with file, line, path and message; empty when all is well."""
    ended = invoke("check", "--format", "json", "unknown.yaml", "missing.yaml", "good.yaml")
    assert (ended.exit_code, ended.stderr) == (2, "")
    assert json.loads(ended.stdout) == [
        {
            "file": "unknown.yaml",
            "line": 1,
            "path": "intervall",
            "message": "unknown key, did you mean 'interval'?",
        },
        {
            "file": "unknown.yaml",
            "line": 4,
            "path": "targets[0].timeout",
            "message": "expected a duration such as 15s, got 'soon'",
        },
        {"file": "missing.yaml", "line": None, "path": "", "message": "cannot read: No such file or directory"},
    ]
    ended = invoke("check", "--format", "json", "good.yaml")
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "[]\n", "")


def test_check_needs_a_file():
    """Without a file to check there is nothing to be well."""
    ended = invoke("check")
    assert ended.exit_code == 2
    assert "Missing argument 'FILE...'" in ended.stderr


def test_names_of_files_are_shown_as_they_are(files):
    """Brackets that a terminal library would take for markup, and bytes that are no text, do not hurt."""
    (files / "[bold]odd.yaml").write_text("x: 1\n")
    ended = invoke("check", "[bold]odd.yaml")
    assert ended.stderr.startswith("[bold]odd.yaml:1 x: unknown key")
    (files / "bytes\udcff.yaml").write_text("targets: [http://127.0.0.1:1/]\n")
    ended = run_command("check", "bytes\udcff.yaml", cwd=files, env={"PYTHONIOENCODING": "utf-8:strict"})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "bytes\ufffd.yaml: 1 target, no faults\n", "")


# The rest


def test_schema_is_the_json_schema_of_the_file():
    """`schema` prints JSON that an editor can use."""
    ended = invoke("schema")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert json.loads(ended.stdout) == json_schema()


def test_metrics_is_the_catalogue():
    """`metrics` prints the catalogue, as Markdown or as JSON, with every instrument in it."""
    ended = invoke("metrics")
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, catalogue.as_markdown(), "")
    ended = invoke("metrics", "--format", "json")
    assert (ended.exit_code, ended.stdout) == (0, catalogue.as_json())
    assert [entry["name"] for entry in json.loads(ended.stdout)] == [row.exposed for row in ROWS]


def test_the_version_is_ours():
    """`--version` prints name and version, however the program was started."""
    assert run_command("--version").stdout == f"otel-url-monitor, version {__version__}\n"


@pytest.mark.parametrize("arguments", [("-h",), ("--help",), *((command, "-h") for command in COMMANDS)])
def test_help_is_everywhere(arguments):
    """`-h` and `--help` work on the program and on every command, and say in a sentence what it does."""
    ended = invoke(*arguments)
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert ended.stdout.startswith("Usage: ")
    assert ended.stdout.splitlines()[2].strip()


def test_help_names_every_command():
    """The program's help lists the commands there are."""
    listing = invoke("-h").stdout.partition("Commands:\n")[2]
    assert (
        tuple(line.split()[0] for line in listing.splitlines() if line.startswith("  ") and line[2] != " ") == COMMANDS
    )
