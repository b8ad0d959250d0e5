"""The `OTEL_*` variables, as the specification has them, read in one place and judged before anything starts.

The SDK leaves most of them to a wrapper that we do not run under, shrugs at what it cannot read, and takes the
timeouts for seconds. Messages name the variable and never what could be a secret.
"""

import math
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

_SIGNALS = ("traces", "metrics")
_EXPORTERS = {"traces": ("otlp", "none"), "metrics": ("otlp", "prometheus", "none")}
_PROTOCOL = "http/protobuf"
_COMPRESSIONS = ("none", "gzip", "deflate")
_PROPAGATORS = ("tracecontext", "baggage", "none")
_TEMPORALITIES = ("cumulative", "delta", "lowmemory")
_HISTOGRAMS = ("explicit_bucket_histogram", "base2_exponential_bucket_histogram")

_OF_LIBRARIES = re.compile(r"OTEL_(?:PYTHON|INSTRUMENTATION|SEMCONV)_\w+|OTEL_\w+_LIMIT|OTEL_TRACES_SAMPLER(?:_ARG)?")

_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # what Python makes of bytes that are no UTF-8
_SAFE_START = re.compile(r"[^?#@=\s]{0,100}")

_DEFAULT_TIMEOUT = 10.0
_DEFAULT_INTERVAL = 60.0
_DEFAULT_QUEUE = 8192
_DEFAULT_DELAY = 1.0
_DEFAULT_BATCH = 128


