"""An interval holds as many truths as it says, whatever comes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from forecaster.core.ensemble.conformal import STEP, CalibrationState, bounded, learn

LEVELS = np.array([0.1, 0.5, 0.9], np.float32)


def shares(
    truth: Callable[[int, np.ndarray], float],
    ticks: int,
    horizon: int = 1,
    usual: Callable[[int], float] = lambda _: 1.0,
) -> np.ndarray:
    """Which share of the truths lay below each level's quantile, made `horizon` ticks before, from an offset of 0."""
    state, below, made = CalibrationState.empty(1, 3, 1), np.zeros(3), []
    for tick in range(ticks):
        made.append(state.shift.copy())
        if tick < horizon:
            continue
        then = made[tick - horizon]
        came = np.array([[truth(tick, then[0, :, 0])]], np.float32)
        below += came[0, 0] <= then[0, :, 0]
        learn(state, LEVELS, came, then, np.array([[usual(tick)]], np.float32))
    return below / (ticks - horizon)


@pytest.mark.parametrize("horizon", [1, 5, 24])
def test_the_conformal_bound_holds_for_errors_that_stay_within_a_limit(horizon: int) -> None:
    dice, limit, ticks = np.random.default_rng(0), 2.0, 4_000
    adversary = lambda tick, then: limit if then[int(tick / 500) % 3] < 0.3 else -limit  # noqa: E731
    drifting = lambda tick, _: limit * np.sin(tick / 300.0) * dice.random()  # noqa: E731
    bound = (2.0 * limit + STEP * (1 + horizon)) / (STEP * (ticks - horizon))
    for stream in (adversary, drifting):
        assert (np.abs(shares(stream, ticks, horizon) - LEVELS) <= bound).all()


def test_intervals_hold_when_the_errors_grow_five_times() -> None:
    dice = np.random.default_rng(1)
    size = lambda tick: 1.0 if tick < 4_000 else 5.0  # noqa: E731
    found = shares(lambda tick, _: dice.normal() * size(tick), 8_000, usual=size)
    np.testing.assert_allclose(found, LEVELS, atol=0.015)


def test_without_a_truth_or_a_forecast_nothing_is_learned() -> None:
    state = CalibrationState.empty(1, 3, 1)
    none, one, three = np.full((1, 1), np.nan, np.float32), np.ones((1, 1), np.float32), np.zeros((1, 3, 1), np.float32)
    learn(state, LEVELS, none, three, one)
    learn(state, LEVELS, one, three * np.nan, one)
    learn(state, LEVELS, one, three, none)
    assert not state.shift.any()


def test_an_offset_is_no_farther_out_than_usual_errors_make_bounded() -> None:
    wide = np.array([[[-9.0], [2.0], [9.0]]], np.float32)
    usual = np.array([[0.5]], np.float32)
    found = bounded(np.repeat(wide, 2, axis=2), (0.1, 0.5, 0.9), np.array([[0.5, np.nan]], np.float32))
    edge = 1.2816 * 0.5
    np.testing.assert_allclose(found[0, :, 0], [-edge, 0.5 * 0.5, edge], rtol=1e-4)
    np.testing.assert_array_equal(found[0, :, 1], wide[0, :, 0], "nobody knows what is usual")
    narrow = wide * 0.01
    np.testing.assert_array_equal(bounded(narrow, (0.1, 0.5, 0.9), usual), narrow)
