"""The commands and their exit codes."""

import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from otel_url_monitor import __version__

if TYPE_CHECKING:
    # Each command imports what it needs, so that `run` and `demo` catch signals long before all is loaded.
    from otel_url_monitor.config import Fault
    from otel_url_monitor.service import Options
    from otel_url_monitor.sharding import Shard

_logger = logging.getLogger(__name__)

_MAX_SHARDS = 1000
_LEVELS = ("debug", "info", "warning", "error")

_host = click.option("--host", help="Address to listen on; overrides the file.")
_port = click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; overrides the file.")
_workers = click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Prober processes.")
_log_level = click.option("--log-level", type=click.Choice(_LEVELS), default="info", show_default=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="otel-url-monitor")
def main() -> None:
    """Black-box URL monitor: probes on background loops, metrics for Prometheus and OpenTelemetry."""


@main.command()
@click.argument("urls", metavar="[URL]...", nargs=-1)
@click.option(
    "-c", "--config", type=click.Path(path_type=Path), envvar="OTEL_URL_MONITOR_CONFIG", help="Configuration file."
)
@_host
@_port
@_workers
@click.option("--shard", metavar="K/N", envvar="OTEL_URL_MONITOR_SHARD", help="Probe part K, from 0, of N.")
@_log_level
def run(
    urls: tuple[str, ...],
    config: Path | None,
    host: str | None,
    port: int | None,
    workers: int,
    shard: str | None,
    log_level: str,
) -> None:
    """Probe the URLs given, or the targets of the configuration file, until stopped by a signal."""
    _exit_quietly_on_signals()
    from otel_url_monitor import service  # noqa: PLC0415 - after the signals
    from otel_url_monitor.config import ConfigError, from_urls, load  # noqa: PLC0415
    from otel_url_monitor.reloading import FileWatch  # noqa: PLC0415

    if urls and config and click.get_current_context().get_parameter_source("config") is _FROM_COMMAND_LINE:
        raise click.UsageError("give URLs or a configuration file, not both")
    if not urls and config is None:
        raise click.UsageError("nothing to monitor: give URLs, or a configuration file with -c")
    part = _shard(shard)
    file = None if urls else config or Path()
    watch = FileWatch(file) if file else None  # before the file is loaded, so that no change is missed
    try:
        loaded = load(file, os.environ) if file else from_urls(urls)
    except ConfigError as error:
        _refuse(error.faults)
    reload = partial(load, file, os.environ) if file else None
    options = service.Options(
        config=loaded, host=host, port=port, workers=workers, shard=part, load=reload, watch=watch
    )
    _serve(options, log_level)


@main.command()
@_host
@_port
@_workers
@_log_level
def demo(host: str | None, port: int | None, workers: int, log_level: str) -> None:
    """Probe built-in targets on loopback: good, failing, slow, redirected, flapping. Needs no network."""
    _exit_quietly_on_signals()
    from otel_url_monitor import service  # noqa: PLC0415 - after the signals
    from otel_url_monitor.config import from_urls  # noqa: PLC0415
    from otel_url_monitor.demo import demo_targets  # noqa: PLC0415 - only the demo pays for its servers

    with demo_targets() as targets:
        loaded = replace(from_urls(()), targets=targets, warnings=())
        _serve(service.Options(config=loaded, host=host, port=port, workers=workers), log_level)


@main.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "output", type=click.Choice(("text", "json")), default="text", show_default=True)
def check(files: tuple[Path, ...], output: str) -> None:
    """Say everything that is wrong with configuration files; exit code 2 when anything is."""
    from otel_url_monitor.config import ConfigError, load  # noqa: PLC0415 - other commands need not load it

    faults: list[Fault] = []
    for file in files:
        try:
            loaded = load(file, os.environ)
        except ConfigError as error:
            faults += error.faults
            continue
        if output == "text":
            for warning in loaded.warnings:
                click.echo(f"warning: {warning}", err=True)
            count = len(loaded.targets)
            click.echo(f"{click.format_filename(file)}: {count} {'target' if count == 1 else 'targets'}, no faults")
    if output == "json":
        click.echo(json.dumps([asdict(fault) for fault in faults], indent=2, default=str))
        sys.exit(2 if faults else 0)
    if faults:
        _refuse(faults)


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file."""
    from otel_url_monitor.config import json_schema  # noqa: PLC0415 - other commands need not load it

    click.echo(json.dumps(json_schema(), indent=2))


@main.command()
@click.option("--format", "output", type=click.Choice(("markdown", "json")), default="markdown", show_default=True)
def metrics(output: str) -> None:
    """Print the catalogue of metrics."""
    from otel_url_monitor import catalogue  # noqa: PLC0415 - other commands need not load the SDK

    click.echo(catalogue.as_json() if output == "json" else catalogue.as_markdown(), nl=False)


_FROM_COMMAND_LINE = click.core.ParameterSource.COMMANDLINE


def _shard(text: str | None) -> "Shard":
    from otel_url_monitor.sharding import Shard  # noqa: PLC0415

    if not text:
        return Shard()
    ordinal, _, count = text.partition("/")
    if not (ordinal.isdecimal() and count.isdecimal() and int(ordinal) < int(count) <= _MAX_SHARDS):
        raise click.UsageError(f"--shard is K/N with K from 0 to N - 1 and N up to {_MAX_SHARDS}, got {text!r}")
    return Shard(int(ordinal), int(count))


def _serve(options: "Options", log_level: str) -> None:
    from otel_url_monitor import service  # noqa: PLC0415 - other commands need not load the SDK
    from otel_url_monitor.logs import LogWriter  # noqa: PLC0415
    from otel_url_monitor.otlp import EnvironmentFaultsError, read_environment  # noqa: PLC0415

    try:
        environment = read_environment(os.environ)
    except EnvironmentFaultsError as error:
        for fault in error.faults:
            click.echo(f"error: {fault}", err=True)
        sys.exit(2)
    writer = LogWriter(getattr(logging, log_level.upper()))
    writer.start()
    for warning in (*options.config.warnings, *environment.warnings):
        _logger.warning("%s", warning)
    try:
        service.run(replace(options, environment=environment), _announce)
    except service.CannotListenError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    writer.drain()
    os._exit(0)  # all is stopped; the interpreter's own end would wait for a log that nobody reads


def _announce(base_url: str) -> None:
    _logger.info("otel-url-monitor %s is up: %s/ (metrics at %s/metrics)", __version__, base_url, base_url)


def _refuse(faults: "Sequence[Fault]") -> NoReturn:
    from rich.console import Console  # noqa: PLC0415 - only for a person to read
    from rich.text import Text  # noqa: PLC0415

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for fault in faults:
        place, _, message = str(fault).partition(": ")
        console.print(Text.assemble((place, "bold"), ": ", message))
    sys.exit(2)


def _exit_quietly_on_signals() -> None:
    """From the first moment on a stop is a stop, not an error; the service then takes the signals over.

    Nothing runs yet that needs an orderly end, and an exception might be raised where it is swallowed.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
