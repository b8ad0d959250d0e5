"""A real Prometheus scrapes the demo, and promtool reads the whole exposition."""

import contextlib
import json
import subprocess
import urllib.parse

import pytest

from processes import free_port, get, require_tool, running, running_command, site, wait_for, write_config

CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: demo
    static_configs: [{{targets: ["{address}"]}}]
"""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """Asks a Prometheus that scrapes our demo every second."""
    program = require_tool("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    with running("demo", "--port", "0") as demo, contextlib.ExitStack() as stack:
        (folder / "prometheus.yml").write_text(CONFIG.format(address=demo.url.removeprefix("http://")))
        address = f"127.0.0.1:{free_port()}"
        stack.enter_context(
            running_command(
                (
                    program,
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={address}",
                )
            )
        )

        def query(expression):
            """The samples of an instant query; none while Prometheus is not up yet."""
            path = "/api/v1/query?" + urllib.parse.urlencode({"query": expression})
            try:
                status, body = get(f"http://{address}{path}")
            except OSError:
                return []
            return json.loads(body)["data"]["result"] if status == 200 else []

        yield query


def by_name(found):
    """Values by what the target is there to show: the path of its URL, or that its host is unknown."""
    paths = (urllib.parse.urlsplit(sample["metric"]["url"]).path.removeprefix("/") for sample in found)
    return {path or "unknown-host": float(sample["value"][1]) for path, sample in zip(paths, found, strict=True)}


def test_prometheus_has_both_seed_metrics(prometheus):
    """A query for the seed metrics answers with the demo's values, under the very names and labels."""
    up = wait_for(lambda: len(found := prometheus("sample_external_url_up")) == 7 and found, "seven targets")
    values = by_name(up)
    assert values.pop("flapping") in (0, 1)
    assert values == {"200": 1, "503": 0, "slow": 1, "redirect": 1, "expired-certificate": 0, "unknown-host": 0}
    assert {frozenset(sample["metric"]) for sample in up} == {frozenset(("__name__", "url", "job", "instance"))}
    wanted = {"200", "503", "slow", "redirect", "flapping"}
    took = wait_for(
        lambda: wanted <= set(found := by_name(prometheus("sample_external_url_response_ms"))) and found, "times"
    )
    assert set(took) == wanted
    assert 900 < took["slow"] < 3000
    assert 0 < took["200"] < 900


def test_prometheus_takes_every_series(prometheus):
    """Nothing of a scrape is dropped as a duplicate, out of order or malformed."""
    wait_for(lambda: prometheus('up{job="demo"} == 1'), "the scrape succeeds")
    (scraped,) = prometheus("scrape_samples_scraped")
    (kept,) = prometheus("scrape_samples_post_metric_relabeling")
    assert float(scraped["value"][1]) == float(kept["value"][1]) > 100


def test_promtool_has_one_thing_to_say(tmp_path):
    """Over the exposition at level full promtool complains of one thing: the seed name's abbreviated unit."""
    promtool = require_tool("promtool")
    with site() as target:
        urls = [target.url, f"{target.url}/500", f"{target.url}/redirect", "http://127.0.0.1:1/"]
        config = write_config(tmp_path, urls, interval="500ms", metrics="{level: full}")
        with running("run", "-c", str(config), "--port", "0") as service:
            for url in urls:
                service.wait_for_sample("url_monitor_probe_last_run_timestamp_seconds", 1, url=url)
            text = service.samples().text
    ended = subprocess.run((promtool, "check", "metrics"), input=text, capture_output=True, text=True, check=False)
    said = (ended.stdout + ended.stderr).splitlines()
    assert said == ["sample_external_url_response_ms metric names should not contain abbreviated units"]
