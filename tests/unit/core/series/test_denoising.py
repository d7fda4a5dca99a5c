"""Filters: which values they mask, which stay truths, and that they do not know later readings."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.core.arrays import arrays
from forecaster.core.series.denoising import FILTERS, DenoiseConfig, DenoiseState, denoise


def run(config: DenoiseConfig, values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and truths of one series."""
    state = DenoiseState.empty(1, config)
    inputs, truths = [], []
    for value in values:
        state, x, truth = denoise(config, state, np.array([value]))
        inputs.append(x[0])
        truths.append(truth[0])
    return np.array(inputs), np.array(truths)


def noisy(count: int, seed: int = 0) -> list[float]:
    return np.random.default_rng(seed).normal(20, 1, count).tolist()


CHAINS = [("range",), ("hampel",), ("stuck",), ("ewma",), ("kalman",), ("range", "hampel", "stuck", "kalman", "ewma")]


@pytest.mark.parametrize("chain", CHAINS)
def test_no_filter_depends_on_a_later_reading(chain: tuple) -> None:
    config = DenoiseConfig(chain=chain, low=18, high=22, stuck_readings=3)
    values = noisy(60)
    changed = values[:40] + [100.0] * 20
    np.testing.assert_array_equal(run(config, values)[0][:40], run(config, changed)[0][:40])


@pytest.mark.parametrize("chain", CHAINS)
def test_filters_do_not_modify_their_argument(chain: tuple) -> None:
    config = DenoiseConfig(chain=chain)
    state = DenoiseState.empty(3, config)
    before = {name: array.copy() for name, array in arrays(state)}
    denoise(config, state, np.array([1.0, np.nan, 3.0]))
    for name, array in arrays(state):
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("chain", CHAINS)
def test_filters_treat_each_series_of_a_batch_alone(chain: tuple) -> None:
    config = DenoiseConfig(chain=chain, low=18, high=22, stuck_readings=3)
    columns = [noisy(50), [7.0] * 50, [20.0] * 25 + [90.0] + [20.0] * 24]
    state = DenoiseState.empty(3, config)
    together = []
    for values in zip(*columns, strict=True):
        state, inputs, _ = denoise(config, state, np.array(values))
        together.append(inputs)
    for number, column in enumerate(columns):
        np.testing.assert_array_equal(np.array(together)[:, number], run(config, column)[0])


@pytest.mark.parametrize("chain", CHAINS)
def test_a_missing_value_stays_missing_and_changes_no_state(chain: tuple) -> None:
    config = DenoiseConfig(chain=chain)
    values = noisy(30)
    with_gap = [*values[:20], np.nan, *values[20:]]
    inputs, truths = run(config, with_gap)
    assert np.isnan(inputs[20])
    assert np.isnan(truths[20])
    np.testing.assert_array_equal(np.delete(inputs, 20), run(config, values)[0])


def test_values_out_of_range_and_sentinels_are_missing_and_no_truth() -> None:
    config = DenoiseConfig(chain=("range",), low=0, high=100, sentinels=(42.0,))
    inputs, truths = run(config, [5, -200, 101, 42, 100])
    np.testing.assert_array_equal(inputs, [5, np.nan, np.nan, np.nan, 100])
    np.testing.assert_array_equal(truths, inputs)


def test_a_spike_is_masked_as_input_and_kept_as_truth() -> None:
    values = noisy(50)
    values[30] = 60.0
    inputs, truths = run(DenoiseConfig(chain=("hampel",)), values)
    assert np.isnan(inputs[30])
    assert truths[30] == 60.0
    assert np.isnan(inputs).sum() <= 2


def test_a_new_level_passes_when_the_next_reading_confirms_it() -> None:
    values = noisy(40) + (np.array(noisy(40, 1)) + 40).tolist()
    inputs, _ = run(DenoiseConfig(chain=("hampel",)), values)
    assert np.isnan(inputs[40])
    assert np.isfinite(inputs[41:]).mean() > 0.9


def test_after_many_spikes_a_new_level_passes_after_two_readings() -> None:
    values = noisy(400) + (np.array(noisy(40, 1)) + 40).tolist()
    values[20:380:20] = [60.0] * 18
    inputs, _ = run(DenoiseConfig(chain=("hampel",)), values)
    assert np.isnan(inputs[20:380:20]).all()
    assert np.isnan(inputs[400:402]).all()
    assert np.isfinite(inputs[402:]).mean() > 0.9


