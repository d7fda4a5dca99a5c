"""Intervals hold the share of truths that their levels name, for any sequence."""

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
    rms_error: Callable[[int], float] = lambda _: 1.0,
) -> np.ndarray:
    """Return the share of truths below each level's quantile, forecast `horizon` ticks before with an offset of 0."""
    state, below, made = CalibrationState.empty(1, 3, 1), np.zeros(3), []
    for tick in range(ticks):
        made.append(state.shift.copy())
        if tick < horizon:
            continue
        forecast = made[tick - horizon]
        came = np.array([[truth(tick, forecast[0, :, 0])]], np.float32)
        below += came[0, 0] <= forecast[0, :, 0]
        learn(state, LEVELS, came, forecast, np.array([[rms_error(tick)]], np.float32))
    return below / (ticks - horizon)


@pytest.mark.parametrize("horizon", [1, 5, 24])
def test_the_conformal_bound_holds_for_bounded_errors(horizon: int) -> None:
    """The bound in the module's docstring holds against an adversary and against a drift."""
    dice, limit, ticks = np.random.default_rng(0), 2.0, 4_000
    adversary = lambda tick, quantiles: limit if quantiles[int(tick / 500) % 3] < 0.3 else -limit  # noqa: E731
    drifting = lambda tick, _: limit * np.sin(tick / 300.0) * dice.random()  # noqa: E731
    bound = (2.0 * limit + STEP * (1 + horizon)) / (STEP * (ticks - horizon))
    for stream in (adversary, drifting):
        assert (np.abs(shares(stream, ticks, horizon) - LEVELS) <= bound).all()


def test_intervals_hold_when_errors_grow_fivefold() -> None:
    dice = np.random.default_rng(1)
    size = lambda tick: 1.0 if tick < 4_000 else 5.0  # noqa: E731
    shares_below = shares(lambda tick, _: dice.normal() * size(tick), 8_000, rms_error=size)
    np.testing.assert_allclose(shares_below, LEVELS, atol=0.015)


def test_shifts_need_a_truth_a_forecast_and_a_rms_error() -> None:
    state = CalibrationState.empty(1, 3, 1)
    none, one, three = np.full((1, 1), np.nan, np.float32), np.ones((1, 1), np.float32), np.zeros((1, 3, 1), np.float32)
    learn(state, LEVELS, none, three, one)
    learn(state, LEVELS, one, three * np.nan, one)
    learn(state, LEVELS, one, three, none)
    assert not state.shift.any()


def test_offsets_are_bounded_by_the_rms_error_if_it_is_known() -> None:
    wide = np.array([[[-9.0], [2.0], [9.0]]], np.float32)
    rms_error = np.array([[0.5]], np.float32)
    offsets = bounded(np.repeat(wide, 2, axis=2), (0.1, 0.5, 0.9), np.array([[0.5, np.nan]], np.float32))
    edge = 1.2816 * 0.5
    np.testing.assert_allclose(offsets[0, :, 0], [-edge, 0.5 * 0.5, edge], rtol=1e-4)
    np.testing.assert_array_equal(offsets[0, :, 1], wide[0, :, 0], "the rms_error error is unknown")
    narrow = wide * 0.01
    np.testing.assert_array_equal(bounded(narrow, (0.1, 0.5, 0.9), rms_error), narrow)
