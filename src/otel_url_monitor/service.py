"""The only wiring: start and stop everything, in the order of the sketch in docs/architecture.md."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType

import uvicorn

from otel_url_monitor.config import Config, ConfigError
from otel_url_monitor.exposition import Exposition, Renderer
from otel_url_monitor.fleet import SILENCE_LIMIT, Fleet, WorkerStatus
from otel_url_monitor.instruments import Instruments
from otel_url_monitor.limits import raise_descriptor_limit
from otel_url_monitor.messages import Assignment, Report, Setup
from otel_url_monitor.model import MetricsLevel, ProbeResult, Target
from otel_url_monitor.otlp import Environment
from otel_url_monitor.reloading import FileWatch
from otel_url_monitor.results import Results, TargetState
from otel_url_monitor.scheduler import Probed
from otel_url_monitor.sharding import Shard
from otel_url_monitor.telemetry import ATTRIBUTE_SETS, Telemetry
from otel_url_monitor.web import create_app

_logger = logging.getLogger(__name__)

_STOP_SECONDS = 4.5
"""After a signal the process ends by itself; should it not, it is ended after this long."""

_WATCH_SECONDS = 1.0
"""How often the configuration file is looked at; a change counts when it has stayed for as long."""

_BACKLOG = 64
"""Connections that wait to be accepted. asyncio takes as many in one go, and complains of each when it cannot."""

_DRAIN_SECONDS = 2
"""How long answers under way may take after a signal; a slow reader must not keep the process."""

_KEEP_ALIVE_SECONDS = 75
"""Above the usual scrape intervals, so that a scraper keeps its connection."""


class CannotListenError(Exception):
    """The address is taken or not ours; the message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to run.

    Attributes:
        config: what to probe.
        host: address to listen on, `None` for the configuration's.
        port: TCP port; 0 lets the system choose, `None` is the configuration's.
        load: makes the configuration anew, or raises `ConfigError`; `None` when there is nothing to reload.
        watch: tells when there is a new one.
        environment: what the `OTEL_*` variables ask for.
        shard: which part of the targets is ours.
        workers: prober processes.
        silence_limit: seconds without a word from a worker after which we are not healthy.
        tidy_seconds: how often to look whether much is kept of what targets no longer show; longer than scrapes are
            apart.
    """

    config: Config
    host: str | None = None
    port: int | None = None
    load: Callable[[], Config] | None = None
    watch: FileWatch | None = None
    environment: Environment = field(default_factory=Environment)
    shard: Shard = field(default_factory=Shard)
    workers: int = 1
    silence_limit: float = SILENCE_LIMIT
    tidy_seconds: float = 300.0


def run(options: Options, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; both end it within 5 s, and are ignored from then on.

    Args:
        options: what to run.
        announce: takes the base URL once everything is up.

    Raises:
        CannotListenError: before anything was started.
    """
    host = options.config.host if options.host is None else options.host
    port = options.config.port if options.port is None else options.port
    with _listen(host, port) as listener:
        asyncio.run(_Service(options).serve(listener, announce))


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, made first, so that a port in use is found before anything is started."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotListenError(f"cannot listen on {place}: {error.strerror}") from None
    except UnicodeError:
        raise CannotListenError(f"cannot listen on {place}: not a host name") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # With the address reused, two sockets may be bound to a port; only one of them may listen.
        listener.listen()
    except OSError as error:
        listener.close()
        raise CannotListenError(f"cannot listen on {place}: {error.strerror}") from None
    return listener


