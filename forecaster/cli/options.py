"""Arguments, options and settings that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forecaster.logs import configure_logs
from forecaster.settings import Settings, load_settings

FILES_HELP = "CSV (gzipped or not) or Parquet: long, wide, or one series per file."
Files = Annotated[list[Path], typer.Argument(help=FILES_HELP)]
OptionalFiles = Annotated[list[Path] | None, typer.Argument(help=f"{FILES_HELP} Default: the history topic.")]
TimeColumn = Annotated[
    str, typer.Option(help="Column of the event time; several columns, comma-separated, are joined.")
]


def column_names(text: str) -> list[str]:
    """Return the names in a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def settings_without_broker() -> Settings:
    """Return the settings of a command that needs no broker."""
    settings = load_settings(kafka={"bootstrap_servers": "none"}, topics={"input": "none"})
    configure_logs("WARNING", settings.log.format)
    return settings


def settings_with_broker() -> Settings:
    """Return the settings of a command that connects to the broker; raise UsageError if its address is missing."""
    settings = load_settings()
    configure_logs("WARNING", settings.log.format)
    return settings
