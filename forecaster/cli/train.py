"""`forecaster train`: a checkpoint from files, or from the history topic."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from forecaster.app.configs import (
    connection,
    history_config,
    needed_topics,
    network_config,
    observation_config,
    training_config,
)
from forecaster.app.connect import ask_broker
from forecaster.broker.log_reader import LogReader
from forecaster.broker.topics import TopicAdmin
from forecaster.cli.models import ensure_models_topic, publish_checkpoint
from forecaster.cli.options import (
    OptionalFiles,
    TimeColumn,
    column_names,
    settings_with_broker,
    settings_without_broker,
)
from forecaster.cli.terminal import training_progress
from forecaster.clock import epoch_ms
from forecaster.errors import UsageError
from forecaster.formats.checkpoints import write_checkpoint
from forecaster.formats.files import read_files
from forecaster.history import SeriesHistory
from forecaster.learning.data.history_reader import HistoryReader
from forecaster.learning.fitting.train import train_checkpoint
from forecaster.settings import Settings

DAY_MS = 86_400_000


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


def read_history(settings: Settings) -> SeriesHistory:
    """Return the readings of the training window from the history topic.

    Raises:
        UsageError: there are none.
        TopicError: a topic is missing or does not fit.
        BrokerUnavailable: no broker answered within the deadline.
    """

    def read(topics: TopicAdmin) -> SeriesHistory:
        partitions = topics.ensure(settings.topics.input, needed_topics(settings), create=False)
        with closing(LogReader(connection(settings), topics)) as reader:
            return HistoryReader(history_config(settings, partitions), reader).read(epoch_ms())

    history = ask_broker(settings, read)
    if not len(history):
        raise UsageError(
            f"topic {settings.topics.named('history')}: no readings of the last {settings.training.window // DAY_MS} "
            "days: let a worker serve for a while, which writes it, or train from files"
        )
    return history
