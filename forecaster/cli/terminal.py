"""What commands print: tables, and the progress bar of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from forecaster.learning.fitting.network_fit import Progress as TrainingProgress

UNCUT = 200
"""Columns of what no terminal shows, a pipe or the log of a container: tables are not cut there."""


def console(least: int = 0) -> Console:
    """Returns what tables and sentences are printed with, on standard output.

    Args:
        least: columns of a table whose lines are rather broken by a narrow terminal than cut.
    """
    one = Console()
    return Console(width=max(one.width, least if one.is_terminal else UNCUT))


@contextmanager
def training_progress() -> Iterator[Callable[[TrainingProgress], None]]:
    """Yields what shows a training's progress, on standard error."""
    columns = TextColumn("training"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=None, loss="")

        def show(progress: TrainingProgress) -> None:
            loss = "" if progress.loss != progress.loss else f"held-out loss {progress.loss:.4f}"
            bar.update(task, completed=progress.done, total=progress.total, loss=loss)

        yield show
