"""Which room may import what: the table of docs/architecture.md, read from the code.

The table is exact. Whoever adds an import adds it here too, and sees what it means; a permission that nobody
uses any more goes.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "otel_url_monitor"
SOURCE = Path(__file__).parent.parent / "src" / PACKAGE

# Low to high. Room: the rooms it imports, and the packages that are neither ours nor the standard library's.
ROOMS: dict[str, tuple[set[str], set[str]]] = {
    "model": (set(), set()),
    "limits": (set(), set()),
    "logs": (set(), set()),
    "config": ({"model"}, {"pydantic", "pydantic_core", "yaml"}),
    "sharding": ({"model"}, set()),
    "transport": ({"model"}, {"certifi", "pycurl", "requests"}),
    "otlp": (
        {"transport"},
        {"google", "opentelemetry.exporter", "opentelemetry.metrics", "opentelemetry.proto", "opentelemetry.sdk"},
    ),
    "checks": ({"model"}, set()),
    "prober": ({"model", "transport", "checks"}, {"requests"}),
    "scheduler": ({"model"}, set()),
    "messages": ({"model", "scheduler"}, set()),
    "tracing": (
        {"model", "otlp"},
        {
            "opentelemetry.context",
            "opentelemetry.instrumentation",
            "opentelemetry.metrics",
            "opentelemetry.propagate",
            "opentelemetry.propagators",
            "opentelemetry.proto",
            "opentelemetry.sdk",
            "opentelemetry.trace",
            "requests",
        },
    ),
    "worker": (
        {"limits", "logs", "model", "transport", "otlp", "prober", "scheduler", "messages", "tracing"},
        set(),
    ),
    "fleet": ({"sharding", "messages"}, set()),
    "reloading": (set(), set()),
    "telemetry": (
        {"otlp"},
        {
            "opentelemetry.context",
            "opentelemetry.exporter",
            "opentelemetry.metrics",
            "opentelemetry.sdk",
            "opentelemetry.util",
            "prometheus_client",
        },
    ),
    "results": ({"model"}, set()),
    "instruments": ({"model", "results"}, {"opentelemetry.context", "opentelemetry.metrics", "opentelemetry.trace"}),
    "exposition": ({"telemetry"}, {"opentelemetry.exporter", "prometheus_client"}),
    "catalogue": ({"instruments"}, set()),
    "web": ({"results", "exposition"}, {"jinja2", "starlette"}),
    "service": (
        {
            "limits",
            "model",
            "scheduler",
            "messages",
            "config",
            "reloading",
            "sharding",
            "fleet",
            "otlp",
            "telemetry",
            "results",
            "instruments",
            "exposition",
            "web",
        },
        {"uvicorn"},
    ),
    "demo": ({"model"}, set()),
    "cli": ({"logs", "config", "otlp", "sharding", "reloading", "catalogue", "service", "demo"}, {"click", "rich"}),
    "__main__": ({"cli"}, set()),
}

# Who makes what lives long. `_Service` and the prober's `_serve` are the only wiring.
MAKERS = {
    "Fleet": {"service"},
    "FileWatch": {"cli"},
    "Results": {"service"},
    "Telemetry": {"service"},
    "Instruments": {"service"},
    "Renderer": {"service"},
    "Exposition": {"service"},
    "create_app": {"service"},
    "Prober": {"worker"},
    "Scheduler": {"worker"},
    "SpanSender": {"worker"},
    "TracedProbe": {"worker"},
    "HopRecorder": {"tracing"},
    "LogWriter": {"cli", "worker"},
    "MeterProvider": {"telemetry"},
    "CollectorRegistry": {"telemetry", "exposition"},
}

# What has a state or holds something of the system's, and is therefore never made while a module is imported.
STATEFUL = {
    *MAKERS,
    *("Condition", "Event", "Lock", "Queue", "RLock", "Semaphore", "Thread", "ThreadPoolExecutor", "local"),
    *("Curl", "CurlAdapter", "ProbeSession", "Session", "open", "socket", "socketpair"),
    *("get_meter", "get_meter_provider", "get_tracer", "set_meter_provider", "load", "from_urls"),
}


@cache
def _modules() -> dict[str, tuple[tuple[str, ast.Module], ...]]:
    """The syntax trees of each room; a room is a module or a package."""
    rooms: dict[str, list[tuple[str, ast.Module]]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        inside = path.relative_to(SOURCE)
        if inside.name == "__init__.py" and len(inside.parts) == 1:
            continue
        room = inside.parts[0].removesuffix(".py")
        rooms.setdefault(room, []).append((str(inside), ast.parse(path.read_text("utf-8"))))
    return {room: tuple(trees) for room, trees in rooms.items()}


def _imports(tree: ast.Module) -> Iterator[str]:
    """Every imported module, in full; a name out of a package counts as a module when it can be one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module in (PACKAGE, "opentelemetry"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def _imported(room: str) -> tuple[set[str], set[str]]:
    ours, theirs = set(), set()
    for _, tree in _modules()[room]:
        for name in _imports(tree):
            parts = name.split(".")
            if parts[0] == PACKAGE:
                ours.add(parts[1])
            elif parts[0] not in sys.stdlib_module_names:
                theirs.add(".".join(parts[: 2 if parts[0] == "opentelemetry" else 1]))
    return ours - {room, "__version__"}, theirs


def test_every_module_has_its_place() -> None:
    """The table names every room there is, and no other."""
    assert set(ROOMS) == set(_modules())


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_the_table_says(room: str) -> None:
    """Each room imports exactly the rooms and packages of its row."""
    assert _imported(room) == ROOMS[room]


def test_imports_go_one_way() -> None:
    """A room imports only from rooms above it in the table, so there is no cycle."""
    order = list(ROOMS)
    upward = {
        (room, imported)
        for room, (rooms, _) in ROOMS.items()
        for imported in rooms
        if order.index(imported) >= order.index(room)
    }
    assert upward == set()


@pytest.mark.parametrize(
    ("package", "rooms"),
    [
        ("pycurl", {"transport"}),
        ("opentelemetry.sdk", {"otlp", "telemetry", "tracing"}),
        ("uvicorn", {"service"}),
        ("click", {"cli"}),
        ("yaml", {"config"}),
    ],
)
def test_only_one_room_knows(package: str, rooms: set[str]) -> None:
    """What may change under us is known to one room only."""
    assert {room for room in _modules() if package in _imported(room)[1]} == rooms


def test_a_prober_process_stays_light() -> None:
    """A prober process that traces nothing loads neither the SDK nor the exposition, the web or the configuration."""
    loaded = "import otel_url_monitor.worker, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run((sys.executable, "-c", loaded), check=True, capture_output=True, text=True)
    assert {"pycurl", "requests"} <= set(done.stdout.split())
    heavy = {"google", "opentelemetry", "prometheus_client", "pydantic", "starlette", "uvicorn", "yaml"}
    assert set(done.stdout.split()) & heavy == set()


def _made(node: ast.AST) -> Iterator[str]:
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            yield _called(call)


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


@pytest.mark.parametrize("name", MAKERS)
def test_what_lives_long_is_made_in_one_place(name: str) -> None:
    """Only the wiring makes objects that live as long as the process."""
    makers = {room for room, trees in _modules().items() for _, tree in trees if name in _made(tree)}
    assert makers == MAKERS[name]


def test_importing_makes_nothing() -> None:
    """Importing a module only defines: none holds a meter, registry, session, lock or configuration of its own."""
    modules = [module for trees in _modules().values() for module in trees]
    made = {(path, name) for path, tree in modules for name in _made_at_import(tree) if name in STATEFUL}
    assert made == set()


def _made_at_import(node: ast.AST) -> Iterator[str]:
    """What is called outside of any function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield _called(child)
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _made_at_import(child)
