"""Alerts, recording rules, dashboards and the example for Prometheus: sound, documented, true of a real exposition."""

import contextlib
import importlib.util
import json
import re
import shutil
import subprocess
import time
import urllib.parse
from pathlib import Path

import pytest
import yaml

from chart import CHART, Objects, fault
from otel_url_monitor.instruments import ROWS
from processes import free_port, get, require_tool, running, running_command, wait_for, write_config

promql = pytest.importorskip("promql_parser")

ROOT = Path(__file__).parent.parent
MONITORING = ROOT / "monitoring"
RULE_TESTS = sorted((ROOT / "tests" / "rules").glob("*.yaml"))
OPERATIONS = ROOT / "docs" / "operations.md"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())["prometheusRule"]
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in (CHART / "files" / "dashboards").glob("*.json")}
SUFFIXES = ("_bucket", "_sum", "_count")

every_dashboard = pytest.mark.parametrize("name", sorted(DASHBOARDS))


def groups(**rule):
    """The rules that the chart makes of `prometheusRule`."""
    return Objects({"prometheusRule": {"enabled": True, **rule}}).one("PrometheusRule")["spec"]["groups"]


@pytest.fixture(scope="module")
def rules():
    """Every rule of the chart with its default thresholds."""
    return [rule for group in groups() for rule in group["rules"]]


@pytest.fixture(scope="module")
def alerts(rules):
    return {rule["alert"]: rule for rule in rules if "alert" in rule}


def promtool(*arguments, cwd=None):
    """What promtool says."""
    program = require_tool("promtool")
    ended = subprocess.run((program, *arguments), cwd=cwd, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def slug(heading):
    """A heading's anchor on the usual Markdown hosts."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def selectors(expression):
    """The series selectors in PromQL, which is parsed for it."""
    found = []

    def visit(node):
        if isinstance(node, promql.VectorSelector):
            found.append(node)

    promql.walk(promql.parse(expression), visit)
    return found


def names(expression):
    """The metrics that PromQL asks for."""
    found = {selector.name for selector in selectors(expression)}
    assert None not in found, expression
    return found


def catalogue():
    """Every name that an exposition of ours may have."""
    histograms = (row.exposed for row in ROWS if row.kind == "histogram")
    return {row.exposed for row in ROWS} | {name + suffix for name in histograms for suffix in SUFFIXES}


def test_plain_rules_are_the_charts():
    """monitoring/rules is what render.py makes of the chart's rules, and says what the rendered chart says."""
    charts = groups()
    spec = importlib.util.spec_from_file_location("render", MONITORING / "render.py")
    render = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render)
    files = {path.name: path.read_text() for path in (MONITORING / "rules").iterdir()}
    assert files == render.render(), "run python monitoring/render.py"
    plain = [group for name in sorted(files) for group in yaml.safe_load(files[name])["groups"]]
    assert plain == charts


def test_promtool_finds_no_fault_in_the_rules(tmp_path):
    """What the rendered chart contains passes every lint."""
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": groups()}))
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(path))


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_rules_fire_and_are_silent(path, tmp_path):
    """The scenarios of tests/rules hold for what the rendered chart contains."""
    (tmp_path / "tests" / "rules").mkdir(parents=True)
    (tmp_path / "monitoring" / "rules").mkdir(parents=True)
    shutil.copy(path, tmp_path / "tests" / "rules")
    (tmp_path / "monitoring" / "rules" / path.name).write_text(yaml.safe_dump({"groups": groups()}))
    promtool("test", "rules", path.name, cwd=tmp_path / "tests" / "rules")


def test_every_alert_is_seen_firing_and_silent(alerts):
    """No alert without a scenario of each kind; silence counts when the alert's series are there."""
    firing, silent = set(), set()
    for path in RULE_TESTS:
        for scenario in yaml.safe_load(path.read_text())["tests"]:
            given = {re.match(r"\w+", series["series"])[0] for series in scenario["input_series"]}
            for case in scenario.get("alert_rule_test", ()):
                name = case["alertname"]
                if case.get("exp_alerts"):
                    firing.add(name)
                elif any(asked in given or ":" in asked for asked in names(alerts[name]["expr"])):
                    silent.add(name)
    assert firing == set(alerts)
    assert silent == set(alerts)


