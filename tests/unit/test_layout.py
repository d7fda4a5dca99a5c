"""Imports point one way, between the packages and inside them, and each outside world is touched in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "forecaster"
MAY_IMPORT = {
    "backoff": set(),
    "clock": set(),
    "errors": set(),
    "lifecycle": set(),
    "records": set(),
    "history": {"records"},
    "printable": set(),
    "logs": {"redaction"},
    "redaction": set(),
    "interfaces": {"records"},
    "settings": {"errors", "redaction"},
    "core": {"errors", "records"},
    "formats": {"core", "errors", "history", "records"},
    "pipeline": {"core", "records"},
    "registry": {"core", "errors", "formats", "interfaces", "records"},
    "broker": {"errors", "records"},
    "serving": {"broker", "core", "errors", "formats", "interfaces", "pipeline", "records"},
    "learning": {"core", "errors", "formats", "history", "interfaces", "pipeline", "records", "registry"},
    "evaluation": {"core", "errors", "formats", "history", "learning", "pipeline", "records"},
    "web": {"errors", "formats", "learning", "records", "registry", "serving"},
    "app": {
        "broker",
        "core",
        "errors",
        "formats",
        "history",
        "learning",
        "pipeline",
        "registry",
        "serving",
        "settings",
        "web",
    },
    "demo": {"broker", "core", "errors", "formats", "history", "learning", "records", "settings"},
    "cli": {
        "app",
        "broker",
        "core",
        "demo",
        "errors",
        "evaluation",
        "formats",
        "history",
        "learning",
        "logs",
        "records",
        "registry",
        "serving",
        "settings",
    },
}
"""Which packages and modules of the first level each of them may import, besides itself and `EVERYWHERE`."""
MAY_IMPORT_INSIDE = {
    "core": {
        "arrays": set(),
        "checkpoint_ids": set(),
        "hashing": set(),
        "metrics": set(),
        "scoring": {"metrics"},
        "series": {"arrays"},
        "network": {"checkpoint_ids", "series"},
        "ensemble": {"arrays"},
        "state": {"arrays", "ensemble", "series"},
        "batch_models": {"arrays", "checkpoint_ids", "ensemble", "network", "rewarm", "series", "state"},
        "rewarm": {"arrays", "checkpoint_ids", "network", "series", "state"},
    },
    "settings": {
        "types": set(),
        "groups": {"types"},
        "environment": {"groups"},
        "example": {"types"},
    },
    "broker": {
        "connection": {"tolerant_connections"},
        "embedded": set(),
        "refusals": set(),
        "tls_files": set(),
        "retry": {"refusals"},
        "fetches_by_id": set(),
        "tolerant_clients": {"fetches_by_id", "retry", "tolerant_connections", "tolerant_coordinator"},
        "silence": set(),
        "membership": {"silence"},
        "renewal": {"retry", "silence"},
        "tolerant_connections": {"refusals"},
        "tolerant_coordinator": {"retry"},
        "subscriber": {"tolerant_clients"},
        "needed_topics": set(),
        "watched_topics": {"needed_topics", "retry", "topics"},
        "topics": {"connection", "needed_topics", "renewal", "retry", "tolerant_clients"},
        "consumer": {"connection", "membership", "renewal", "retry", "silence", "subscriber", "tolerant_clients"},
        "tail_reader": {"connection", "renewal", "retry", "silence", "tolerant_clients"},
        "log_reader": {"connection", "renewal", "retry", "silence", "tolerant_clients", "topics"},
        "consumer_groups": {"connection", "log_reader", "retry", "tolerant_clients"},
        "call_thread": set(),
        "request_watch": set(),
        "transaction_failures": {"call_thread", "connection", "request_watch", "retry", "topics"},
        "producer": {"call_thread", "connection", "request_watch", "retry", "transaction_failures"},
        "writer": {"connection", "retry"},
        "plain_clients": {"tolerant_clients"},
    },
    "app": {
        "configs": set(),
        "threads": set(),
        "watchdog": set(),
        "history": {"configs", "connect", "topics"},
        "sizing": {"configs"},
        "rights": set(),
        "topics": {"configs"},
        "connect": {"configs", "rights", "topics"},
        "daemon": {"configs", "connect", "rights", "threads", "topics", "watchdog"},
    },
    "serving": {
        "batch_size": set(),
        "dead_letter_limits": set(),
        "drift": set(),
        "history_sampling": set(),
        "publisher": set(),
        "score_totals": set(),
        "state": set(),
        "seeding": {"state"},
        "counters": {"score_totals", "state"},
        "inspect": {"committer", "counters", "state"},
        "dependencies": {"state"},
        "input_topic": {"dependencies", "state"},
        "transaction_limit": set(),
        "committer": {"counters", "dependencies", "transaction_limit"},
        "rewriting": {"dependencies", "state"},
        "topic_watch": set(),
        "alignment": {"dependencies", "state"},
        "failed_batch": set(),
        "network_overflows": set(),
        "worker": {
            "alignment",
            "batch_size",
            "committer",
            "counters",
            "dead_letter_limits",
            "dependencies",
            "drift",
            "failed_batch",
            "history_sampling",
            "input_topic",
            "inspect",
            "network_overflows",
            "publisher",
            "rewriting",
            "state",
        },
    },
    "evaluation": {
        "prequential": set(),
        "retraining": set(),
        "trace": set(),
        "backtest": {"prequential", "retraining", "trace"},
        "report": {"prequential", "trace"},
    },
    "demo": {
        "scoreboard": set(),
        "weather": {"scoreboard"},
        "run": {"scoreboard", "weather"},
    },
    "cli": {
        "options": set(),
        "terminal": set(),
        "run": set(),
        "demo": {"terminal"},
        "backtest": {"options", "terminal"},
        "explain": {"options", "terminal"},
        "models": {"options", "terminal"},
        "seed": {"options", "terminal"},
        "topics": {"options", "terminal"},
        "check": {"options", "terminal", "topics"},
        "train": {"models", "options", "terminal"},
        "learn": set(),
        "commands": {
            "backtest",
            "check",
            "demo",
            "explain",
            "learn",
            "models",
            "run",
            "seed",
            "topics",
            "train",
        },
    },
    "registry": {
        "entry": set(),
        "registry": {"entry"},
        "cache": set(),
        "orders": {"registry"},
        "follower": {"cache", "registry"},
    },
    "learning": {
        "child_process": set(),
        "data": set(),
        "kinds": set(),
        "lifecycle": set(),
        "simulation": set(),
        "schedule": {"kinds"},
        "next_run": {"kinds"},
        "fitting": {"data"},
        "promotion": {"simulation"},
        "challenge": {"data", "fitting", "promotion"},
        "run": {"challenge", "data", "fitting", "kinds"},
        "publication": {"kinds", "run"},
        "dependencies": {"child_process", "kinds"},
        "coordinator": {
            "child_process",
            "dependencies",
            "kinds",
            "lifecycle",
            "next_run",
            "publication",
            "run",
        },
    },
}
"""Which of its own packages and modules each package and module inside of a package may import, besides itself."""
EVERYWHERE = {"backoff", "clock", "lifecycle", "printable"}
"""What everybody may import."""
ONLY_IN = {
    "kafka": {"broker"},
    "fastapi": {"web"},
    "uvicorn": {"web"},
    "prometheus_client": {"web"},
    "apscheduler": {"learning"},
    "typer": {"cli"},
    "rich": {"cli"},
    "torch": {"core.network", "learning"},
}
"""Which packages and modules may import an outside package."""
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path.stem != "__main__" and path != ROOT / "__init__.py"
}


def imports(path: Path) -> list[str]:
    """Return the full names that a module imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def imported_modules(module: str) -> set[str]:
    """Return the modules of this project that a module imports, without the name of the project."""
    modules: set[str] = set()
    for name in imports(MODULES[module]):
        package, _, rest = name.partition(".")
        if package == "forecaster" and rest not in ("", "__version__"):  # the project itself holds its version
            modules.add(rest if rest in MODULES else rest.rpartition(".")[0])
    return modules