def test_a_series_that_often_jumps_keeps_its_jumps_until_it_has_spikes() -> None:
    config = DenoiseConfig(chain=("hampel",))
    steps = np.array(noisy(3_000)) + 40.0 * np.repeat(np.arange(30) % 2, 100)
    inputs, _ = run(config, steps.tolist())
    assert np.isnan(inputs[100])
    assert np.isfinite(inputs[200::100]).all()
    spikes = np.array(noisy(800))
    spikes[20::20] += 150.0
    after = run(config, [*steps.tolist(), *spikes.tolist()])[0][3_000:]
    assert np.isfinite(after[20])
    assert np.isnan(after[400::20]).all()


@pytest.mark.parametrize("size", [1e-300, 1e150])
def test_the_record_of_suspicions_stays_finite(size: float) -> None:
    config = DenoiseConfig(chain=("hampel",))
    state = DenoiseState.empty(1, config)
    for value in size * (np.array([*noisy(40), 90.0, 1.0, -90.0, 1.0, *noisy(40)]) / 100.0):
        state = denoise(config, state, np.array([value]))[0]
    assert 0.0 <= state.proved[0] <= state.suspected[0]


def test_a_confirmed_level_keeps_passing() -> None:
    level = [1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 1.0, 1.1] * 8 + [9.0, 9.1, 8.9, 9.0, 9.1, 9.0]
    inputs = run(DenoiseConfig(chain=("hampel",)), level)[0]
    assert np.isnan(inputs[64])
    assert not np.isnan(inputs[65:]).any()


def test_the_rise_after_a_quiet_night_is_no_spike() -> None:
    day = [1.0 + 0.01 * (hour % 3) for hour in range(14)] + [4.0, 8.0, 9.0, 9.5, 9.0, 8.0, 6.0, 4.0, 2.0, 1.0]
    inputs, _ = run(DenoiseConfig(chain=("hampel",)), day * 20)
    assert np.isnan(inputs[48:]).mean() < 0.01


def test_hampel_masks_most_spikes_and_little_else() -> None:
    generator = np.random.default_rng(0)
    hours = np.arange(2_000)
    clean = 10 * np.sin(2 * np.pi * hours / 24) + generator.normal(0, 1, 2_000)
    spikes = generator.random(2_000) < 0.02
    inputs, _ = run(DenoiseConfig(chain=("hampel",)), (clean + 60.0 * spikes).tolist())
    masked = np.isnan(inputs)
    assert masked[spikes].mean() > 0.9
    assert masked[~spikes].mean() < 0.01


def test_spikes_smaller_than_the_daily_range_are_masked() -> None:
    """Such spikes are found by the size of the change from one reading to the next."""
    generator = np.random.default_rng(0)
    hours = np.arange(2_000)
    clean = 30 * np.sin(2 * np.pi * hours / 24) + generator.normal(0, 1, 2_000)
    spikes = generator.random(2_000) < 0.02
    spikes[:100] = False
    inputs, _ = run(DenoiseConfig(chain=("hampel",)), (clean + 40.0 * spikes).tolist())
    masked = np.isnan(inputs)
    assert masked[spikes].mean() > 0.9
    assert masked[~spikes].mean() < 0.01


def test_a_stuck_sensor_is_masked_from_the_configured_reading_on() -> None:
    inputs, truths = run(DenoiseConfig(chain=("stuck",), stuck_readings=3), [1, 5, 5, 5, 5, 6])
    np.testing.assert_array_equal(inputs, [1, 5, 5, np.nan, np.nan, 6])
    np.testing.assert_array_equal(truths, [1, 5, 5, 5, 5, 6])


def test_filters_run_in_the_order_of_the_chain() -> None:
    assert set(FILTERS) == {"range", "hampel", "stuck", "ewma", "kalman"}
    values = [5.0, 5.0, 7.0, 5.0, 5.0, -9.0, 5.0]
    first, _ = run(DenoiseConfig(chain=("range", "stuck"), low=0, stuck_readings=3), values)
    second, _ = run(DenoiseConfig(chain=("stuck", "range"), low=0, stuck_readings=3), values)
    assert np.isnan(first).tolist() == [False, False, False, False, False, True, True]
    assert np.isnan(second).tolist() == [False, False, False, False, False, True, False]
