"""The progress bar of a training on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from forecaster.learning.trainer import Progress as TrainingProgress


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
