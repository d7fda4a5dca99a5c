"""`forecaster train` from the history topic, and the trainer's child process."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from pathlib import Path

import torch

from forecaster.app.configs import (
    connection,
    history_config,
    needed_topics,
    network_config,
    pipeline_config,
    training_config,
)
from forecaster.app.daemon import with_topics
from forecaster.broker.log_reader import LogReader
from forecaster.broker.topics import TopicAdmin
from forecaster.errors import UsageError
from forecaster.formats.checkpoints import read_checkpoint
from forecaster.formats.files import SeriesHistory
from forecaster.learning.child_process import end_with_parent
from forecaster.learning.coordinator import CHAMPION, RESULT
from forecaster.learning.data.history_reader import HistorySource
from forecaster.learning.run import RunConfig, run_training
from forecaster.learning.schedule import RunKind
from forecaster.settings import Settings


def learn_once(settings: Settings, work: RunKind, folder: Path) -> None:
    """One run of the trainer is done, in the process that its parent began for it.

    Args:
        settings: of the daemon.
        work: a new body, or a new readout.
        folder: holds the champion, where there is one, and takes the result.
    """
    end_with_parent(sys.stdin.fileno())
    torch.set_num_threads(1 if settings.role == "both" else max(1, (os.cpu_count() or 1) // 2))
    champion = read_checkpoint(next((folder / CHAMPION).iterdir())) if (folder / CHAMPION).is_dir() else None
    config = RunConfig(pipeline_config(settings), network_config(settings), training_config(settings))
    run_training(config, work, lambda: read_history(settings), champion, folder / RESULT)


def read_history(settings: Settings) -> SeriesHistory:
    """Returns what the history topic holds of the training window.

    Raises:
        UsageError: nothing.
    """

    def read(topics: TopicAdmin) -> SeriesHistory:
        partitions = topics.ensure(settings.topics.input, needed_topics(settings), create=False)
        with closing(LogReader(connection(settings), topics)) as reader:
            return HistorySource(history_config(settings, partitions), reader).read(time.time_ns() // 1_000_000)

    history = with_topics(settings, read)
    if not len(history):
        raise UsageError(
            f"topic {settings.topics.named('history')}: holds no readings of the last "
            f"{settings.training.window // 86_400_000} days: a worker writes it while it serves"
        )
    return history
