"""Imports point one way, and each outside world is touched in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "forecaster"
MAY_IMPORT = {
    "errors": set(),
    "records": set(),
    "setting_types": set(),
    "setting_groups": {"setting_types"},
    "settings": {"errors", "setting_groups"},
    "logs": set(),
    "files": {"errors", "records"},
    "wire": {"errors", "records"},
    "history": {"errors", "records", "wire"},
    "core": {"errors", "records"},
    "checkpoints": {"core", "errors"},
    "checkpoint_cache": {"checkpoints", "errors"},
    "models": {"checkpoints", "core", "errors", "wire"},
    "catalogue": {"checkpoints", "core", "errors", "models", "wire"},
    "evaluation": {"core", "files", "records"},
    "scoreboard": {"core", "records"},
    "broker": {"errors", "records", "wire"},
    "learning": {
        "broker",
        "catalogue",
        "checkpoints",
        "core",
        "errors",
        "files",
        "history",
        "models",
        "records",
        "serving",
        "wire",
    },
    "serving": {
        "broker",
        "catalogue",
        "checkpoint_cache",
        "checkpoints",
        "core",
        "errors",
        "history",
        "models",
        "records",
        "wire",
    },
    "watchdog": {"errors"},
    "web": {"catalogue", "errors", "learning", "models", "records", "serving", "watchdog"},
    "terminal": {"learning"},
    "chronicle": {"files", "records"},
    "backtest": {
        "checkpoints",
        "chronicle",
        "core",
        "errors",
        "evaluation",
        "files",
        "learning",
        "records",
        "serving",
        "terminal",
    },
    "report": {"chronicle", "evaluation", "records"},
    "demo_data": {"errors", "files", "scoreboard"},
    "demo": {"broker", "checkpoints", "core", "demo_data", "errors", "learning", "scoreboard", "settings", "terminal"},
    "configuration": {"broker", "checkpoints", "core", "learning", "serving", "settings", "wire"},
    "app": {
        "broker",
        "catalogue",
        "checkpoint_cache",
        "configuration",
        "core",
        "errors",
        "learning",
        "serving",
        "settings",
        "watchdog",
        "web",
        "wire",
    },
    "examples": {"setting_types", "settings"},
    "sizing": {"configuration", "serving", "settings"},
    "model_commands": {
        "app",
        "broker",
        "catalogue",
        "checkpoints",
        "configuration",
        "core",
        "errors",
        "models",
        "serving",
        "settings",
        "wire",
    },
    "training_commands": {
        "app",
        "broker",
        "checkpoints",
        "configuration",
        "errors",
        "files",
        "learning",
        "settings",
    },
    "checks": {
        "app",
        "broker",
        "configuration",
        "core",
        "errors",
        "examples",
        "learning",
        "serving",
        "settings",
        "terminal",
    },
    "seed": {"app", "broker", "configuration", "errors", "files", "records", "serving", "settings", "terminal", "wire"},
    "explain": {"app", "broker", "configuration", "core", "errors", "serving", "settings", "terminal"},
}
ONLY_IN = {
    "kafka": {"broker"},
    "fastapi": {"web"},
    "uvicorn": {"web"},
    "prometheus_client": {"web"},
    "apscheduler": {"learning"},
    "torch": {"app", "checkpoints", "configuration", "core", "learning", "training_commands"},
}


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{name.name}" for name in node.names]
    return found


FILES = sorted(path for path in ROOT.rglob("*.py") if path.stem not in ("__init__", "__main__", "cli"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    here = room(path)
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "forecaster" and rest not in ("", "__version__"):  # the package itself holds its version
            there = rest.split(".")[0]
            assert there in MAY_IMPORT[here] | {here}, f"{here} imports {name}"
        elif package in ONLY_IN:
            assert here in ONLY_IN[package], f"{here} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_environment_is_read_in_settings_only(path: Path) -> None:
    if room(path) not in ("settings", "demo"):  # the demo hands its own on to the daemon
        assert "os.environ" not in path.read_text()
        assert "getenv" not in path.read_text()


def test_the_table_knows_every_room() -> None:
    assert {room(path) for path in FILES} == set(MAY_IMPORT)
