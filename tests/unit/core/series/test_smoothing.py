"""Smoothing removes white noise and follows real movements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.core.series.denoising import DenoiseConfig, DenoiseState, FilterName, denoise
from forecaster.records import F64

CHAINS: list[FilterName] = ["ewma", "kalman"]


def smoothed(chain: FilterName, values: F64, half_life: float = 1.0) -> F64:
    """Return every row of (T, B) after the filter; the truths stay raw."""
    config = DenoiseConfig(chain=(chain,), ewma_half_life=half_life)
    state, rows = DenoiseState.empty(values.shape[1], config), []
    for row in values:
        state, inputs, truth = denoise(config, state, row)
        np.testing.assert_array_equal(truth, row)
        rows.append(inputs)
    return np.array(rows)


def walk(seed: int, ticks: int, step: float, noise: float) -> tuple[F64, F64]:
    """Return a random walk, and the same with white noise; (T, 1)."""
    dice = np.random.default_rng(seed)
    clean = np.cumsum(dice.normal(size=(ticks, 1)) * step, axis=0)
    return clean, clean + dice.normal(size=(ticks, 1)) * noise


def test_kalman_is_nearly_as_good_as_with_known_variances() -> None:
    clean, noisy = walk(0, 4_000, 0.1, 1.0)
    late = slice(1_000, None)
    error = np.sqrt(np.mean((smoothed("kalman", noisy)[late] - clean[late]) ** 2))
    ratio = 0.1**2
    best = np.sqrt(0.5 * (np.sqrt(ratio**2 + 4.0 * ratio) - ratio))  # error of the filter with known variances
    assert error < 1.25 * best
    assert error < 0.45, "the noise is 1"


def test_without_noise_nothing_is_smoothed() -> None:
    clean, _ = walk(1, 2_000, 1.0, 0.0)
    late = slice(500, None)
    error = np.sqrt(np.mean((smoothed("kalman", clean)[late] - clean[late]) ** 2))
    assert error < 0.1
    wave = np.sin(np.arange(2_000) * 2 * np.pi / 24)[:, None] * 5.0
    np.testing.assert_allclose(smoothed("kalman", wave), wave, atol=1e-9)


def test_a_new_level_is_followed_from_its_second_reading_on() -> None:
    _, noisy = walk(2, 1_000, 0.02, 1.0)
    noisy[900:] += 100.0
    levels = smoothed("kalman", noisy)
    assert abs(levels[901, 0] - noisy[901, 0]) < 1e-9
    assert np.abs(levels[905:, 0] - noisy[905:, 0]).mean() < 2.0


def test_an_average_goes_half_way_in_its_half_life() -> None:
    values = np.concatenate([np.zeros((50, 1)), np.ones((10, 1))])
    levels = smoothed("ewma", values, half_life=3.0)
    assert levels[52, 0] == pytest.approx(0.5)


@pytest.mark.parametrize("chain", CHAINS)
def test_smoothed_series_are_the_same_bits_in_any_batch(chain: FilterName) -> None:
    dice = np.random.default_rng(3)
    values = dice.normal(size=(300, 37)) * 10.0 ** dice.integers(-3, 3, 37)
    values[dice.random(values.shape) < 0.1] = np.nan
    together = smoothed(chain, values)
    for series in (0, 5, 36):
        np.testing.assert_array_equal(smoothed(chain, values[:, [series]])[:, 0], together[:, series])


@pytest.mark.parametrize("chain", CHAINS)
@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.one_of(st.just(np.nan), st.floats(-1e15, 1e15), st.sampled_from([0.0, 1e-300, 7.0])), min_size=2, max_size=60
    ),
    cut=st.integers(1, 59),
)
def test_smoothing_is_causal_and_finite(chain: FilterName, values: list[float], cut: int) -> None:
    column = np.array(values)[:, None]
    complete, part = smoothed(chain, column), smoothed(chain, column[:cut])
    np.testing.assert_array_equal(complete[: len(part)], part)
    assert (np.isnan(complete) == np.isnan(column)).all()
    assert not np.isinf(complete).any()