class EnvironmentFaultsError(Exception):
    """One or more variables cannot be used.

    Attributes:
        faults: one line for each, the variable's name first.
    """

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where one signal goes, and how.

    Attributes:
        url: complete, the signal's path included.
        headers: sent with every request; may be secrets.
        timeout: seconds for one export, its repetitions included.
        compression: none, gzip or deflate.
        ca_file: PEM file of the roots trusted; `None` for the default.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float = _DEFAULT_TIMEOUT
    compression: str = "none"
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the variables ask for.

    Attributes:
        traces: where spans go; `None`: there are no spans.
        metrics: where metrics are pushed to; `None`: they are not.
        propagates: whether `traceparent` is sent to targets at all.
        interval: seconds between two pushes of metrics.
        queue_size: spans that may wait to be sent.
        delay: seconds a span waits for others at most.
        batch_size: spans sent in one request at most.
        warnings: what is set and has no effect, one line each.
    """

    traces: Endpoint | None = None
    metrics: Endpoint | None = None
    propagates: bool = True
    interval: float = _DEFAULT_INTERVAL
    queue_size: int = _DEFAULT_QUEUE
    delay: float = _DEFAULT_DELAY
    batch_size: int = _DEFAULT_BATCH
    warnings: tuple[str, ...] = ()


def read_environment(environ: Mapping[str, str]) -> Environment:
    """What these variables ask for; an empty one counts as not set, as the specification has it.

    Raises:
        EnvironmentFaultsError: with all faults.
    """
    reader = _Reader(environ)
    found = reader.read()
    if reader.faults:
        raise EnvironmentFaultsError(tuple(reader.faults))
    return found


def shield(environ: MutableMapping[str, str]) -> None:
    """Take away what the libraries would read by themselves when they are loaded, before they are.

    A limit or a pattern that they cannot read ends the process; what they can read would take spans away, or put
    headers into them. The propagators, judged by `read_environment`, are written in the one way that they know.
    """
    for name in [name for name in environ if _OF_LIBRARIES.fullmatch(name)]:
        del environ[name]
    propagators = _items(environ.pop("OTEL_PROPAGATORS", ""))
    if propagators:
        environ["OTEL_PROPAGATORS"] = ",".join(propagators)


def _items(value: str) -> list[str]:
    return [item.strip().lower() for item in value.split(",") if item.strip()]


class _Reader:
    """Takes variables out of the environment and remembers what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.faults: list[str] = []

    def read(self) -> Environment:
        self._judge_resource()  # `/metrics` shows it in any case
        if self._value("OTEL_SDK_DISABLED").lower() == "true":
            return Environment()
        traces, metrics = self._endpoint("traces"), self._endpoint("metrics")
        queue_size = int(self._number("OTEL_BSP_MAX_QUEUE_SIZE", _DEFAULT_QUEUE, least=1))
        batch_size = int(self._number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", min(_DEFAULT_BATCH, queue_size), least=1))
        if batch_size > queue_size:
            self._refuse("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", f"must be at most OTEL_BSP_MAX_QUEUE_SIZE ({queue_size})")
        self._one_of("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", _TEMPORALITIES)
        self._one_of("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", _HISTOGRAMS)
        return Environment(
            traces=traces,
            metrics=metrics,
            propagates="tracecontext" in self._list("OTEL_PROPAGATORS", _PROPAGATORS, "tracecontext"),
            interval=self._number("OTEL_METRIC_EXPORT_INTERVAL", _DEFAULT_INTERVAL * 1000, least=1) / 1000,
            queue_size=queue_size,
            delay=self._number("OTEL_BSP_SCHEDULE_DELAY", _DEFAULT_DELAY * 1000, least=1) / 1000,
            batch_size=batch_size,
            warnings=tuple(self._idle_variables()),
        )

    def _value(self, name: str) -> str:
        return self._environ.get(name, "").strip()

    def _refuse(self, name: str, what: str) -> None:
        fault = f"{name}: {what}"
        if fault not in self.faults:  # a common variable is read for each signal
            self.faults.append(fault)

    def _named(self, signal: str, suffix: str) -> tuple[str, str]:
        """The variable that decides, the signal's own or the common one, and its value."""
        own, common = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{suffix}", f"OTEL_EXPORTER_OTLP_{suffix}"
        name = own if self._value(own) else common
        return name, self._value(name)

    def _wants_otlp(self, signal: str) -> bool:
        return "otlp" in self._list(f"OTEL_{signal.upper()}_EXPORTER", _EXPORTERS[signal], "otlp")

    def _list(self, name: str, known: tuple[str, ...], default: str) -> list[str]:
        items = _items(self._value(name) or default)
        for item in items:
            if item not in known:
                self._refuse(name, f"{_quote(item)} is not there, known: {', '.join(known)}")
        if "none" in items and len(items) > 1:
            self._refuse(name, "none stands alone")
        return items

    def _one_of(self, name: str, known: tuple[str, ...]) -> str:
        value = self._value(name).lower()
        if value and value not in known:
            self._refuse(name, f"{_quote(value)} is not there, known: {', '.join(known)}")
        return value or known[0]

    def _number(self, name: str, default: float, *, least: float) -> float:
        value = self._value(name)
        if not value:
            return default
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not least <= number < 1e12:
            self._refuse(name, f"expected a number of at least {least:g}, got {_quote(value)}")
            return default
        return number

    def _endpoint(self, signal: str) -> Endpoint | None:
        if not self._wants_otlp(signal):
            return None
        name, protocol = self._named(signal, "PROTOCOL")
        if protocol and protocol.lower() != _PROTOCOL:
            self._refuse(name, f"{_quote(protocol)} is not there, known: {_PROTOCOL} (usually port 4318)")
        url = self._url(signal)
        key_name, key = self._named(signal, "CLIENT_KEY")
        certificate_name, certificate = self._named(signal, "CLIENT_CERTIFICATE")
        if key and not certificate:
            self._refuse(key_name, f"needs {certificate_name}")
        timeout_name, _ = self._named(signal, "TIMEOUT")
        endpoint = Endpoint(
            url=url,
            headers=self._headers(*self._named(signal, "HEADERS")),
            timeout=self._number(timeout_name, _DEFAULT_TIMEOUT * 1000, least=1) / 1000,
            compression=self._one_of(self._named(signal, "COMPRESSION")[0], _COMPRESSIONS),
            ca_file=self._file(*self._named(signal, "CERTIFICATE")),
            certificate_file=self._file(certificate_name, certificate),
            key_file=self._file(key_name, key),
        )
        return endpoint if url else None

    def _url(self, signal: str) -> str:
        name, url = self._named(signal, "ENDPOINT")
        if not url:
            return ""
        fault = _url_fault(url, is_base=name == "OTEL_EXPORTER_OTLP_ENDPOINT")
        if fault:
            self._refuse(name, fault)
        return url if name != "OTEL_EXPORTER_OTLP_ENDPOINT" else f"{url.rstrip('/')}/v1/{signal}"

    def _headers(self, name: str, value: str) -> dict[str, str]:
        """`name=value` items, percent-encoded, between commas."""
        headers = {}
        for number, item in enumerate(value.split(","), 1):
            key, equals, text = (unquote(part.strip()) for part in item.partition("="))
            if not item.strip():
                continue
            if not equals or not _FIELD_NAME.fullmatch(key):
                self._refuse(name, f"item {number} is not name=value")
            elif _CONTROL.search(text) or not text.isascii():
                self._refuse(name, f"item {number} holds characters that a header cannot carry")
            else:
                headers[key.lower()] = text
        return headers

    def _file(self, name: str, value: str) -> Path | None:
        if not value:
            return None
        try:
            with Path(value).open("rb"):
                pass
        except OSError as error:
            self._refuse(name, f"cannot read {value}: {error.strerror}")
        return Path(value)

    def _judge_resource(self) -> None:
        for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
            if _SURROGATE.search(self._value(name)):
                self._refuse(name, "is not UTF-8")
        for number, item in enumerate(self._value("OTEL_RESOURCE_ATTRIBUTES").split(","), 1):
            key, equals, _ = item.partition("=")
            if item.strip() and not (equals and key.strip()):
                self._refuse("OTEL_RESOURCE_ATTRIBUTES", f"item {number} is not name=value")

    def _idle_variables(self) -> list[str]:
        warnings = [
            f"OTEL_{signal.upper()}_EXPORTER=otlp has no effect without OTEL_EXPORTER_OTLP_ENDPOINT"
            for signal in _SIGNALS
            if "otlp" in self._value(f"OTEL_{signal.upper()}_EXPORTER").lower()
            and not self._named(signal, "ENDPOINT")[1]
        ]
        if self._value("OTEL_TRACES_SAMPLER"):
            warnings.append("OTEL_TRACES_SAMPLER has no effect: `tracing` in the configuration says what is kept")
        return warnings


def _url_fault(url: str, *, is_base: bool) -> str:
    """What is wrong with an endpoint, empty when nothing is."""
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or _CONTROL.search(url) or " " in url or not url.isascii():
        return f"expected a URL such as http://localhost:4318, got {_quote(url)}"
    if "@" in parts.netloc:
        return "must not hold credentials, give them in OTEL_EXPORTER_OTLP_HEADERS"
    if is_base and (parts.query or parts.fragment):
        return "must not hold a query, because the signal's path is added to it"
    return ""


def _quote(value: str) -> str:
    """The part that cannot be a secret, in quotes."""
    start = value.rpartition("@")[2] if "@" in value else value
    shown = _SAFE_START.match(start)
    text = shown.group() if shown else ""
    return f"'{text}{'…' if len(text) < len(start) or start != value else ''}'"
