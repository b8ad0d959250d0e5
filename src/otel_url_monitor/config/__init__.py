"""The file a user writes → `Config`, or `ConfigError` that names file, line and key path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from otel_url_monitor.config.document import Arguments, ConfigError, Document, Fault
from otel_url_monitor.config.reader import read
from otel_url_monitor.config.rules import build_targets
from otel_url_monitor.config.schema import MetricsSection, ServerSection, TracingSection, json_schema, shape
from otel_url_monitor.model import MetricsLevel, Target, TracePolicy

__all__ = ["Config", "ConfigError", "Fault", "from_urls", "json_schema", "load"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything the file decides, complete and without faults.

    Attributes:
        targets: in the file's order, no two with the same identity, all defaults merged in.
        host: address the HTTP server listens on.
        port: 0 for any free one.
        tracing: what a trace shows, and which are kept.
        warnings: what is allowed but hardly meant, one line each.
    """

    targets: tuple[Target, ...] = ()
    metrics_level: MetricsLevel = MetricsLevel.STANDARD
    host: str
    port: int
    tracing: TracePolicy = field(default_factory=TracePolicy)
    warnings: tuple[str, ...] = ()


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read a configuration file and the files it names; `${VAR}` is looked up in `environ`.

    Raises:
        ConfigError: with all faults of the file.
    """
    return _config(read(path, environ), path.absolute().parent)


def from_urls(urls: Sequence[str]) -> Config:
    """The configuration of bare target URLs, each with every default; no variable is expanded in them.

    Raises:
        ConfigError: with all faults, each at its argument, counted from 1.
    """
    return _config(Arguments(tuple(urls)), Path())


def _config(document: Document, folder: Path) -> Config:
    section = shape(document)
    targets = build_targets(document, section, folder)
    server = section.server or ServerSection()
    tracing = section.tracing or TracingSection()
    return Config(
        targets=targets,
        metrics_level=(section.metrics or MetricsSection()).level,
        host=server.host,
        port=server.port,
        tracing=TracePolicy(
            phases=tracing.phases,
            keep_slower_than=tracing.keep_slower_than,
            success_ratio=tracing.success_ratio,
        ),
        warnings=() if targets else (f"{document.file or 'command line'}: no targets, nothing is probed",),
    )
