"""Forecasts mature by tick: for each horizon h the one made h ticks before, if there is one."""

import numpy as np

from forecaster.core.ensemble.pending import Anchors, PendingRing, PendingState

HORIZONS = (1, 2, 5)


def made(last: float) -> Anchors:
    return Anchors(
        np.array([last], np.float32), np.ones(1, np.float32), np.zeros(1, np.float32), np.zeros((1, 1), np.float32)
    )


def step(ring: PendingRing, state: PendingState, tick: int, gap: int, value: float):
    matured = ring.mature(state, ring.places(np.array([tick])), np.array([gap]))
    values = np.full((1, 2, len(HORIZONS)), value, np.float32)
    ring.store(state, ring.places(np.array([tick])), made(tick), values)
    return matured


def test_a_reading_matures_one_forecast_of_each_horizon() -> None:
    """For each horizon h the forecast that was made h ticks before matures."""
    ring, state = PendingRing(HORIZONS, 2), PendingState.empty(1, HORIZONS, 2, 1)
    for tick in range(20):
        matured = step(ring, state, tick, 1, value=float(tick))
        for column, horizon in enumerate(HORIZONS):
            made = tick - horizon
            expected = 2.0 * made if made >= 0 else np.nan
            np.testing.assert_equal(matured.absolute(slice(2))[0, :, column], [expected, expected])
            np.testing.assert_equal(matured.last[0, column], float(made) if made >= 0 else np.nan)


def test_a_missed_tick_matures_nothing_and_leaves_nothing_to_mature() -> None:
    ring, state = PendingRing(HORIZONS, 2), PendingState.empty(1, HORIZONS, 2, 1)
    ticks = [0, 1, 2, 5, 6, 7, 13, 14]
    before = -1
    for tick in ticks:
        matured = step(ring, state, tick, max(tick - before, 1), value=0.0)
        for column, horizon in enumerate(HORIZONS):
            made = tick - horizon
            assert np.isnan(matured.last[0, column]) == (made not in ticks)
        before = tick


def test_cleared_rows_mature_nothing() -> None:
    ring, state = PendingRing(HORIZONS, 2), PendingState.empty(1, HORIZONS, 2, 1)
    for tick in range(6):
        step(ring, state, tick, 1, 0.0)
    ring.clear(state, np.array([True]))
    assert np.isnan(step(ring, state, 6, 1, 0.0).values).all()


def test_the_error_of_the_last_value_is_its_root_mean_square() -> None:
    """Before a horizon has matured, the rmse is extrapolated from a shorter one with the root of time."""
    ring, state = PendingRing(HORIZONS, 2), PendingState.empty(1, HORIZONS, 2, 1)
    rng = np.random.default_rng(0)
    series = np.cumsum(rng.normal(size=400))
    for tick, value in enumerate(series):
        matured = ring.mature(state, ring.places(np.array([tick])), np.array([1]))
        ring.learn_last_value_rmse(state, np.array([value]), matured, np.array([tick + 1]))
        ring.store(state, ring.places(np.array([tick])), made(value), np.zeros((1, 2, 3), np.float32))
        if tick == 1:
            rmse = ring.last_value_rmse(state, np.ones(1, np.float32))[0]
            np.testing.assert_allclose(rmse, abs(series[1] - series[0]) * np.sqrt(HORIZONS), rtol=1e-6)
    rmse = ring.last_value_rmse(state, np.ones(1, np.float32))[0]
    np.testing.assert_allclose(rmse, np.sqrt(HORIZONS), rtol=0.35)
