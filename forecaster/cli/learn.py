"""`forecaster learn`, hidden: one training run, in a child process of the training coordinator."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from forecaster.app.configs import network_config, pipeline_config, training_config
from forecaster.app.history import read_history
from forecaster.core.network.threads import set_threads
from forecaster.formats.checkpoints import read_checkpoint
from forecaster.learning.child_process import end_with_parent
from forecaster.learning.coordinator import CHAMPION, RESULT
from forecaster.learning.kinds import RunKind
from forecaster.learning.run import RunConfig, run_training
from forecaster.logs import configure_logs
from forecaster.settings import load_settings


def learn(kind: RunKind, folder: Path) -> None:
    """Run one training for the coordinator: read the champion from the folder, and leave the result there."""
    settings = load_settings()
    configure_logs(settings.log.level, settings.log.format)
    end_with_parent(sys.stdin.fileno())
    set_threads(1 if settings.role == "both" else max(1, (os.cpu_count() or 1) // 2))
    champion = read_checkpoint(next((folder / CHAMPION).iterdir())) if (folder / CHAMPION).is_dir() else None
    config = RunConfig(pipeline_config(settings), network_config(settings), training_config(settings))
    run_training(config, kind, lambda: read_history(settings), champion, folder / RESULT)
