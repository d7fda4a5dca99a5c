"""Experts are weighted by their losses; without evidence the point is the last value."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.core.ensemble.combination import CombinationState, Combined, MaturedPairs, combine, learn, smoothed
from forecaster.records import I64

HORIZONS = np.arange(1, 9)


class Stream:
    """One series with given forecasts of its experts; the truths of all horizons come at once."""

    def __init__(self, experts: int = 3, horizons: I64 = HORIZONS) -> None:
        self.state = CombinationState.empty(1, experts, len(horizons))
        self.horizons = horizons

    def step(self, truth: float, experts: list[float]) -> Combined:
        """Return the combined forecast, then learn from the truth."""
        forecasts = np.repeat(np.array(experts, np.float32)[None, :, None], len(self.horizons), axis=2)
        combined = combine(self.state, forecasts, np.zeros(1, np.int64))
        truths = np.full((1, len(self.horizons)), truth, np.float32)
        learn(self.state, self.horizons, MaturedPairs(truths, forecasts, combined.mix, np.ones_like(truths)))
        return combined


def test_without_any_loss_the_point_is_the_last_value() -> None:
    combined = Stream().step(1.0, [0.0, 5.0, -3.0])
    assert (combined.point == 0.0).all()
    assert (combined.weights[0, 0] == 1.0).all()


def test_the_mix_loses_at_most_the_weighted_mean_of_the_experts() -> None:
    """The squared error of the mix is at most the experts' weighted mean, and the weights sum to 1."""
    dice, stream = np.random.default_rng(0), Stream(5)
    for _ in range(500):
        truth, experts = dice.normal(), dice.normal(size=5)
        combined = stream.step(truth, experts.tolist())
        mixed = (combined.mix[0] - truth) ** 2
        weighted = (combined.weights[0] * ((experts - truth) ** 2)[:, None]).sum(axis=0)
        assert (mixed <= weighted + 1e-5).all()
        np.testing.assert_allclose(combined.weights.sum(axis=1), 1.0, rtol=1e-5)


def test_the_mix_follows_a_new_best_expert() -> None:
    """The weight of the new best expert exceeds 0.9 within 150 ticks, plus 15 for each tick of the horizon."""
    dice, stream = np.random.default_rng(1), Stream()
    weights = []
    for tick in range(2_300):
        truth = dice.normal()
        good, bad = truth + 0.3 * dice.normal(), truth + 1.5 * dice.normal()
        combined = stream.step(truth, [0.0, good, bad] if tick < 2_000 else [0.0, bad, good])
        weights.append(combined.weights[0, 2])
    for column, horizon in enumerate(HORIZONS):
        assert weights[2_000 + 150 + 15 * (horizon - 1)][column] > 0.9


def test_an_absurd_forecast_moves_the_mix_by_a_bounded_amount() -> None:
    """An absurd forecast moves the mix by twelve scales times the weight of its expert."""
    dice, stream = np.random.default_rng(5), Stream()
    for _ in range(500):
        truth = dice.normal()
        stream.step(truth, [0.0, truth, truth + dice.normal()])
    absurd = stream.step(0.0, [0.0, 0.0, 1e6])
    assert (absurd.weights[0, 2] > 0.0).all()
    np.testing.assert_allclose(absurd.mix, 12.0 * absurd.weights[:, 2], rtol=1e-4)


def test_the_gate_opens_only_for_a_mix_that_predicts_the_truth() -> None:
    dice = np.random.default_rng(2)
    for predicts in (True, False):
        stream = Stream(2)
        for _ in range(1_000):
            truth = dice.normal()
            guess = truth + 0.3 * dice.normal() if predicts else dice.normal()
            combined = stream.step(truth, [0.0, guess])
        assert (combined.gate > 0.8).all() if predicts else (np.abs(combined.gate) < 0.05).all()


