"""A configuration that changes while the service runs."""

import contextlib
import os
import signal
import time
import urllib.request

import pytest

from otel_url_monitor.reloading import FileWatch
from otlp import sink
from processes import get, resident_bytes, running, site, wait_for, write_config

UP = "sample_external_url_up"
RESULTS = "url_monitor_probe_results_total"
CURRENT = "url_monitor_config_last_reload_successful"
LOADED_AT = "url_monitor_config_last_reload_success_timestamp_seconds"


def post(service):
    """Status and body of a request to reload."""
    request = urllib.request.Request(service.url + "/-/reload", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@contextlib.contextmanager
def monitored(folder, urls, **settings):
    config = write_config(folder, urls, **{"interval": "200ms", "timeout": "200ms", **settings})
    with running("run", "-c", str(config), "--port", "0", "--host", "127.0.0.1") as service:
        service.config = config
        yield service


class TestWatch:
    """What counts as a change of a file."""

    def changed(self, watch):
        """Asked twice, because a change must have settled."""
        return [watch.has_changed(), watch.has_changed()]

    def test_new_content(self, tmp_path):
        """A change is told once, when it has settled."""
        path = tmp_path / "file"
        path.write_text("one")
        watch = FileWatch(path)
        assert self.changed(watch) == [False, False]
        path.write_text("two")
        assert self.changed(watch) == [False, True]
        assert self.changed(watch) == [False, False]

    def test_the_same_content_again(self, tmp_path):
        """A touched file, and one replaced by its copy, are as they were."""
        path = tmp_path / "file"
        path.write_text("one")
        watch = FileWatch(path)
        os.utime(path, (1, 1))
        assert self.changed(watch) == [False, False]
        (tmp_path / "new").write_text("one")
        (tmp_path / "new").replace(path)
        assert self.changed(watch) == [False, False]

    def test_a_missing_file(self, tmp_path):
        """A file that is away for a moment has not changed; one that stays away has, and again when it is back."""
        path = tmp_path / "file"
        path.write_text("one")
        watch = FileWatch(path)
        path.unlink()
        assert not watch.has_changed()
        path.write_text("one")
        assert self.changed(watch) == [False, False]
        path.unlink()
        assert self.changed(watch) == [False, True]
        path.write_text("one")
        assert self.changed(watch) == [False, True]

    def test_a_mounted_config_map(self, tmp_path):
        """The kubelet swaps a symlink two levels up."""
        for version in ("one", "two"):
            (tmp_path / version).mkdir()
            (tmp_path / version / "file").write_text(version)
        (tmp_path / "..data").symlink_to("one")
        (tmp_path / "file").symlink_to("..data/file")
        watch = FileWatch(tmp_path / "file")
        (tmp_path / "..new").symlink_to("two")
        (tmp_path / "..new").replace(tmp_path / "..data")
        assert self.changed(watch) == [False, True]


def test_what_stays_goes_on(tmp_path):
    """Targets that stay keep counters, state and schedule; removed ones are gone at the next scrape; new ones begin."""
    with site() as server, monitored(tmp_path, [f"{server.url}/stays", f"{server.url}/goes"]) as service:
        stays, goes, comes = (f"{server.url}/{name}" for name in ("stays", "goes", "comes"))
        service.wait_for_sample(RESULTS, 5, url=stays, result="success")
        service.wait_for_sample(UP, 1, url=goes)
        hits = server.hits["/goes"]
        write_config(tmp_path, [stays, comes], interval="200ms", timeout="200ms")
        before = service.samples().get(RESULTS, url=stays, result="success")
        assert post(service) == (200, "reloaded\n")
        samples = service.samples()
        assert samples.get(UP, url=stays) == 1
        assert samples.get(RESULTS, url=stays, result="success") >= before
        assert not [labels for labels in samples.labels(RESULTS) if labels["url"] == goes]
        assert samples.get(UP, url=goes) is None
        assert samples.get(RESULTS, url=comes, result="success") is not None
        assert samples.get("url_monitor_targets") == 2
        service.wait_for_sample(RESULTS, 3, url=comes, result="success")
        assert server.hits["/goes"] <= hits + 1
        after = service.samples()
        assert after.total("url_monitor_probe_skipped_total") == 0
        assert after.total(RESULTS, result="failure") == 0
        assert after.get("url_monitor_worker_restarts_total") == 0
        service.end(signal.SIGTERM)
        service.assert_ended_well()


def test_histograms_go_on(tmp_path):
    """A reload loses no observation of a target that stays, and keeps none of one that went."""
    latency, lag = "url_monitor_probe_latency_seconds_count", "url_monitor_schedule_lag_seconds_count"
    settings = {"interval": "200ms", "timeout": "200ms", "metrics": "{level: full}"}
    with site() as server, monitored(tmp_path, [f"{server.url}/stays", f"{server.url}/goes"], **settings) as service:
        stays, goes = (f"{server.url}/{name}" for name in ("stays", "goes"))
        service.wait_for_sample(latency, 2, url=goes)
        before = service.wait_for_sample(latency, 10, url=stays)
        write_config(tmp_path, [stays], **settings)
        assert post(service)[0] == 200
        after = service.samples()
        assert after.get(latency, url=stays) >= before.get(latency, url=stays)
        assert after.get(latency, url=goes) is None
        assert after.get(lag) >= before.get(lag)
        service.wait_for_sample(latency, after.get(latency, url=stays) + 2, url=stays)
        samples = service.samples()
        # Results are looked at when a collection begins, histograms when it ends; a probe may come in between.
        assert samples.get(latency, url=stays) - samples.get(RESULTS, url=stays, result="success") in (0, 1)


def test_deltas_tell_of_each_probe_once(tmp_path):
    """Pushed as differences, counters and histograms add up to what was probed, reloads or none."""
    env = {"OTEL_METRIC_EXPORT_INTERVAL": "250", "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}
    settings = {"interval": "200ms", "timeout": "200ms", "metrics": "{level: full}"}
    with sink() as collector, site() as server:
        env["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] = f"{collector.url}/v1/metrics"
        urls = [f"{server.url}/stays", f"{server.url}/goes"]
        config = write_config(tmp_path, urls, **settings)
        with running("run", "-c", str(config), "--port", "0", "--host", "127.0.0.1", env=env) as service:
            for count, reloaded in ((10, urls[:1]), (20, urls)):
                service.wait_for_sample(RESULTS, count, url=urls[0], result="success")
                write_config(tmp_path, reloaded, **settings)
                assert post(service)[0] == 200
            service.wait_for_sample(RESULTS, 30, url=urls[0], result="success")
            service.end(signal.SIGTERM)
        points = [point for push in collector.pushes() for point in push if point.attributes.get("url") == urls[0]]
        probed = sum(point.value for point in points if point.name == "url_monitor.probe_results")
        timed = sum(sum(point.buckets) for point in points if point.name == "url_monitor.probe_latency")
    assert probed == timed
    # The last batch of results comes with the stop, and the probe under way is cut off.
    assert server.hits["/stays"] - 2 <= probed <= server.hits["/stays"]


@pytest.mark.parametrize("way", ["rewritten", "renamed over", "symlink", "SIGHUP"])
def test_ways_to_change(tmp_path, way):
    """A rewritten file, an editor's rename, a ConfigMap's symlink swap and SIGHUP are all noticed."""
    with site() as server, contextlib.ExitStack() as stack:
        old, new = tmp_path / "old", tmp_path / "new"
        for folder, name in ((old, "old"), (new, "new")):
            folder.mkdir()
            write_config(folder, [f"{server.url}/{name}"], interval="200ms", timeout="200ms")
        (tmp_path / "..data").symlink_to("old")
        path = tmp_path / "monitor.yaml"
        if way == "symlink":
            path.symlink_to("..data/monitor.yaml")
        else:
            path.write_text((old / "monitor.yaml").read_text())
        service = stack.enter_context(running("run", "-c", str(path), "--port", "0", "--host", "127.0.0.1"))
        service.wait_for_sample(UP, 1, url=f"{server.url}/old")
        if way == "symlink":
            (tmp_path / "..new").symlink_to("new")
            (tmp_path / "..new").replace(tmp_path / "..data")
        elif way == "renamed over":
            (new / "monitor.yaml").replace(path)
        else:
            path.write_text((new / "monitor.yaml").read_text())
        if way == "SIGHUP":
            service.process.send_signal(signal.SIGHUP)
        samples = service.wait_for_sample(UP, 1, url=f"{server.url}/new")
        assert samples.get(UP, url=f"{server.url}/old") is None


def test_a_bad_file_changes_nothing(tmp_path):
    """Faults are told in the answer, the log and a metric; probing goes on as before, and a good file mends it."""
    with site() as server, monitored(tmp_path, [f"{server.url}/a"]) as service:
        url = f"{server.url}/a"
        loaded_at = service.wait_for_sample(UP, 1, url=url).get(LOADED_AT)
        good = service.config.read_text()
        service.config.write_text(good.replace("interval", "intervall"))
        status, faults = post(service)
        assert (status, faults) == (500, f"{service.config}:1 intervall: unknown key, did you mean 'interval'?\n")
        said = f"the configuration stays as it was: {faults.strip()}"
        wait_for(lambda: said in service.log.replace("\\\\", "\\"), "the log line")
        wait_for(lambda: service.samples().get(CURRENT) == 0, "the metric")
        count = service.samples().get(RESULTS, url=url, result="success")
        samples = service.wait_for_sample(RESULTS, count + 3, url=url, result="success")
        assert samples.get(LOADED_AT) == loaded_at
        assert get(service.url + "/-/healthy")[0] == 200
        service.config.unlink()
        assert post(service)[0] == 500
        service.config.write_text(good)
        assert post(service)[0] == 200
        wait_for(lambda: service.samples().get(CURRENT) == 1, "the metric")
        assert service.samples().get(LOADED_AT) > loaded_at


def test_level_and_interval_change(tmp_path):
    """The level of the metrics and a target's interval follow the file as well."""
    with site() as server, monitored(tmp_path, [f"{server.url}/a"], metrics="{level: minimal}") as service:
        url = f"{server.url}/a"
        assert service.wait_for_sample(UP, 1, url=url).get("probe_http_version", url=url) is None
        write_config(tmp_path, [url], interval="1h", timeout="1s", metrics="{level: full}")
        assert post(service)[0] == 200
        samples = service.samples()
        assert samples.get("probe_http_version", url=url) == 1
        assert samples.get(UP, url=url) == 1
        count = service.samples().get(RESULTS, url=url, result="success")
        time.sleep(1.5)
        assert service.samples().get(RESULTS, url=url, result="success") <= count + 1


def test_nothing_to_reload(tmp_path):
    """Without a file there is nothing to reload, which is said and harms nothing; other methods are refused."""
    with site() as server, running("run", server.url, "--port", "0", "--host", "127.0.0.1") as service:
        assert post(service) == (500, "started without a configuration file, there is nothing to reload\n")
        assert get(service.url + "/-/reload")[0] == 405
        service.process.send_signal(signal.SIGHUP)
        wait_for(lambda: service.log.count("there is nothing to reload") == 2, "the log line")
        assert service.samples().get(CURRENT) == 1


def test_a_hail_of_requests(tmp_path):
    """Many signals at once, in the midst of them a stop, do no harm."""
    with site() as server, monitored(tmp_path, [f"{server.url}/a"]) as service:
        service.wait_for_sample(UP, 1, url=f"{server.url}/a")
        for _ in range(200):
            service.process.send_signal(signal.SIGHUP)
        assert post(service)[0] == 200
        for _ in range(50):
            service.process.send_signal(signal.SIGHUP)
        service.end(signal.SIGTERM)
        service.assert_ended_well()


def test_many_targets_over_a_lifetime(tmp_path):
    """20,000 targets, 2,000 at a time: each is there in its time, and neither scrapes nor memory grow with the past."""
    times, sizes = [], []
    with monitored(tmp_path, [], interval="1h", timeout="1s") as service:
        for generation in range(10):
            urls = [f"http://127.0.0.1:9/{generation}/{number}" for number in range(2000)]
            write_config(tmp_path, urls, interval="1h", timeout="1s")
            assert post(service)[0] == 200
            samples = service.samples()
            assert {labels["url"] for labels in samples.labels(RESULTS)} == set(urls)
            assert samples.get("url_monitor_attribute_sets_headroom") > 900_000
            assert "otel_metric_overflow" not in samples.text
            time.sleep(1.1)  # an exposition of its own, in which the render time is that of this one
            times.append(service.samples().get("url_monitor_scrape_render_seconds"))
            sizes.append(resident_bytes(service.pid))
    assert min(times[5:]) < 2 * min(times[:5])
    assert sizes[-1] < 1.3 * sizes[2]
