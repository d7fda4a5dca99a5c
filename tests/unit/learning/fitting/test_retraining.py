"""Trainings that start from the champion, and new readouts of its network."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import torch
from builders import HOUR_MS, START_MS
from trainings import NETWORK, OBSERVATION, PIPELINE, SHORT, same, seasonal_history, with_other_end

from forecaster.core.checkpoint_ids import body_of
from forecaster.core.network.model import Checkpoint
from forecaster.formats.checkpoints import SEEN_UNTIL
from forecaster.history import SeriesHistory
from forecaster.learning.data.training_data import build_training_data
from forecaster.learning.fitting.network_fit import TrainingConfig
from forecaster.learning.fitting.readout_refit import (
    ReadoutRefit,
    next_readout_id,
    refit_readout,
    with_refitted_readout,
)
from forecaster.learning.fitting.train import train_checkpoint
from forecaster.learning.promotion import evaluate_challenger


def test_training_starts_from_the_champion_if_its_network_is_the_same(champion: Checkpoint) -> None:
    """Else it starts from scratch, and says so."""
    warm = train_checkpoint(seasonal_history(450), OBSERVATION, NETWORK, TrainingConfig(), champion=champion)
    assert warm.facts["start"] == {"from": champion.id}
    assert warm.facts["passes"] <= 4
    cold = train_checkpoint(seasonal_history(200), OBSERVATION, replace(NETWORK, layers=2), SHORT, champion=champion)
    assert cold.facts["start"]["from"] == "scratch"
    assert champion.id in cold.facts["start"]["why"]

    def distance(checkpoint: Checkpoint) -> float:
        pairs = [
            (checkpoint.weights[name], weight) for name, weight in champion.weights.items() if "calibration" not in name
        ]
        return float(sum((left - right).square().sum() for left, right in pairs))

    scratch = train_checkpoint(seasonal_history(450), OBSERVATION, NETWORK, replace(SHORT, seed=1))
    assert distance(warm) < 0.2 * distance(scratch)


def test_a_warm_start_needs_fewer_passes_than_a_start_from_scratch(champion: Checkpoint) -> None:
    warm = train_checkpoint(seasonal_history(), OBSERVATION, NETWORK, replace(SHORT, passes=1), champion=champion)
    scratch = train_checkpoint(seasonal_history(450), OBSERVATION, NETWORK, SHORT)
    assert warm.facts["held_out_losses"][0] < scratch.facts["held_out_losses"][-1]


def test_readout_ids_count_up_within_their_body_and_are_unique() -> None:
    first = next_readout_id("2025-01-01T00-00-00Z-3f9a")
    assert re.fullmatch(r"2025-01-01T00-00-00Z-3f9a\.1-[0-9a-f]{4}", first)
    assert re.fullmatch(r"2025-01-01T00-00-00Z-3f9a\.2-[0-9a-f]{4}", next_readout_id(first))
    assert len({next_readout_id("body.9-0000") for _ in range(20)}) > 10, "after a rollback the same number comes again"


def joined(before: SeriesHistory, after: SeriesHistory) -> SeriesHistory:
    """A history, and another one after it."""
    later = after.since(int(before.timestamp_ms[-1]) + 1)
    return SeriesHistory(
        before.series_ids,
        np.concatenate([before.series_index, later.series_index]),
        np.concatenate([before.timestamp_ms, later.timestamp_ms]),
        np.concatenate([before.values, later.values]),
        np.concatenate([before.record_of_reading, later.record_of_reading]),
    )


def refit(history: SeriesHistory, champion: Checkpoint) -> ReadoutRefit:
    return refit_readout(build_training_data(history, OBSERVATION, local=True), champion)


def test_after_a_change_of_the_process_the_body_gets_a_new_readout(champion: Checkpoint) -> None:
    changed = joined(seasonal_history().first(800), seasonal_history(800, seed=1, period=11))
    refitted = refit(changed, champion)
    assert refitted.checkpoint is not None
    assert refitted.error < refitted.champion_error
    assert body_of(refitted.checkpoint.id) == champion.id
    assert refitted.checkpoint.id.startswith(f"{champion.id}.1-")
    assert refitted.checkpoint.facts["readout"]["champion_error"] == refitted.champion_error
    assert refitted.checkpoint.facts[SEEN_UNTIL] == int(changed.timestamp_ms[-1])
    for name, weight in champion.weights.items():
        assert torch.equal(weight, refitted.checkpoint.weights[name]) == ("calibration" not in name)
    recent = changed.since(START_MS + 500 * HOUR_MS)
    assert evaluate_challenger(PIPELINE, champion, refitted.checkpoint, recent, START_MS + 700 * HOUR_MS).promote


def test_a_readout_that_has_seen_all_readings_is_not_refitted(champion: Checkpoint) -> None:
    nothing_new, too_little = (refit(seasonal_history().first(count), champion) for count in (800, 804))
    assert nothing_new.checkpoint is None
    assert "no reading is newer" in nothing_new.reason
    assert too_little.checkpoint is None
    assert "are needed" in too_little.reason


def test_a_broken_readout_is_replaced(champion: Checkpoint) -> None:
    broken = replace(champion, readout=torch.zeros_like(champion.readout))
    refitted = refit(seasonal_history(), broken)
    assert refitted.checkpoint is not None
    assert refitted.error < 0.5 * refitted.champion_error
    recent = seasonal_history(470).since(START_MS + 300 * HOUR_MS)
    assert not evaluate_challenger(PIPELINE, champion, broken, recent, START_MS + 400 * HOUR_MS).promote


def test_a_readout_that_is_worse_on_the_newest_readings_is_dropped(champion: Checkpoint) -> None:
    readings = seasonal_history()
    noise = np.random.default_rng(0).normal(10, 4, len(readings))
    misled = replace(
        readings, values=np.where(readings.timestamp_ms < START_MS + 545 * HOUR_MS, noise, readings.values)
    )
    outcome = refit(misled, champion)
    assert outcome.checkpoint is None
    assert outcome.reason.endswith("worse by more than 2%")


def test_a_refitted_readout_depends_on_its_training_data_alone(champion: Checkpoint) -> None:
    cut_ms = START_MS + 500 * HOUR_MS
    first, second = (
        with_refitted_readout(build_training_data(version, OBSERVATION, local=True).before(cut_ms), champion)
        for version in (seasonal_history(), with_other_end(seasonal_history(), cut_ms))
    )
    assert same(first, second)
    assert not same(first, champion)