def test_alerts_say_what_and_how_bad(alerts):
    """Each has a name of ours, a severity, a constant summary, a description and a section of operations.md."""
    headings = {slug(line.lstrip("# ")) for line in OPERATIONS.read_text().splitlines() if line.startswith("#")}
    for name, alert in alerts.items():
        assert re.fullmatch(r"UrlMonitor([A-Z][a-z]+)+", name)
        assert set(alert["labels"]) == {"severity"}
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert re.fullmatch(r"[A-Z][^{}]*\.", alert["annotations"]["summary"])
        assert alert["annotations"]["description"].endswith(".")
        page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert page == "docs/operations.md"
        assert anchor == slug(name)
        assert anchor in headings


def test_operations_lists_every_alert(alerts):
    """The table in operations.md has each alert with its severity, and no other."""
    rows = re.findall(r"^\| \[(UrlMonitor\w+)\]\(#(\w+)\) \| (\w+) \|", OPERATIONS.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted((name, slug(name), alert["labels"]["severity"]) for name, alert in alerts.items())


def test_rules_ask_for_what_there_is(rules):
    """Every metric in a rule is in the catalogue, recorded by a rule, or Prometheus' own."""
    known = catalogue() | {rule["record"] for rule in rules if "record" in rule} | {"up"}
    assert {name for rule in rules for name in names(rule["expr"])} - known == set()


def test_rules_leave_other_exporters_alone(rules):
    """blackbox_exporter has series of the same names, without `url`, on the same Prometheus."""
    shared = [each for rule in rules for each in selectors(rule["expr"]) if each.name.startswith("probe_")]
    assert shared
    for selector in shared:
        assert 'url!=""' in str(selector)


@pytest.mark.parametrize("threshold", VALUES["thresholds"])
def test_each_threshold_moves_a_rule(threshold):
    """Every number in the values is one that a rule has."""
    default = VALUES["thresholds"][threshold]
    other = "17m" if isinstance(default, str) else default + 17 if default >= 1 or default == 0 else default / 2
    assert groups(thresholds={threshold: other}) != groups()


def test_runbooks_may_be_elsewhere():
    """`runbookUrl` goes before the anchor."""
    made = [rule for group in groups(runbookUrl="https://wiki.example/x") for rule in group["rules"] if "alert" in rule]
    assert {rule["annotations"]["runbook_url"].partition("#")[0] for rule in made} == {"https://wiki.example/x"}


def test_an_unknown_threshold_is_refused():
    """A misspelt threshold is a fault, not a default."""
    assert "downAfter" in fault({"prometheusRule": {"thresholds": {"downAfter": "1m"}}})


def panels(name):
    return [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]


def targets(name):
    return [(panel, target) for panel in panels(name) for target in panel["targets"]]


def in_prometheus(expression, url=""):
    """A dashboard's query as Grafana would send it."""
    variables = {"$__rate_interval": "1m", "$__range": "5m", "$job": ".+", "$url": url}
    for variable, value in variables.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


def queries(name, url=""):
    """Every query of a dashboard, those of annotations and variables too."""
    dashboard = DASHBOARDS[name]
    found = [target["expr"] for _, target in targets(name)]
    found += [each["expr"] for each in dashboard["annotations"]["list"] if "expr" in each]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found += [re.fullmatch(r"label_values\((.*), \w+\)", variable["query"])[1]]
    return [in_prometheus(each, url) for each in found]


@every_dashboard
def test_dashboard_is_well_made(name):
    """Ids are unique, rows fill the width, and nothing overlaps; the uid never changes, for links lead to it."""
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == f"url-monitor-{name}"
    assert {"title", "schemaVersion", "time", "templating", "annotations", "panels", "links"} <= set(dashboard)
    assert "id" not in dashboard
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    cells = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        taken = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        cells |= taken
    assert len(cells) == 24 * (1 + max(y for _, y in cells))


@every_dashboard
def test_dashboard_takes_any_prometheus(name):
    """The data source is a variable wherever one is named."""
    dashboard = DASHBOARDS[name]
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    sources = {json.dumps(panel["datasource"]) for panel in panels(name)}
    sources |= {json.dumps(target["datasource"]) for _, target in targets(name)}
    sources |= {json.dumps(each["datasource"]) for each in dashboard["templating"]["list"][1:]}
    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}