class _Service:
    """Everything that lives long in the main process; also what the self-metrics ask."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._config = options.config
        self._loaded_at = time.time()
        self._is_current = True
        self._is_ready = False
        targets = options.shard.mine(options.config.targets)
        self._results = Results(targets)
        self._telemetry = Telemetry(options.environment)
        self._fleet = Fleet(
            _assignment(options.config, targets),
            workers=options.workers,
            setup=Setup(log_level=logging.getLogger().level, resource=self._telemetry.resource_attributes),
            on_report=self._take,
            silence_limit=options.silence_limit,
        )
        self._instruments = Instruments(self._telemetry.meter(), self._results, options.config.metrics_level, self)
        self._exposition = Exposition(Renderer(self._telemetry.reader))
        self._reloading = asyncio.Lock()
        self._recording = threading.Lock()
        app = create_app(self._exposition, self._results, self._fleet.complaints, lambda: self._is_ready, self.reload)
        self._server = _Server(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                http="h11",  # what is installed with us, whatever else may be there
                ws="none",
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_DRAIN_SECONDS + 1,
            )
        )

    async def serve(self, listener: socket.socket, announce: Callable[[str], None]) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        # Not the loop's own way: when it closes, a second signal would find the default action and kill us.
        _on_signals(lambda *_: loop.call_soon_threadsafe(stop.set))
        reloads: asyncio.Queue[str] = asyncio.Queue(maxsize=1)
        # A hail of signals asks for one reload more than the one under way.
        signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(_put_if_empty, reloads, "SIGHUP"))
        raise_descriptor_limit()
        self._fleet.start()
        self._exposition.start()
        serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        self._is_ready = True
        # What was made so far stays for good: the collector need not look at it again on every scrape.
        gc.freeze()
        announce(_base_url(listener))
        jobs = (self._reload_on(reloads), self._watch(reloads), self._tidy())
        background = [asyncio.create_task(job) for job in jobs]
        await asyncio.wait({serving, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
        for task in background:
            task.cancel()
        await self._stop(serving)

    async def _stop(self, serving: "asyncio.Task[None]") -> None:
        _on_signals(signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _logger.info("stopping")
        self._is_ready = False
        _end_after(_STOP_SECONDS)
        self._exposition.stop()
        self._server.should_exit = True
        await asyncio.gather(asyncio.to_thread(self._fleet.stop), serving)
        await asyncio.to_thread(self._telemetry.shutdown)
        _logger.info("stopped")

    async def _watch(self, reloads: "asyncio.Queue[str]") -> None:
        while self._options.watch is not None:
            await asyncio.sleep(_WATCH_SECONDS)
            if await asyncio.to_thread(self._options.watch.has_changed):
                _put_if_empty(reloads, "the file has changed")

    async def _reload_on(self, reloads: "asyncio.Queue[str]") -> None:
        while True:
            _logger.info("reloading the configuration: %s", await reloads.get())
            await self.reload()

    async def reload(self) -> tuple[str, ...]:
        """Load the configuration anew; what is wrong with it, a line each, empty when it is in force."""
        async with self._reloading:
            faults = await asyncio.to_thread(self._reload)
        for fault in faults:
            _logger.error("the configuration stays as it was: %s", fault)
        return faults

    def _reload(self) -> tuple[str, ...]:
        if self._options.load is None:
            return ("started without a configuration file, there is nothing to reload",)
        try:
            config = self._options.load()
        except ConfigError as error:
            self._is_current = False
            return tuple(str(fault) for fault in error.faults)
        self._follow(config)
        self._loaded_at = time.time()
        self._is_current = True
        _logger.info("configuration reloaded, %d targets", len(self._results.snapshot()))
        return ()

    def _follow(self, config: Config) -> None:
        """Put a configuration in force: what stays keeps its state, its counters and its place on the schedule."""
        for warning in config.warnings:
            _logger.warning("%s", warning)
        if (config.host, config.port) != (self._config.host, self._config.port):
            _logger.warning("server.host and server.port take effect at the next start")
        targets = self._options.shard.mine(config.targets)
        self._config = config
        with self._recording:
            self._results.set_targets(targets)
            is_current = self._instruments.follow(config.metrics_level)
        self._fleet.assign(_assignment(config, targets))
        self._telemetry.forget(is_current)
        self._exposition.discard()

    async def _tidy(self) -> None:
        """Forget what was shown and is gone: a target may have another certificate on every probe."""
        usual: int | None = None
        while True:
            await asyncio.sleep(self._options.tidy_seconds)
            kept = self._telemetry.attribute_sets()
            if usual is None:  # what is still said has come again
                usual = kept
            elif kept > 2 * usual:
                usual = None
                async with self._reloading:
                    is_current = self._instruments.follow(self._config.metrics_level)
                    await asyncio.to_thread(self._telemetry.forget, is_current)

    def _take(self, report: Report) -> None:
        for event in report.events:
            if isinstance(event, Probed):
                with self._recording:  # else the target might go between the two, and its histogram would stay
                    before = self._results.record(event.result)
                    if before is not None:
                        self._instruments.record(before, event.result, event.lag)
                if before is not None:
                    _log(before, event.result)
            else:
                self._results.record_skipped(event.target_id, event.reason, event.count)

    def workers(self) -> Sequence[WorkerStatus]:
        return self._fleet.statuses()

    def render_seconds(self) -> float | None:
        return self._exposition.render_seconds

    def push_failures(self) -> int:
        return self._telemetry.push_failures

    def headroom(self) -> int:
        return ATTRIBUTE_SETS - self._telemetry.attribute_sets()

    def config_loaded_at(self) -> float:
        return self._loaded_at

    def config_is_current(self) -> bool:
        return self._is_current

    def shard(self) -> tuple[int, int]:
        return self._options.shard.ordinal, self._options.shard.count


def _assignment(config: Config, targets: tuple[Target, ...]) -> Assignment:
    return Assignment(targets=targets, tls_facts=config.metrics_level is MetricsLevel.FULL, tracing=config.tracing)


def _put_if_empty(reloads: "asyncio.Queue[str]", why: str) -> None:
    with contextlib.suppress(asyncio.QueueFull):
        reloads.put_nowait(why)


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which would end the process with SIGTERM's own code."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish the answers under way, and cut off whoever has not read his in time.

        uvicorn would cancel them instead, and log a traceback for each.
        """
        asyncio.get_running_loop().call_later(_DRAIN_SECONDS, self._cut_off)
        await super().shutdown(sockets)

    def _cut_off(self) -> None:
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()


def _on_signals(action: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, action)


def _end_after(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()


def _base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104 - compared
    return f"http://{shown}:{port}"


def _log(before: TargetState, result: ProbeResult) -> None:
    """One line when a target's outcome changes; every probe at debug level."""
    url = before.target.display_url
    previous = before.latest.outcome if before.latest else None
    extra = {"url": url, "outcome": result.outcome.value, "reason": result.failure, "trace_id": result.trace_id}
    words = f"{result.outcome}: {result.failure} ({result.detail})" if result.failure else str(result.outcome)
    if previous is not result.outcome and (previous is not None or result.failure is not None):
        level = logging.INFO if result.failure is None else logging.WARNING
        _logger.log(level, "%s is now %s", url, words, extra=extra)
    else:
        _logger.debug("%s: %s", url, words, extra=extra)
