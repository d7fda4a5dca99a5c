"""Stretches, warm starts, augmentation, the readout's refresh and promotion: their laws."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import HOUR_MS, LEVELS, START_MS
from torch import Tensor

from forecaster.core.features import FeatureConfig
from forecaster.core.model import Checkpoint
from forecaster.core.network import NetworkConfig
from forecaster.core.state import ObservationConfig
from forecaster.errors import UsageError
from forecaster.files import History
from forecaster.learning.augmentation import AugmentationConfig, augmented, disturbed
from forecaster.learning.batches import PaddedBatch, padded
from forecaster.learning.challenge import challenge
from forecaster.learning.promotion import Rule, Verdict, judge
from forecaster.learning.refresh import next_readout_id, refresh_readout, resolved
from forecaster.learning.replay import Replay
from forecaster.learning.sequences import TrainingSequence
from forecaster.learning.stretches import stretches
from forecaster.learning.trainer import Trainer, TrainingConfig
from forecaster.learning.training_job import SEEN_UNTIL, observed, train_checkpoint, training_sequences
from forecaster.serving.pipeline import PipelineConfig

OBSERVATION = ObservationConfig(interval_ms=HOUR_MS, context=12)
NETWORK = NetworkConfig((1, 2, 3), LEVELS, hidden_size=16, features=FeatureConfig(context=12))
PIPELINE = PipelineConfig(OBSERVATION, NETWORK.horizons, LEVELS)
SHORT = TrainingConfig(passes=3)
DISTURBED = AugmentationConfig(share=1.0, noise=0.5, spikes=0.1, spike_size=5.0, dropouts=0.3)


def history(hours: int = 600, series: int = 2, *, seed: int = 0, period: int = 17) -> History:
    """A season of a length that no simple expert knows, so that the network has something to add."""
    generator = np.random.default_rng(seed)
    time = np.arange(hours)
    values = [10 + 5 * np.sin(2 * np.pi * (time + k) / period) + generator.normal(0, 0.3, hours) for k in range(series)]
    return History(
        series_ids=[f"pump-{k}" for k in range(series)],
        row=np.tile(np.arange(series), hours),
        timestamp_ms=START_MS + np.repeat(time, series) * HOUR_MS,
        values=np.column_stack(values).reshape(-1),
        records=np.repeat(time, series),
    )


def with_other_end(one: History, from_ms: int) -> History:
    """The same history, with other values from then on."""
    late = one.timestamp_ms >= from_ms
    return replace(one, values=np.where(late, one.values * 7.0 - 3.0, one.values))


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return torch.equal(one.readout, other.readout) and all(
        torch.equal(weight, other.weights[name]) for name, weight in one.weights.items()
    )


@pytest.fixture(scope="module")
def champion() -> Checkpoint:
    """Trained on the first 400 hours."""
    return train_checkpoint(history().first(800), OBSERVATION, NETWORK, TrainingConfig(passes=6, dropout=0.1))


def test_the_stretches_are_disjoint_in_order_and_cover_everything() -> None:
    one = history(200)
    cuts = stretches(one, 0.15, 0.1)
    stamps = one.timestamp_ms
    fit, stop, promote = (
        (stamps >= begin) & (stamps < end)
        for begin, end in [
            (cuts.begin_ms, cuts.early_stopping_ms),
            (cuts.early_stopping_ms, cuts.promotion_ms),
            (cuts.promotion_ms, cuts.end_ms + 1),
        ]
    )
    assert (fit.astype(int) + stop + promote == 1).all()
    assert 0 < promote.sum() < stop.sum() < fit.sum()
    assert stretches(one, 0.15, 0.0).promotion_ms > stamps[-1]
    with pytest.raises(UsageError, match="no readings"):
        stretches(one.first(0), 0.15, 0.1)


def test_nothing_of_the_promotion_stretch_reaches_the_weights() -> None:
    one = history(200)
    config = replace(SHORT, promotion=0.2)
    promotion_ms = stretches(one, config.held_out, config.promotion).promotion_ms
    trained, other, earlier = (
        challenge(observed(version, OBSERVATION, own=True), PIPELINE, NETWORK, config, None)
        for version in (one, with_other_end(one, promotion_ms), with_other_end(one, promotion_ms - HOUR_MS))
    )
    assert same(trained.challenger, other.challenger)
    assert trained.verdict != other.verdict
    assert not same(trained.challenger, earlier.challenger)


def test_what_is_fitted_has_no_target_in_the_early_stopping_stretch() -> None:
    one = history(300)
    config = replace(SHORT, passes=1)
    split_ms = stretches(one, config.held_out, 0.0).early_stopping_ms

    def first_pass(version: History) -> float:
        trainer = Trainer(NETWORK, config, training_sequences(version, OBSERVATION), split_ms)
        for _ in trainer.updates():
            pass
        return float(sum(weight.double().sum() for weight in vars(trainer)["_network"].state_dict().values()))

    assert first_pass(one) == first_pass(with_other_end(one, split_ms))
    assert first_pass(one) != first_pass(with_other_end(one, split_ms - HOUR_MS))


def test_lessons_cut_at_a_time_are_those_of_the_history_cut_there() -> None:
    one = history(100)
    one.values[40:44] = np.nan
    cut_ms = START_MS + 70 * HOUR_MS
    cut, anew = observed(one, OBSERVATION, own=True).before(cut_ms), observed(one.before(cut_ms), OBSERVATION, own=True)
    assert len(cut.history) == len(anew.history) == 140
    for left, right in zip(cut.sequences, anew.sequences, strict=True):
        assert left.row == right.row
        for name in ("place", "time_ms", "grid", "truth"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        for name in ("last", "scale", "levels", "calendar", "masked", "gap", "group"):
            np.testing.assert_array_equal(getattr(left.inputs, name), getattr(right.inputs, name))


def test_a_warm_start_begins_with_the_champion_and_another_network_from_scratch(champion: Checkpoint) -> None:
    warm = train_checkpoint(history(450), OBSERVATION, NETWORK, TrainingConfig(), start=champion)
    assert warm.facts["start"] == {"from": champion.id}
    assert warm.facts["passes"] <= 4
    cold = train_checkpoint(history(200), OBSERVATION, replace(NETWORK, layers=2), SHORT, start=champion)
    assert cold.facts["start"]["from"] == "scratch"
    assert champion.id in cold.facts["start"]["why"]

    def distance(one: Checkpoint) -> float:
        pairs = [(one.weights[name], weight) for name, weight in champion.weights.items() if "calibration" not in name]
        return float(sum((left - right).square().sum() for left, right in pairs))

    scratch = train_checkpoint(history(450), OBSERVATION, NETWORK, replace(SHORT, seed=1))
    assert distance(warm) < 0.2 * distance(scratch)


def test_a_warm_start_is_better_after_one_pass_than_training_from_scratch_after_three(
    champion: Checkpoint,
) -> None:
    warm = train_checkpoint(history(), OBSERVATION, NETWORK, replace(SHORT, passes=1), start=champion)
    scratch = train_checkpoint(history(), OBSERVATION, NETWORK, SHORT)
    assert warm.facts["held_out_losses"][0] < scratch.facts["held_out_losses"][-1]


def batch(hours: int = 80) -> tuple[PaddedBatch, list[TrainingSequence]]:
    one = history(hours)
    one.values[30:33] = np.nan
    sequences = training_sequences(one, OBSERVATION)
    return PaddedBatch(sequences, NETWORK.features, NETWORK.horizons), sequences


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def columns(one: PaddedBatch) -> list[Tensor]:
    chunk = one.chunk(0, one.steps)
    return [chunk.u, chunk.q, chunk.target, chunk.lengths]


def test_without_rates_the_batch_is_the_same_bit_by_bit() -> None:
    clean, _ = batch()
    off = AugmentationConfig(share=1.0, noise=0.0, spikes=0.0, dropouts=0.0)
    assert augmented(off, clean, seeded()) is clean
    rebuilt = clean.with_grid(disturbed(off, clean.grid, clean.scale_by_tick, seeded()))
    for left, right in zip(columns(clean), columns(rebuilt), strict=True):
        assert torch.equal(left.nan_to_num(nan=99.0), right.nan_to_num(nan=99.0))


def test_the_same_seed_gives_the_same_batch_and_another_one_another() -> None:
    clean, _ = batch()
    first, again, other = (augmented(DISTURBED, clean, seeded(seed)).grid.nan_to_num() for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_dropped_tick_is_missing_in_the_context_and_flagged_and_the_last_value_is_the_one_before() -> None:
    clean, _ = batch()
    noisy = augmented(replace(DISTURBED, noise=0.0, spikes=0.0), clean, seeded())
    dropped = torch.isnan(noisy.grid) & ~torch.isnan(clean.grid)
    assert dropped.any()
    tick, series = dropped.nonzero()[0].tolist()
    step = int((clean.place[:, series] == tick).nonzero()[0])
    assert float(noisy.inputs["masked"][step, series]) == 1.0
    before = noisy.grid[:tick, series]
    assert float(noisy.inputs["last"][step, series]) == float(before[~torch.isnan(before)][-1])
    masked = noisy.inputs["masked"].bool()
    ticks = noisy.grid.gather(0, noisy.place)
    assert torch.equal(masked, torch.isnan(ticks))


def test_the_truth_of_a_target_stays_what_it_is() -> None:
    clean, _ = batch()
    noisy = augmented(DISTURBED, clean, seeded())
    before, after = clean.chunk(0, clean.steps).target, noisy.chunk(0, noisy.steps).target
    scale = clean.inputs["scale"].unsqueeze(-1)
    known = ~torch.isnan(before)
    truths = [
        (target * scale + one.inputs["last"].unsqueeze(-1))[known] for target, one in ((before, clean), (after, noisy))
    ]
    assert torch.equal(known, ~torch.isnan(after))
    assert not torch.equal(before[known], after[known])
    torch.testing.assert_close(*truths, rtol=1e-4, atol=1e-4)


def test_a_disturbance_changes_nothing_before_it() -> None:
    clean, _ = batch()
    grid = clean.grid.clone()
    grid[50] += 3.0
    late = clean.with_grid(grid)
    step = int((clean.place[:, 0] == 50).nonzero()[0])
    for left, right in zip(columns(clean)[:2], columns(late)[:2], strict=True):
        assert torch.equal(left[:step], right[:step])
        assert not torch.equal(left[step], right[step])


def test_kept_chunks_are_those_that_are_assembled_each_time() -> None:
    _, sequences = batch()
    (kept,) = padded(sequences, NETWORK, 256)
    assert kept.chunk(0, 20) is kept.chunk(0, 20)
    fresh = PaddedBatch(sequences, NETWORK.features, NETWORK.horizons)
    for begin, end, chunk in fresh.chunks(20):
        assert torch.equal(chunk.u, kept.chunk(begin, end).u)
    assert len(kept.chunk(0, 30).u) == 30


def test_readout_ids_count_up_from_their_body_and_none_comes_twice() -> None:
    first = next_readout_id("2025-01-01T00-00-00Z-3f9a")
    assert re.fullmatch(r"2025-01-01T00-00-00Z-3f9a\.1-[0-9a-f]{4}", first)
    assert re.fullmatch(r"2025-01-01T00-00-00Z-3f9a\.2-[0-9a-f]{4}", next_readout_id(first))
    assert len({next_readout_id("body.9-0000") for _ in range(20)}) > 10, "after a rollback the number comes again"


def joined(before: History, after: History) -> History:
    """One history after the other."""
    later = after.since(int(before.timestamp_ms[-1]) + 1)
    return History(
        before.series_ids,
        np.concatenate([before.row, later.row]),
        np.concatenate([before.timestamp_ms, later.timestamp_ms]),
        np.concatenate([before.values, later.values]),
        np.concatenate([before.records, later.records]),
    )


def test_a_changed_process_gives_a_new_readout_and_the_same_body(champion: Checkpoint) -> None:
    changed = joined(history().first(800), history(800, seed=1, period=11))
    refreshed = refresh_readout(changed, OBSERVATION, champion)
    assert refreshed is not None
    assert refreshed.error < refreshed.champion_error
    assert refreshed.checkpoint.body == champion.id
    assert refreshed.checkpoint.id.startswith(f"{champion.id}.1-")
    assert refreshed.checkpoint.facts["readout"]["champion_error"] == refreshed.champion_error
    assert refreshed.checkpoint.facts[SEEN_UNTIL] == int(changed.timestamp_ms[-1])
    for name, weight in champion.weights.items():
        assert torch.equal(weight, refreshed.checkpoint.weights[name]) == ("calibration" not in name)
    recent = changed.since(START_MS + 500 * HOUR_MS)
    assert judge(PIPELINE, champion, refreshed.checkpoint, recent, START_MS + 700 * HOUR_MS).promote


def test_a_readout_that_has_seen_everything_is_not_judged_again(champion: Checkpoint) -> None:
    assert refresh_readout(history().first(800), OBSERVATION, champion) is None
    assert refresh_readout(history().first(804), OBSERVATION, champion) is None


def test_a_readout_that_was_broken_is_replaced_by_one_that_serves_as_well_as_before(champion: Checkpoint) -> None:
    broken = replace(champion, readout=torch.zeros_like(champion.readout))
    refreshed = refresh_readout(history(), OBSERVATION, broken)
    assert refreshed is not None
    assert refreshed.error < 0.5 * refreshed.champion_error
    assert not verdict(champion, broken).promote


def test_a_readout_that_would_have_done_worse_of_late_is_not_published(champion: Checkpoint) -> None:
    one = history()
    noise = np.random.default_rng(0).normal(10, 4, len(one))
    misled = replace(one, values=np.where(one.timestamp_ms < START_MS + 545 * HOUR_MS, noise, one.values))
    assert refresh_readout(misled, OBSERVATION, champion) is None


def test_a_solved_readout_knows_nothing_of_what_the_lessons_leave_out(champion: Checkpoint) -> None:
    cut_ms = START_MS + 500 * HOUR_MS
    first, second = (
        resolved(observed(one, OBSERVATION, own=True).before(cut_ms), champion)
        for one in (history(), with_other_end(history(), cut_ms))
    )
    assert same(first, second)
    assert not same(first, champion)


def verdict(champion: Checkpoint | None, challenger: Checkpoint, rule: Rule | None = None) -> Verdict:
    """On seventy hours, after a hundred to warm up on."""
    recent = history(470).since(START_MS + 300 * HOUR_MS)
    return judge(PIPELINE, champion, challenger, recent, START_MS + 400 * HOUR_MS, rule)


def test_a_better_challenger_is_promoted_and_a_worse_or_equal_one_is_not(champion: Checkpoint) -> None:
    worse = replace(champion, readout=torch.zeros_like(champion.readout))
    good = verdict(None, champion)
    assert good.promote
    assert good.challenger_loss < 0.9 * good.champion_loss
    assert good.last_value_loss == 1.0
    assert good.scored == 2 * 3 * 70
    bad, equal = verdict(champion, worse), verdict(champion, champion)
    assert not bad.promote
    assert bad.challenger_loss > bad.champion_loss
    assert not equal.promote
    assert equal.challenger_loss == equal.champion_loss


def test_a_challenger_whose_forecasts_are_no_numbers_is_not_promoted(champion: Checkpoint) -> None:
    broken = replace(champion, readout=torch.full_like(champion.readout, torch.nan))
    judged = verdict(champion, broken)
    assert not judged.promote
    assert np.isnan(judged.challenger_loss)
    assert "finite" in judged.reason
    assert verdict(broken, champion).promote


def test_too_few_scored_forecasts_promote_nobody(champion: Checkpoint) -> None:
    judged = verdict(None, champion, Rule(min_scored=421))
    assert not judged.promote
    assert "421" in judged.reason


def test_a_constant_series_has_no_say(champion: Checkpoint) -> None:
    one = history(470).since(START_MS + 300 * HOUR_MS)
    flat = replace(one, values=np.where(one.row == 1, 5.0, one.values))
    judged = judge(PIPELINE, None, champion, flat, START_MS + 400 * HOUR_MS)
    assert judged.promote
    nothing = replace(one, values=np.full(len(one), 5.0))
    assert not judge(PIPELINE, None, champion, nothing, START_MS + 400 * HOUR_MS).promote


def pinball(truth: float, quantiles: list[float]) -> float:
    pairs = zip(LEVELS, quantiles, strict=True)
    return float(np.mean([max(q * (truth - x), (q - 1.0) * (truth - x)) for q, x in pairs]))


def test_the_loss_is_what_the_forecasts_themselves_were_worth(champion: Checkpoint) -> None:
    """The oracle looks every forecast's truths up by their time, and knows nothing of how forecasts mature."""
    one, begin = history(460), 400
    truths = one.values.reshape(-1, 2)
    warm_up = OBSERVATION.context + max(NETWORK.horizons) + 336
    known = one.since(START_MS + (begin - warm_up) * HOUR_MS)
    errors = np.zeros((2, 4))
    for _, outputs in Replay(PIPELINE, known, champion).until(len(known)):
        made = outputs.forecasts
        for number, reading in enumerate(made.reading.tolist()):
            row, hour = reading % 2, int(made.timestamp_ms[number] - START_MS) // HOUR_MS
            for j, horizon in enumerate(NETWORK.horizons):
                if begin <= hour + horizon < len(truths):
                    truth, last = truths[hour + horizon, row], truths[hour, row]
                    losses = pinball(truth, made.quantiles[number, :, j].tolist()), pinball(truth, [last] * 3)
                    errors[row] += abs(truth - made.point[number, j]), abs(truth - last), *losses
    expected = np.mean([errors[:, 0] / errors[:, 1], errors[:, 2] / errors[:, 3]])
    judged = judge(PIPELINE, None, champion, one, START_MS + begin * HOUR_MS)
    assert judged.challenger_loss == pytest.approx(expected, rel=2e-3)


def test_a_champion_that_has_seen_the_promotion_stretch_is_judged_without_what_it_knows_of_it(
    champion: Checkpoint,
) -> None:
    one = history(250)
    config = replace(SHORT, promotion=0.2, passes=1)
    cuts = stretches(one, config.held_out, config.promotion)
    lessons = observed(one, OBSERVATION, own=True)
    fresh = resolved(lessons, champion)
    judged = challenge(lessons, PIPELINE, NETWORK, config, fresh)
    fair = resolved(lessons.before(cuts.promotion_ms), champion)
    expected = judge(PIPELINE, fair, judged.challenger, one, cuts.promotion_ms)
    assert judged.verdict == expected
    other = challenge(lessons, PIPELINE, NETWORK, config, replace(champion, network=replace(NETWORK, horizons=(1, 2))))
    assert other.verdict.champion_loss == judge(PIPELINE, None, champion, one, cuts.promotion_ms).champion_loss
