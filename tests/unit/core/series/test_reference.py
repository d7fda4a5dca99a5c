"""The reference stays near the present values: no first value, counter or new level costs a series its digits."""

from __future__ import annotations

import numpy as np
import pytest
from builders import START_MS, Serving, hourly, pipeline_config, random_model, readings

from forecaster.core.arrays import arrays
from forecaster.core.series import scaling
from forecaster.core.series.denoising import DenoiseConfig
from forecaster.core.series.outliers import relearn_without_initial_outliers
from forecaster.core.series.reference import FAR_SCALES, move_reference
from forecaster.core.series.scaling import ScalerState
from forecaster.core.series.state import InputState, ObservationConfig
from forecaster.records import Outputs

SETTLED = 20
"""Readings after which outliers at the start have no effect any longer."""
OBSERVATION = ObservationConfig(context=24, denoise=DenoiseConfig(chain=()))
BEGINNINGS = {
    "all bits set": ([4294967295.0], 21.0, 0.05),
    "far out": ([1e20], 21.0, 0.05),
    "as far as can be": ([-1e300], 21.0, 0.05),
    "two": ([1e9, -1e20], 21.0, 0.05),
    "second": ([21.0, 1e20], 21.0, 0.05),
    "two together": ([21.0, 1e30, 1e30], 21.0, 0.05),
    "two together, later": ([21.0, 21.02, 21.01, 1e30, 1.2e30], 21.0, 0.05),
    "a sentinel": ([-9999.0], 21.0, 0.05),
    "zero before large values": ([0.0], 1e7, 0.01),
}


def after(first: list[float], level: float, noise: float, count: int = 120) -> list[float]:
    return [*first, *(level + noise * np.random.default_rng(0).normal(size=count))]


def served(values: list[float], *, network: bool, chain: tuple[str, ...] = ("range", "hampel")) -> Outputs:
    config = pipeline_config(context=24, chain=chain)
    return Serving(config, random_model(config) if network else None).feed(readings(hourly(values)))


def errors(outputs: Outputs, values: list[float]) -> tuple[float, float, float]:
    """Return mean errors one tick ahead: of the point, of the last value in the scores, and of the true last value."""
    late, truth = slice(SETTLED, None), np.array(values)
    published = np.abs(outputs.forecasts.point[SETTLED - 1 : -1, 0] - truth[late]).mean()
    reported = np.abs(outputs.matured.last_value[late, 0] - outputs.matured.truth[late]).mean()
    return float(published), float(reported), float(np.abs(np.diff(truth[SETTLED - 1 :])).mean())


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("chain", [(), ("range", "hampel")])
@pytest.mark.parametrize("name", BEGINNINGS)
def test_series_recover_from_outliers_among_the_first_readings(
    name: str, chain: tuple[str, ...], *, network: bool
) -> None:
    """After 20 readings forecasts, the last value and the scale are as good as without the outliers."""
    values = after(*BEGINNINGS[name])
    outputs = served(values, network=network, chain=chain)
    published, reported, true = errors(outputs, values)
    assert published < 1.2 * true
    assert reported == pytest.approx(true, rel=1e-3)
    assert (outputs.matured.scale[SETTLED:] < 3.0 * BEGINNINGS[name][2]).all()
    np.testing.assert_array_equal(outputs.matured.truth, values)


@pytest.mark.parametrize("network", [False, True])
def test_a_counter_keeps_its_digits_from_zero_to_1e12(*, network: bool) -> None:
    values = [*np.arange(0.0, 1e6, 2e3).tolist(), *np.arange(1e12 - 3e5, 1e12, 2e3).tolist()]
    outputs = served(values, network=network, chain=())
    for part in (slice(450, 500), slice(600, None)):
        truth = outputs.matured.truth[part]
        np.testing.assert_allclose(truth - outputs.matured.last_value[part, 0], 2e3, rtol=1e-2)
        np.testing.assert_allclose(outputs.forecasts.point[part, 0], values[part], atol=4e3)


