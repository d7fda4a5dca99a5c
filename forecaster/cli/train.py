"""`forecaster train`: a checkpoint from files, or from the history topic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forecaster.app.configs import network_config, observation_config, training_config
from forecaster.app.history import read_history
from forecaster.cli.models import ensure_models_topic, publish_checkpoint
from forecaster.cli.options import (
    OptionalFiles,
    TimeColumn,
    column_names,
    settings_with_broker,
    settings_without_broker,
)
from forecaster.cli.terminal import training_progress
from forecaster.formats.checkpoints import write_checkpoint
from forecaster.formats.files import read_files
from forecaster.learning.fitting.train import train_checkpoint


def train(
    files: OptionalFiles = None,
    *,
    time: TimeColumn = "",
    out: Annotated[Path, typer.Option(help="Folder in which the checkpoint's folder is made.")] = Path("checkpoints"),
    publish: Annotated[bool, typer.Option("--publish", help="Also write it to the models topic.")] = False,
) -> None:
    """Train a checkpoint from files, or from the history topic, and print its folder."""
    settings = settings_without_broker() if files and not publish else settings_with_broker()
    if publish:
        ensure_models_topic(settings)  # before the long training, not after it
    history = read_files(files, column_names(time)) if files else read_history(settings)
    with training_progress() as progress:
        checkpoint = train_checkpoint(
            history, observation_config(settings), network_config(settings), training_config(settings), progress
        )
    typer.echo(write_checkpoint(checkpoint, out))
    if publish:
        typer.echo(publish_checkpoint(settings, checkpoint))
