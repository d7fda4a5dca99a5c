"""Experts are weighted by what they were worth, and what nothing speaks for is the last value."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from forecaster.core.ensemble.combination import CombinationState, Combined, MaturedPairs, combine, learn, smoothed

HORIZONS = np.arange(1, 9)
F32 = NDArray[np.float32]


class Stream:
    """One series whose experts are told what to say; each horizon's truth comes at once."""

    def __init__(self, experts: int = 3, horizons: NDArray[np.int64] = HORIZONS) -> None:
        self.state = CombinationState.empty(1, experts, len(horizons))
        self.horizons = horizons

    def step(self, truth: float, experts: list[float]) -> Combined:
        """What was forecast, before the truth was known."""
        said = np.repeat(np.array(experts, np.float32)[None, :, None], len(self.horizons), axis=2)
        combined = combine(self.state, said, np.zeros(1, np.int64))
        truths = np.full((1, len(self.horizons)), truth, np.float32)
        learn(self.state, self.horizons, MaturedPairs(truths, said, combined.mix, np.ones_like(truths)))
        return combined


def test_nothing_learned_means_the_last_value() -> None:
    combined = Stream().step(1.0, [0.0, 5.0, -3.0])
    assert (combined.point == 0.0).all()
    assert (combined.weights[0, 0] == 1.0).all()


def test_the_loss_of_the_mix_is_at_most_the_weighted_mean_of_the_experts_losses() -> None:
    dice, stream = np.random.default_rng(0), Stream(5)
    for _ in range(500):
        truth, experts = dice.normal(), dice.normal(size=5)
        combined = stream.step(truth, experts.tolist())
        mixed = (combined.mix[0] - truth) ** 2
        weighted = (combined.weights[0] * ((experts - truth) ** 2)[:, None]).sum(axis=0)
        assert (mixed <= weighted + 1e-5).all()
        np.testing.assert_allclose(combined.weights.sum(axis=1), 1.0, rtol=1e-5)


def test_when_another_expert_becomes_the_best_the_mix_is_with_it_within_150_ticks_and_15_more_a_horizon() -> None:
    dice, stream = np.random.default_rng(1), Stream()
    weights = []
    for tick in range(2_300):
        truth = dice.normal()
        good, bad = truth + 0.3 * dice.normal(), truth + 1.5 * dice.normal()
        combined = stream.step(truth, [0.0, good, bad] if tick < 2_000 else [0.0, bad, good])
        weights.append(combined.weights[0, 2])
    for column, horizon in enumerate(HORIZONS):
        assert weights[2_000 + 150 + 15 * (horizon - 1)][column] > 0.9


def test_an_expert_that_is_absurd_moves_the_mix_by_twelve_scales_times_its_weight() -> None:
    dice, stream = np.random.default_rng(5), Stream()
    for _ in range(500):
        truth = dice.normal()
        stream.step(truth, [0.0, truth, truth + dice.normal()])
    absurd = stream.step(0.0, [0.0, 0.0, 1e6])
    assert (absurd.weights[0, 2] > 0.0).all()
    np.testing.assert_allclose(absurd.mix, 12.0 * absurd.weights[:, 2], rtol=1e-4)


def test_the_gate_opens_for_a_mix_that_knows_and_stays_shut_for_one_that_does_not() -> None:
    dice = np.random.default_rng(2)
    for knows in (True, False):
        stream = Stream(2)
        for _ in range(1_000):
            truth = dice.normal()
            guess = truth + 0.3 * dice.normal() if knows else dice.normal()
            combined = stream.step(truth, [0.0, guess])
        assert (combined.gate > 0.8).all() if knows else (np.abs(combined.gate) < 0.05).all()


def test_who_has_nothing_to_say_has_no_weight_and_is_back_with_its_losses() -> None:
    dice, stream = np.random.default_rng(3), Stream()
    for _ in range(300):
        truth = dice.normal()
        stream.step(truth, [0.0, truth, truth + 1.0])
    silent = stream.step(0.5, [0.0, np.nan, 1.5])
    assert (silent.weights[0, 1] == 0.0).all()
    assert np.isfinite(silent.mix).all()
    assert (stream.step(0.5, [0.0, 0.5, 1.5]).weights[0, 1] > 0.99).all()


def test_a_new_expert_begins_as_the_last_value_and_not_as_its_first_lucky_forecast() -> None:
    dice, stream = np.random.default_rng(4), Stream()
    for _ in range(500):
        truth = dice.normal()
        stream.step(truth, [0.0, np.nan, truth + 0.5])
    stream.step(0.7, [0.0, 0.7, 1.2])
    assert (stream.step(0.0, [0.0, 9.0, 0.5]).weights[0, 1] < 0.1).all()


def test_a_new_expert_that_is_far_better_leads_after_a_dozen_truths_however_long_the_last_value_was_there() -> None:
    dice, stream = np.random.default_rng(6), Stream()
    for _ in range(5_000):
        stream.step(dice.normal(), [0.0, np.nan, dice.normal()])
    for _ in range(12):
        truth = dice.normal()
        stream.step(truth, [0.0, truth, dice.normal()])
    truth = dice.normal()
    assert (stream.step(truth, [0.0, truth, 0.0]).weights[0, 1] > 0.8).all()


def test_the_first_losses_are_plain_means_and_horizons_that_come_later_count_their_own_truths() -> None:
    dice = np.random.default_rng(7)
    state, horizons = CombinationState.empty(1, 2, 2), np.array([1, 2])
    errors = dice.normal(size=(12, 2)).astype(np.float32)
    for tick in range(12):
        truth = np.zeros((1, 2), np.float32)
        said = np.repeat(errors[tick][None, :, None], 2, axis=2)
        if tick == 0:
            said[:, :, 1] = np.nan
        learn(state, horizons, MaturedPairs(truth, said, said[:, 0], np.ones_like(truth)))
    np.testing.assert_allclose(state.slow[0, :, 0], (errors**2).mean(axis=0), rtol=1e-4)


@pytest.mark.parametrize("horizons", [np.arange(1, count + 1) for count in range(1, 12)], ids=len)
def test_neighbours_are_at_most_half_a_horizon_away_and_three(horizons: NDArray[np.int64]) -> None:
    dice = np.random.default_rng(len(horizons))
    values = dice.normal(size=(4, 2, len(horizons))).astype(np.float32)
    values[dice.random(values.shape) < 0.3] = np.nan
    for one in (values, np.nan_to_num(values)):
        found = smoothed(one, horizons)
        for column, horizon in enumerate(horizons):
            near = np.abs(horizons - horizon) <= min(3, horizon // 2)
            with np.errstate(all="ignore"):
                wanted = np.array(
                    [
                        [np.nanmean(row[near]) if np.isfinite(row[near]).any() else np.nan for row in rows]
                        for rows in one
                    ]
                )
            np.testing.assert_allclose(found[..., column], wanted, rtol=1e-4, atol=1e-6)


def test_the_others_of_a_group_are_listened_to_and_series_alone_are_not() -> None:
    state = CombinationState.empty(3, 2, 1)
    state.fast[:], state.slow[:] = 1.0, 1.0
    state.along[:], state.moved[:] = [[0.0], [900.0], [900.0]], [[0.0], [1_000.0], [1_000.0]]
    said = np.ones((3, 2, 1), np.float32)
    alone = combine(state, said, np.array([0, 1, 2])).gate[:, 0]
    together = combine(state, said, np.array([0, 0, 1])).gate[:, 0]
    assert alone[0] == 0.0
    assert together[0] > 0.5
    assert together[2] == alone[2] > 0.5