def test_the_reference_of_a_counter_stays_near() -> None:
    inputs, scales = InputState.empty(1, OBSERVATION), []
    for value in np.arange(0.0, 5e7, 1e3):
        inputs.scaler.count += 1
        inputs.scaler.variance[:] = 3e4**2
        if value == 0.0:
            inputs.reference[:] = value
        move_reference(inputs, np.array([value]))
        inputs.last[:] = value - inputs.reference
        scales.append(abs(float(inputs.last[0])) / 3e4)
    assert max(scales) <= FAR_SCALES
    assert max(scales) > 0.5 * FAR_SCALES, "the reference moves rarely"


def test_a_new_level_moves_the_reference_and_a_spike_does_not() -> None:
    values = after([], 21.0, 0.05, 60)
    for more, expected in (([1e6], False), ([1e6, 21.0], False), ([1e6, 1e6 + 1.0], True)):
        serving = Serving(pipeline_config(context=24))
        serving.feed(readings(hourly([*values, *more])))
        assert (serving.partitions[0].table.state.inputs.reference[0] > 1e5) == expected


def test_pending_forecasts_are_scored_right_after_the_reference_moved() -> None:
    values = [*after([], 21.0, 0.05, 60), *after([], 1e6, 0.05, 12)]
    outputs = served(values, network=True, chain=())
    for horizon in (1, 2, 3, 4):
        made, came = slice(30, len(values) - horizon), slice(30 + horizon, None)
        scale = outputs.matured.scale[made]
        error = np.abs(outputs.matured.point[came, horizon - 1] - outputs.forecasts.point[made, horizon - 1])
        assert (error <= 0.01 * scale + 0.1).all(), "forecasts have 16 bits, their anchors 32"
        np.testing.assert_allclose(outputs.matured.last_value[came, horizon - 1], values[made], atol=0.1)


def test_moves_of_the_reference_are_the_same_bits_in_any_batches() -> None:
    """Renewed rows are the same in batches of any size, too."""
    series = [after(*beginning, count=20) + after([], 3e6, 0.5, 10) for beginning in BEGINNINGS.values()]
    rows = [row for number, values in enumerate(series) for row in hourly(values, f"pump-{number}")]
    rows.sort(key=lambda row: (row[1] - START_MS, row[0]))
    config = pipeline_config(context=24, chain=("range", "hampel"))
    model = random_model(config)
    kept: list[tuple[bytes, dict[str, bytes]]] = []
    for size in (len(rows), 1, 37):
        serving, quantiles = Serving(config, model), []
        for begin in range(0, len(rows), size):
            outputs = serving.feed(readings(rows[begin : begin + size]))
            quantiles.append(np.concatenate([outputs.forecasts.quantiles, outputs.matured.quantiles], axis=1))
        state = {name: array.tobytes() for name, array in arrays(serving.partitions[0].table.state)}
        kept.append((np.concatenate(quantiles).tobytes(), state))
    assert kept[0] == kept[1] == kept[2]


def test_a_row_is_relearned_as_if_the_outliers_had_not_come() -> None:
    values, inputs = np.arange(16.0) % 5, InputState.empty(1, OBSERVATION)
    values[0] = 1e9
    inputs.reference[:], inputs.scaler.count[:] = 2.0, 16
    inputs.context[0, :16] = values[::-1] - 2.0
    assert relearn_without_initial_outliers(OBSERVATION.denoise, inputs, values[-1:]).tolist() == [True]
    expected = ScalerState.empty(1)
    for value in values[1:]:
        scaling.update(expected, np.array([value]))
    for (name, actual), (_, array) in zip(arrays(inputs.scaler), arrays(expected), strict=True):
        np.testing.assert_array_equal(actual, array, err_msg=name)
    np.testing.assert_array_equal(inputs.context[0, :16] + 2.0, [*values[:0:-1], np.nan])


@pytest.mark.parametrize(
    "values",
    [
        [0.0] * 12 + [50.0] + [0.0] * 3,
        [22.0] + [21.0] * 15,
        [300.0, 150.0, 20.0, 9.0, *np.linspace(0.01, 0.02, 12)],
        [*np.random.default_rng(0).lognormal(0.0, 1.5, 16)],
    ],
)
def test_ordinary_first_readings_are_kept(values: list[float]) -> None:
    serving = Serving(pipeline_config(context=24))
    serving.feed(readings(hourly(values)))
    assert serving.partitions[0].table.state.inputs.scaler.count[0] == len(values)
