"""Scale and levels agree with plain means, resist spikes and are causal."""

import numpy as np

from forecaster.core.series.scaling import LEVEL_HALF_LIVES, ScalerState, update


def run(values: list[float]) -> ScalerState:
    state = ScalerState.empty(1)
    for value in values:
        update(state, np.array([value]))
    return state


def test_the_first_levels_are_the_plain_mean() -> None:
    values = np.random.default_rng(0).normal(size=20)
    state = run(values.tolist())
    np.testing.assert_allclose(state.levels[0], values.mean(), rtol=1e-12)


def test_levels_become_exponentially_weighted_means() -> None:
    values = np.random.default_rng(1).normal(size=4000)
    state = run(values.tolist())
    for level, half_life in zip(state.levels[0], LEVEL_HALF_LIVES, strict=True):
        weights = 0.5 ** (np.arange(len(values))[::-1] / half_life)
        assert abs(level - np.average(values, weights=weights)) < 0.05


def test_the_scale_of_white_noise_is_its_deviation() -> None:
    values = 5.0 + 3.0 * np.random.default_rng(2).normal(size=5000)
    assert 2.7 < run(values.tolist()).scale()[0] < 3.3


def test_one_spike_hardly_moves_the_scale() -> None:
    values = np.random.default_rng(3).normal(size=500).tolist()
    assert run([*values, 1e9]).scale()[0] < 1.02 * run(values).scale()[0]


def test_a_constant_series_has_scale_zero_until_it_changes() -> None:
    assert run([4.0] * 50).scale()[0] == 0.0
    assert run([4.0] * 50 + [5.0]).scale()[0] > 0.0


def test_missing_values_change_no_state() -> None:
    state = ScalerState.empty(2)
    update(state, np.array([1.0, 2.0]))
    update(state, np.array([np.nan, 3.0]))
    assert state.count.tolist() == [1, 2]
    assert state.levels[0].tolist() == [1.0] * 3


def test_huge_values_stay_finite() -> None:
    state = run([1e30, -1e30] * 20)
    assert np.isfinite(state.scale()).all()
