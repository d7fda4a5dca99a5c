"""A run leaves its result, with a reason, and its challenger in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from builders import HOUR_MS, START_MS, pipeline_config, random_checkpoint

from forecaster.history import SeriesHistory
from forecaster.learning.fitting.network_fit import TrainingConfig
from forecaster.learning.kinds import RunKind
from forecaster.learning.run import RunConfig, read_result, run_training

PIPELINE = pipeline_config()
CHAMPION = random_checkpoint(PIPELINE, seed=0)


def history() -> SeriesHistory:
    count = 48
    stamps = START_MS + np.arange(count) * HOUR_MS
    values = np.sin(np.arange(count) / 4)
    return SeriesHistory(["pump"], np.zeros(count, np.int64), stamps, values, np.arange(count))


def test_a_refit_needs_a_network_and_enough_new_targets(tmp_path: Path) -> None:
    config = RunConfig(PIPELINE, CHAMPION.network, TrainingConfig())
    for name, champion, reason in (
        ("none", None, "no network serves yet"),
        ("few", CHAMPION, "targets could be compared"),
    ):
        run_training(config, RunKind.REFIT, history, champion, tmp_path / name)
        result = read_result(tmp_path / name)
        assert (result.checkpoint, result.promoted) == ("", False)
        assert reason in result.reason
        assert [path.name for path in (tmp_path / name).iterdir()] == ["result.json"]