@pytest.mark.parametrize("module", MODULES)
def test_imports_between_packages_point_one_way(module: str) -> None:
    here = module.split(".")[0]
    for name in imported_modules(module):
        there = name.split(".")[0]
        assert there in MAY_IMPORT[here] | {here} | EVERYWHERE, f"{module} imports {name}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.partition(".")[0] in MAY_IMPORT_INSIDE])
def test_imports_inside_packages_point_one_way(module: str) -> None:
    package, _, here = module.partition(".")
    table, here = MAY_IMPORT_INSIDE[package], here.split(".")[0]
    for name in imported_modules(module) - {package}:
        outer, _, there = name.partition(".")
        if here and outer == package:
            assert there.split(".")[0] in table[here] | {here}, f"{module} imports {name}"


@pytest.mark.parametrize("package", MAY_IMPORT_INSIDE)
def test_the_inner_table_knows_every_module(package: str) -> None:
    inner = {name.split(".")[1] for name in MODULES if name.startswith(f"{package}.")}
    assert inner == set(MAY_IMPORT_INSIDE[package])


def test_no_module_imports_itself_through_others() -> None:
    graph = {module: imported_modules(module) - {module} for module in MODULES}
    while free := [module for module, imported in graph.items() if not imported]:
        for module in free:
            del graph[module]
        for imported in graph.values():
            imported.difference_update(free)
    assert not graph, "these modules import one another in a circle, or import one that does"


@pytest.mark.parametrize("module", MODULES)
def test_outside_packages_are_imported_in_one_place(module: str) -> None:
    for name in imports(MODULES[module]):
        places = ONLY_IN.get(name.split(".")[0], {module})
        assert any(f"{module}.".startswith(f"{place}.") for place in places), f"{module} imports {name}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] not in ("settings", "demo")])
def test_the_environment_is_read_in_settings_only(module: str) -> None:
    text = MODULES[module].read_text()  # the demo may: it hands its own environment on to the daemon
    assert "os.environ" not in text
    assert "getenv" not in text


@pytest.mark.parametrize("module", [name for name in MODULES if name != "clock"])
def test_seconds_come_from_a_clock_that_is_handed_in(module: str) -> None:
    assert "time.monotonic" not in MODULES[module].read_text()


def test_the_table_knows_every_package() -> None:
    assert {module.split(".")[0] for module in MODULES} == set(MAY_IMPORT)
