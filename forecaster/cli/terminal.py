"""Output on the terminal: tables, and the progress bar of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from forecaster.learning.fitting.network_fit import TrainingProgress
from forecaster.printable import printable

FILE_WIDTH = 200
"""Columns of output that goes to a pipe or a container's log, so that tables are not cut there."""


class PrintableConsole(Console):
    """Console that shows characters that a terminal obeys as escapes: ids, and texts from topics, may hold any."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text of a string, a cell or a caption."""
        return super().render_str(printable(text, keep="\n"), **options)


def console(least: int = 0) -> Console:
    """Return a console on standard output.

    Args:
        least: columns of a table; in a narrower terminal its lines wrap instead of being cut.
    """
    default = Console()
    width = max(default.width, least if default.is_terminal else FILE_WIDTH)
    return PrintableConsole(width=width, emoji=False)  # :fan: in an id is no picture


@contextmanager
def training_progress() -> Iterator[Callable[[TrainingProgress], None]]:
    """Yield a function that shows the progress of a training on standard error."""
    columns = TextColumn("training"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=None, loss="")

        def show(progress: TrainingProgress) -> None:
            loss = "" if progress.loss != progress.loss else f"held-out loss {progress.loss:.4f}"
            bar.update(task, completed=progress.done, total=progress.total, loss=loss)

        yield show