@every_dashboard
def test_dashboard_asks_for_what_there_is(name, rules):
    """Every query parses, and every metric in it is in the catalogue or recorded by a rule of ours."""
    known = catalogue() | {rule["record"] for rule in rules if "record" in rule} | {"ALERTS"}
    assert {metric for query in queries(name) for metric in names(query)} - known == set()


@every_dashboard
def test_dashboard_rates_fit_any_scrape_interval(name):
    """Windows are Grafana's own: a rate over a fixed one is empty with a longer scrape interval."""
    windows = {window for _, target in targets(name) for window in re.findall(r"\[([^\]]+)\]", target["expr"])}
    assert windows <= {"$__rate_interval", "$__range"}
    for _, target in targets(name):
        assert not re.search(r"\brate\([^\]]*\[\$__range\]", target["expr"])


@every_dashboard
def test_dashboard_leaves_other_exporters_alone(name):
    """blackbox_exporter's names are asked for with a URL, and everything with the chosen job."""
    for _, target in targets(name):
        for selector in selectors(in_prometheus(target["expr"], "x")):
            assert "job=~" in str(selector)
            assert not selector.name.startswith("probe_") or "url" in str(selector)


def test_latency_shows_exemplars():
    """What shows the histogram shows the traces in its buckets."""
    shown = [target for _, target in targets("target") if "latency_seconds_bucket" in target["expr"]]
    assert len(shown) == 4
    assert all(target["exemplar"] for target in shown)


def test_phases_are_stacked_in_the_order_of_a_probe():
    """The time of a probe, from the name's lookup to the last byte."""
    (panel,) = (each for each in panels("target") if each["title"] == "Phases")
    assert panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    shown = [target["legendFormat"] for target in panel["targets"]]
    assert shown == ["resolve", "connect", "tls", "processing", "transfer"]