def test_an_expert_without_a_forecast_has_no_weight_and_keeps_its_losses() -> None:
    dice, stream = np.random.default_rng(3), Stream()
    for _ in range(300):
        truth = dice.normal()
        stream.step(truth, [0.0, truth, truth + 1.0])
    silent = stream.step(0.5, [0.0, np.nan, 1.5])
    assert (silent.weights[0, 1] == 0.0).all()
    assert np.isfinite(silent.mix).all()
    assert (stream.step(0.5, [0.0, 0.5, 1.5]).weights[0, 1] > 0.99).all()


def test_a_new_expert_starts_with_the_losses_of_the_last_value() -> None:
    """The first forecast of an expert may be right by chance, so it gives the expert no weight."""
    dice, stream = np.random.default_rng(4), Stream()
    for _ in range(500):
        truth = dice.normal()
        stream.step(truth, [0.0, np.nan, truth + 0.5])
    stream.step(0.7, [0.0, 0.7, 1.2])
    assert (stream.step(0.0, [0.0, 9.0, 0.5]).weights[0, 1] < 0.1).all()


def test_a_far_better_new_expert_leads_after_a_dozen_truths() -> None:
    """This holds however many truths the losses of the last value rest on."""
    dice, stream = np.random.default_rng(6), Stream()
    for _ in range(5_000):
        stream.step(dice.normal(), [0.0, np.nan, dice.normal()])
    for _ in range(12):
        truth = dice.normal()
        stream.step(truth, [0.0, truth, dice.normal()])
    truth = dice.normal()
    assert (stream.step(truth, [0.0, truth, 0.0]).weights[0, 1] > 0.8).all()


def test_the_first_losses_are_plain_means_for_each_horizon() -> None:
    """A horizon whose first truth comes later counts its own truths."""
    dice = np.random.default_rng(7)
    state, horizons = CombinationState.empty(1, 2, 2), np.array([1, 2])
    errors = dice.normal(size=(12, 2)).astype(np.float32)
    for tick in range(12):
        truth = np.zeros((1, 2), np.float32)
        forecasts = np.repeat(errors[tick][None, :, None], 2, axis=2)
        if tick == 0:
            forecasts[:, :, 1] = np.nan
        learn(state, horizons, MaturedPairs(truth, forecasts, forecasts[:, 0], np.ones_like(truth)))
    np.testing.assert_allclose(state.slow[0, :, 0], (errors**2).mean(axis=0), rtol=1e-4)


@pytest.mark.parametrize("horizons", [np.arange(1, count + 1) for count in range(1, 12)], ids=len)
def test_neighbouring_horizons_are_at_most_half_away_and_at_most_three(horizons: I64) -> None:
    dice = np.random.default_rng(len(horizons))
    values = dice.normal(size=(4, 2, len(horizons))).astype(np.float32)
    values[dice.random(values.shape) < 0.3] = np.nan
    for case in (values, np.nan_to_num(values)):
        means = smoothed(case, horizons)
        for column, horizon in enumerate(horizons):
            near = np.abs(horizons - horizon) <= min(3, horizon // 2)
            with np.errstate(all="ignore"):
                expected = np.array(
                    [
                        [np.nanmean(row[near]) if np.isfinite(row[near]).any() else np.nan for row in rows]
                        for rows in case
                    ]
                )
            np.testing.assert_allclose(means[..., column], expected, rtol=1e-4, atol=1e-6)


def test_gates_are_pooled_within_a_group_only() -> None:
    state = CombinationState.empty(3, 2, 1)
    state.fast[:], state.slow[:] = 1.0, 1.0
    state.gate_numerator[:], state.gate_denominator[:] = [[0.0], [900.0], [900.0]], [[0.0], [1_000.0], [1_000.0]]
    forecasts = np.ones((3, 2, 1), np.float32)
    alone = combine(state, forecasts, np.array([0, 1, 2])).gate[:, 0]
    together = combine(state, forecasts, np.array([0, 0, 1])).gate[:, 0]
    assert alone[0] == 0.0
    assert together[0] > 0.5
    assert together[2] == alone[2] > 0.5
