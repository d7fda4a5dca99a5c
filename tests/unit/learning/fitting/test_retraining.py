"""Splits, starts from a champion, augmentation, new readouts and promotion."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import HOUR_MS, LEVELS, START_MS
from torch import Tensor

from forecaster.core.checkpoint_ids import body_of
from forecaster.core.network.features import FeatureConfig
from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import NetworkConfig
from forecaster.core.series.state import ObservationConfig
from forecaster.errors import UsageError
from forecaster.formats.checkpoints import SEEN_UNTIL
from forecaster.history import SeriesHistory
from forecaster.learning.challenge import challenge
from forecaster.learning.data.augmentation import AugmentationConfig, augment, disturb
from forecaster.learning.data.batches import PaddedBatch, padded_batches
from forecaster.learning.data.sequences import TrainingSequence
from forecaster.learning.data.splits import split_by_time
from forecaster.learning.data.training_data import build_training_data, training_sequences
from forecaster.learning.fitting.network_fit import NetworkFit, TrainingConfig
from forecaster.learning.fitting.readout_refit import (
    ReadoutRefit,
    next_readout_id,
    refit_readout,
    with_refitted_readout,
)
from forecaster.learning.fitting.train import train_checkpoint
from forecaster.learning.promotion import PromotionDecision, Rule, evaluate_challenger
from forecaster.learning.simulation import ServingSimulation
from forecaster.pipeline import PipelineConfig

OBSERVATION = ObservationConfig(interval_ms=HOUR_MS, context=12)
NETWORK = NetworkConfig((1, 2, 3), LEVELS, hidden_size=16, features=FeatureConfig(context=12))
PIPELINE = PipelineConfig(OBSERVATION, NETWORK.horizons, LEVELS)
SHORT = TrainingConfig(passes=3)
DISTURBED = AugmentationConfig(share=1.0, noise=0.5, spikes=0.1, spike_size=5.0, dropouts=0.3)


def history(hours: int = 600, series: int = 2, *, seed: int = 0, period: int = 17) -> SeriesHistory:
    """A season whose length no simple expert knows, so that a network can do better."""
    generator = np.random.default_rng(seed)
    time = np.arange(hours)
    values = [10 + 5 * np.sin(2 * np.pi * (time + k) / period) + generator.normal(0, 0.3, hours) for k in range(series)]
    return SeriesHistory(
        series_ids=[f"pump-{k}" for k in range(series)],
        series_index=np.tile(np.arange(series), hours),
        timestamp_ms=START_MS + np.repeat(time, series) * HOUR_MS,
        values=np.column_stack(values).reshape(-1),
        record_of_reading=np.repeat(time, series),
    )


def with_other_end(readings: SeriesHistory, from_ms: int) -> SeriesHistory:
    """The same history, with other values from `from_ms` on."""
    late = readings.timestamp_ms >= from_ms
    return replace(readings, values=np.where(late, readings.values * 7.0 - 3.0, readings.values))


def same(checkpoint: Checkpoint, other: Checkpoint) -> bool:
    return torch.equal(checkpoint.readout, other.readout) and all(
        torch.equal(weight, other.weights[name]) for name, weight in checkpoint.weights.items()
    )


@pytest.fixture(scope="module")
def champion() -> Checkpoint:
    """A checkpoint trained on the first 400 hours."""
    return train_checkpoint(history().first(800), OBSERVATION, NETWORK, TrainingConfig(passes=6, dropout=0.1))


def test_the_splits_are_disjoint_in_order_and_complete() -> None:
    readings = history(200)
    splits = split_by_time(readings, 0.15, 0.1)
    stamps = readings.timestamp_ms
    fit, stop, promote = (
        (stamps >= begin) & (stamps < end)
        for begin, end in [
            (stamps[0], splits.early_stopping_ms),
            (splits.early_stopping_ms, splits.promotion_ms),
            (splits.promotion_ms, splits.end_ms + 1),
        ]
    )
    assert (fit.astype(int) + stop + promote == 1).all()
    assert 0 < promote.sum() < stop.sum() < fit.sum()
    assert split_by_time(readings, 0.15, 0.0).promotion_ms > stamps[-1]
    with pytest.raises(UsageError, match="no readings"):
        split_by_time(readings.first(0), 0.15, 0.1)


def test_no_reading_of_the_promotion_split_reaches_the_weights() -> None:
    readings = history(200)
    config = replace(SHORT, promotion=0.2)
    promotion_ms = split_by_time(readings, config.held_out, config.promotion).promotion_ms
    trained, other, earlier = (
        challenge(build_training_data(version, OBSERVATION, local=True), PIPELINE, NETWORK, config, None)
        for version in (
            readings,
            with_other_end(readings, promotion_ms),
            with_other_end(readings, promotion_ms - HOUR_MS),
        )
    )
    assert same(trained.challenger, other.challenger)
    assert trained.decision != other.decision
    assert not same(trained.challenger, earlier.challenger)


def test_no_target_of_the_early_stopping_split_is_fitted() -> None:
    readings = history(300)
    config = replace(SHORT, passes=1)
    split_ms = split_by_time(readings, config.held_out, 0.0).early_stopping_ms

    def first_pass(version: SeriesHistory) -> float:
        trainer = NetworkFit(NETWORK, config, training_sequences(version, OBSERVATION), split_ms)
        for _ in trainer.updates():
            pass
        return float(sum(weight.double().sum() for weight in vars(trainer)["_network"].state_dict().values()))

    assert first_pass(readings) == first_pass(with_other_end(readings, split_ms))
    assert first_pass(readings) != first_pass(with_other_end(readings, split_ms - HOUR_MS))


def test_training_data_cut_at_a_time_equals_that_of_a_cut_history() -> None:
    readings = history(100)
    readings.values[40:44] = np.nan
    cut_ms = START_MS + 70 * HOUR_MS
    cut, rebuilt = (
        build_training_data(readings, OBSERVATION, local=True).before(cut_ms),
        build_training_data(readings.before(cut_ms), OBSERVATION, local=True),
    )
    assert len(cut.history) == len(rebuilt.history) == 140
    for left, right in zip(cut.sequences, rebuilt.sequences, strict=True):
        assert left.series_index == right.series_index
        for name in ("grid_index", "time_ms", "grid", "truth"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        for name in ("last", "scale", "levels", "calendar", "masked", "gap", "group"):
            np.testing.assert_array_equal(getattr(left.inputs, name), getattr(right.inputs, name))


def test_training_starts_from_the_champion_if_its_network_is_the_same(champion: Checkpoint) -> None:
    """Else it starts from scratch, and says so."""
    warm = train_checkpoint(history(450), OBSERVATION, NETWORK, TrainingConfig(), champion=champion)
    assert warm.facts["start"] == {"from": champion.id}
    assert warm.facts["passes"] <= 4
    cold = train_checkpoint(history(200), OBSERVATION, replace(NETWORK, layers=2), SHORT, champion=champion)
    assert cold.facts["start"]["from"] == "scratch"
    assert champion.id in cold.facts["start"]["why"]

    def distance(checkpoint: Checkpoint) -> float:
        pairs = [
            (checkpoint.weights[name], weight) for name, weight in champion.weights.items() if "calibration" not in name
        ]
        return float(sum((left - right).square().sum() for left, right in pairs))

    scratch = train_checkpoint(history(450), OBSERVATION, NETWORK, replace(SHORT, seed=1))
    assert distance(warm) < 0.2 * distance(scratch)


def test_a_warm_start_needs_fewer_passes_than_a_start_from_scratch(
    champion: Checkpoint,
) -> None:
    warm = train_checkpoint(history(), OBSERVATION, NETWORK, replace(SHORT, passes=1), champion=champion)
    scratch = train_checkpoint(history(450), OBSERVATION, NETWORK, SHORT)
    assert warm.facts["held_out_losses"][0] < scratch.facts["held_out_losses"][-1]


def batch(hours: int = 80) -> tuple[PaddedBatch, list[TrainingSequence]]:
    readings = history(hours)
    readings.values[30:33] = np.nan
    sequences = training_sequences(readings, OBSERVATION)
    return PaddedBatch(sequences, NETWORK.features, NETWORK.horizons), sequences


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def columns(batch: PaddedBatch) -> list[Tensor]:
    chunk = batch.chunk(0, batch.steps)
    return [chunk.u, chunk.q, chunk.target, chunk.lengths]


def test_augmentation_with_zero_rates_changes_no_bit() -> None:
    clean, _ = batch()
    off = AugmentationConfig(share=1.0, noise=0.0, spikes=0.0, dropouts=0.0)
    assert augment(off, clean, seeded()) is clean
    rebuilt = clean.with_grid(disturb(off, clean.grid, clean.scale_by_tick, seeded()))
    for left, right in zip(columns(clean), columns(rebuilt), strict=True):
        assert torch.equal(left.nan_to_num(nan=99.0), right.nan_to_num(nan=99.0))


def test_the_seed_decides_about_the_disturbances() -> None:
    clean, _ = batch()
    first, again, other = (augment(DISTURBED, clean, seeded(seed)).grid.nan_to_num() for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_dropped_tick_is_masked_and_its_last_value_is_the_one_before() -> None:
    clean, _ = batch()
    noisy = augment(replace(DISTURBED, noise=0.0, spikes=0.0), clean, seeded())
    dropped = torch.isnan(noisy.grid) & ~torch.isnan(clean.grid)
    assert dropped.any()
    tick, series = dropped.nonzero()[0].tolist()
    step = int((clean.grid_index[:, series] == tick).nonzero()[0])
    assert float(noisy.inputs["masked"][step, series]) == 1.0
    before = noisy.grid[:tick, series]
    assert float(noisy.inputs["last"][step, series]) == float(before[~torch.isnan(before)][-1])
    masked = noisy.inputs["masked"].bool()
    ticks = noisy.grid.gather(0, noisy.grid_index)
    assert torch.equal(masked, torch.isnan(ticks))


def test_disturbances_do_not_change_the_truths() -> None:
    clean, _ = batch()
    noisy = augment(DISTURBED, clean, seeded())
    before, after = clean.chunk(0, clean.steps).target, noisy.chunk(0, noisy.steps).target
    scale = clean.inputs["scale"].unsqueeze(-1)
    known = ~torch.isnan(before)
    truths = [
        (target * scale + version.inputs["last"].unsqueeze(-1))[known]
        for target, version in ((before, clean), (after, noisy))
    ]
    assert torch.equal(known, ~torch.isnan(after))
    assert not torch.equal(before[known], after[known])
    torch.testing.assert_close(*truths, rtol=1e-4, atol=1e-4)


def test_a_disturbance_changes_no_step_before_it() -> None:
    clean, _ = batch()
    grid = clean.grid.clone()
    grid[50] += 3.0
    late = clean.with_grid(grid)
    step = int((clean.grid_index[:, 0] == 50).nonzero()[0])
    for left, right in zip(columns(clean)[:2], columns(late)[:2], strict=True):
        assert torch.equal(left[:step], right[:step])
        assert not torch.equal(left[step], right[step])


def test_cached_chunks_equal_chunks_that_are_assembled_each_time() -> None:
    _, sequences = batch()
    (kept,) = padded_batches(sequences, NETWORK, 256)
    assert kept.chunk(0, 20) is kept.chunk(0, 20)
    fresh = PaddedBatch(sequences, NETWORK.features, NETWORK.horizons)
    for begin, end, chunk in fresh.chunks(20):
        assert torch.equal(chunk.u, kept.chunk(begin, end).u)
    assert len(kept.chunk(0, 30).u) == 30


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
    changed = joined(history().first(800), history(800, seed=1, period=11))
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
    nothing_new, too_little = refit(history().first(800), champion), refit(history().first(804), champion)
    assert nothing_new.checkpoint is None
    assert "no reading is newer" in nothing_new.reason
    assert too_little.checkpoint is None
    assert "are needed" in too_little.reason


def test_a_broken_readout_is_replaced(champion: Checkpoint) -> None:
    broken = replace(champion, readout=torch.zeros_like(champion.readout))
    refitted = refit(history(), broken)
    assert refitted.checkpoint is not None
    assert refitted.error < 0.5 * refitted.champion_error
    assert not decide(champion, broken).promote


def test_a_readout_that_is_worse_on_the_newest_readings_is_dropped(champion: Checkpoint) -> None:
    readings = history()
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
        for version in (history(), with_other_end(history(), cut_ms))
    )
    assert same(first, second)
    assert not same(first, champion)


def decide(champion: Checkpoint | None, challenger: Checkpoint, rule: Rule | None = None) -> PromotionDecision:
    """Decide on seventy hours, after a hundred to warm up on."""
    recent = history(470).since(START_MS + 300 * HOUR_MS)
    return evaluate_challenger(PIPELINE, champion, challenger, recent, START_MS + 400 * HOUR_MS, rule)


def test_only_a_better_challenger_is_promoted(champion: Checkpoint) -> None:
    worse = replace(champion, readout=torch.zeros_like(champion.readout))
    good = decide(None, champion)
    assert good.promote
    assert good.challenger_loss < 0.9 * good.champion_loss
    assert good.scored == 2 * 3 * 70
    bad, equal = decide(champion, worse), decide(champion, champion)
    assert not bad.promote
    assert bad.challenger_loss > bad.champion_loss
    assert not equal.promote
    assert equal.challenger_loss == equal.champion_loss


def test_a_challenger_with_forecasts_that_are_not_finite_is_rejected(champion: Checkpoint) -> None:
    broken = replace(champion, readout=torch.full_like(champion.readout, torch.nan))
    outcome = decide(champion, broken)
    assert not outcome.promote
    assert np.isnan(outcome.challenger_loss)
    assert "finite" in outcome.reason
    assert decide(broken, champion).promote


def test_too_few_scored_forecasts_promote_no_challenger(champion: Checkpoint) -> None:
    outcome = decide(None, champion, Rule(min_scored=421))
    assert not outcome.promote
    assert "421" in outcome.reason


def test_a_constant_series_does_not_count_in_the_decision(champion: Checkpoint) -> None:
    readings = history(470).since(START_MS + 300 * HOUR_MS)
    flat = replace(readings, values=np.where(readings.series_index == 1, 5.0, readings.values))
    outcome = evaluate_challenger(PIPELINE, None, champion, flat, START_MS + 400 * HOUR_MS)
    assert outcome.promote
    nothing = replace(readings, values=np.full(len(readings), 5.0))
    assert not evaluate_challenger(PIPELINE, None, champion, nothing, START_MS + 400 * HOUR_MS).promote


def pinball(truth: float, quantiles: list[float]) -> float:
    pairs = zip(LEVELS, quantiles, strict=True)
    return float(np.mean([max(q * (truth - x), (q - 1.0) * (truth - x)) for q, x in pairs]))


def test_the_loss_equals_that_of_the_forecasts_looked_up_by_time(champion: Checkpoint) -> None:
    """The oracle finds the truths of every forecast by their time; it knows no pending forecasts."""
    readings, begin = history(460), 400
    truths = readings.values.reshape(-1, 2)
    warm_up = OBSERVATION.context + max(NETWORK.horizons) + 336
    known = readings.since(START_MS + (begin - warm_up) * HOUR_MS)
    errors = np.zeros((2, 4))
    for _, outputs in ServingSimulation(PIPELINE, known, champion).until(len(known)):
        forecasts = outputs.forecasts
        for number, reading in enumerate(forecasts.reading.tolist()):
            row, hour = reading % 2, int(forecasts.timestamp_ms[number] - START_MS) // HOUR_MS
            for j, horizon in enumerate(NETWORK.horizons):
                if begin <= hour + horizon < len(truths):
                    truth, last = truths[hour + horizon, row], truths[hour, row]
                    losses = pinball(truth, forecasts.quantiles[number, :, j].tolist()), pinball(truth, [last] * 3)
                    errors[row] += abs(truth - forecasts.point[number, j]), abs(truth - last), *losses
    expected = np.mean([errors[:, 0] / errors[:, 1], errors[:, 2] / errors[:, 3]])
    outcome = evaluate_challenger(PIPELINE, None, champion, readings, START_MS + begin * HOUR_MS)
    assert outcome.challenger_loss == pytest.approx(expected, rel=2e-3)


def test_a_champion_is_compared_without_what_it_knows_of_the_split(
    champion: Checkpoint,
) -> None:
    """Its readout is refitted without the promotion split."""
    readings = history(250)
    config = replace(SHORT, promotion=0.2, passes=1)
    splits = split_by_time(readings, config.held_out, config.promotion)
    data = build_training_data(readings, OBSERVATION, local=True)
    fresh = with_refitted_readout(data, champion)
    outcome = challenge(data, PIPELINE, NETWORK, config, fresh)
    fair = with_refitted_readout(data.before(splits.promotion_ms), champion)
    expected = evaluate_challenger(PIPELINE, fair, outcome.challenger, readings, splits.promotion_ms)
    assert outcome.decision == expected
    other = challenge(data, PIPELINE, NETWORK, config, replace(champion, network=replace(NETWORK, horizons=(1, 2))))
    assert (
        other.decision.champion_loss
        == evaluate_challenger(PIPELINE, None, champion, readings, splits.promotion_ms).champion_loss
    )