def test_dashboards_lead_to_each_other():
    """Both are in each other's list, and a URL among all targets leads to its own page."""
    for dashboard in DASHBOARDS.values():
        assert [link["tags"] for link in dashboard["links"]] == [dashboard["tags"]]
    links = re.findall(r"/d/([\w-]+)/[^\"]*var-url=", json.dumps(DASHBOARDS["fleet"]))
    assert links == [DASHBOARDS["target"]["uid"]] * 3


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """Asks a Prometheus with our example configuration and rules, which scrapes the demo and a full exposition."""
    program = require_tool("prometheus")
    folder = tmp_path_factory.mktemp("monitoring")
    (folder / "rules").mkdir()
    for path in (MONITORING / "rules").iterdir():
        # A test cannot wait two minutes for the long windows.
        (folder / "rules" / path.name).write_text(path.read_text().replace("interval: 2m", "interval: 1s"))
    full = write_config(folder, ["http://127.0.0.1:1/"], interval="1s", metrics="{level: full}")
    with contextlib.ExitStack() as stack:
        demo = stack.enter_context(running("demo", "--port", "0"))
        address = demo.url.removeprefix("http://")
        urls = [target["url"] for target in demo.samples().labels("url_monitor_probe_results_total")]
        full.write_text(full.read_text() + f"  - {next(url for url in urls if url.endswith('/200'))}\n")
        other = stack.enter_context(running("run", "-c", str(full), "--port", "0"))
        config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (static,) = config["scrape_configs"][0]["static_configs"]
        assert static["targets"] == ["localhost:5004"]
        static["targets"] = [address, other.url.removeprefix("http://")]
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        base = f"http://127.0.0.1:{free_port()}"
        command = (
            program,
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={base.removeprefix('http://')}",
        )
        stack.enter_context(running_command(command))

        def ask(path, **parameters):
            """The data of an answer of Prometheus' API; nothing while it is not up yet."""
            with contextlib.suppress(OSError):
                _, body = get(f"{base}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
                if body.startswith("{"):
                    answer = json.loads(body)
                    assert answer["status"] == "success", answer
                    return answer["data"]
            return None

        def query(expression, **parameters):
            return (ask("query", query=expression, **parameters) or {"result": []})["result"]

        query.ask = ask
        query.demo = address
        yield query


def test_promtool_accepts_the_example():
    """The example is sound, with the rules that it names."""
    require_tool("promtool")
    assert "4 rules found" not in promtool("check", "config", "prometheus.yaml", cwd=MONITORING)


def test_example_serves_dashboards_of_blackbox_exporter(prometheus):
    """Each series that its dashboards and alerts ask for has the URL as `instance`, and `url` for ours."""
    wanted = {
        "probe_success": 7,
        "probe_http_status_code": 7,
        "probe_duration_seconds": 7,
        "probe_ssl_earliest_cert_expiry": 1,
        "probe_http_ssl": 6,
        "probe_http_redirects": 6,
    }
    for name, count in wanted.items():
        found = wait_for(
            lambda name=name, count=count: (
                len(found := prometheus(f'{name}{{pod="{prometheus.demo}"}}')) >= count and found
            ),
            name,
        )
        for sample in found:
            assert sample["metric"]["instance"] == sample["metric"]["url"]
            assert set(sample["metric"]) == {"__name__", "job", "instance", "pod", "url"}
    (instance,) = (
        each["metric"]["instance"]
        for each in prometheus("probe_ssl_earliest_cert_expiry")
        if "instance" in each["metric"]
    )
    assert instance.startswith("https://")
    assert instance.endswith("/expired-certificate")
    asked = f'probe_http_duration_seconds{{instance="{instance.replace("https", "http").replace("5015", "")}"}}'
    assert prometheus(asked) == []
    up = wait_for(lambda: prometheus('probe_success{instance=~".*/200"} == 1'), "the target that is up")
    asked = f'sum by (phase) (probe_http_duration_seconds{{instance="{up[0]["metric"]["instance"]}"}})'
    assert {each["metric"]["phase"] for each in prometheus(asked)} == {"connect", "processing", "transfer"}


def test_rules_work_on_a_real_exposition(prometheus):
    """Prometheus evaluates every rule without a fault, and what is down is about to alert under its URL."""

    def evaluated():
        found = (prometheus.ask("rules") or {"groups": []})["groups"]
        every = [rule for group in found for rule in group["rules"]]
        return every and all(rule["health"] != "unknown" for rule in every) and every

    assert {(rule["health"], rule.get("lastError")) for rule in wait_for(evaluated, "every rule ran")} == {("ok", None)}
    pending = 'ALERTS{alertname="UrlMonitorTargetDown"}'
    down = wait_for(lambda: len(found := prometheus(pending)) >= 4 and found, "targets are down")
    assert {frozenset(each["metric"]) - {"__name__"} for each in down} == {
        frozenset({"alertname", "alertstate", "job", "severity", "url"})
    }


@every_dashboard
def test_dashboard_shows_something(name, prometheus):
    """Every query of a dashboard works on a real Prometheus, and has an answer where the demo has something to show."""
    # Twice scraped: before that there is no rate.
    wait_for(lambda: prometheus("rate(url_monitor_probe_latency_seconds_count[1m]) > 0"), "rates")
    wait_for(lambda: prometheus("target:url_monitor_probe_failures:ratio_rate3d"), "ratios")
    (up,) = wait_for(lambda: prometheus("url_monitor_probe_latency_seconds_count"), "a target that is up")
    expected = {
        "fleet": ["error_budget_left", "probe_skipped_total", "ALERTS"],
        "target": [
            "error_budget_left",
            "probe_failure_info",
            "probe_failures_total",
            "check_success",
            'phase="',
            "ALERTS",
            "probe_ssl_earliest_cert_expiry",  # the one that is up is plain HTTP
        ],
    }[name]

    def silent():
        """Queries without an answer; rates need their time."""
        asked = queries(name, up["metric"]["url"])
        return [
            query
            for query in asked
            if not prometheus(query, time=time.time()) and not any(part in query for part in expected)
        ]

    wait_for(lambda: not silent(), "every query has an answer", 30)
