"""Series that often stay unchanged are forecast to stay; a masked spike changes only the intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import HOUR_MS, START_MS, pipeline_config, readings

from forecaster.core.arrays import arrays, convert
from forecaster.core.ensemble import ensemble
from forecaster.pipeline import Batch, advance
from forecaster.records import F64

CONFIG = replace(pipeline_config(horizon=6, context=60, chain=("hampel",)), with_details=True)


def errors(values: F64) -> tuple[F64, F64]:
    """Return the mean absolute errors of the point and of the last value after ten days, by horizon."""
    state, results = CONFIG.shape(0).empty(1), []
    for tick, value in enumerate(values.tolist()):
        reading = readings([("pump", START_MS + tick * HOUR_MS, value)])
        results.append(advance(CONFIG, [None], state, Batch.of_one_model(reading, np.zeros(1, np.int64))).matured)
    late = results[240:]
    point = np.mean([np.abs(scores.point[0] - scores.truth[0]) for scores in late], axis=0)
    return point, np.mean([np.abs(scores.last_value[0] - scores.truth[0]) for scores in late], axis=0)


def stepping(count: int) -> F64:
    """Return a level that changes at times by whole degrees, and slightly with the hour."""
    dice = np.random.default_rng(0)
    hours = np.arange(count)
    walk = np.cumsum(dice.choice([-1.0, 0.0, 1.0], count, p=[0.1, 0.8, 0.1]))
    return 20.0 + np.round(walk + 0.8 * np.sin(2 * np.pi * hours / 24))


def test_a_series_that_often_stays_is_forecast_as_well_as_by_the_last_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dead zone makes the difference: without it the error is more than 10 % larger."""
    values = stepping(24 * 40)
    point, last = errors(values)
    assert (point <= 1.02 * last).all()
    monkeypatch.setattr(ensemble, "DEAD_ZONE", 0.0)
    assert errors(values)[0][0] > 1.1 * point[0], "without the dead zone it is worse"


def test_a_series_that_never_stays_unchanged_has_no_dead_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    values = stepping(24 * 20) + np.random.default_rng(1).normal(size=24 * 20)
    before = errors(values)[0]
    monkeypatch.setattr(ensemble, "DEAD_ZONE", 0.0)
    np.testing.assert_array_equal(errors(values)[0], before)


def test_a_masked_truth_updates_the_intervals_but_not_the_weights() -> None:
    state = CONFIG.shape(0).empty(1)
    dice = np.random.default_rng(2)
    row = np.zeros(1, np.int64)
    for tick in range(100):
        reading = readings([("pump", START_MS + tick * HOUR_MS, dice.normal())])
        advance(CONFIG, [None], state, Batch.of_one_model(reading, row))
    before = convert(state.experts, np.copy)
    outputs = advance(
        CONFIG, [None], state, Batch.of_one_model(readings([("pump", START_MS + 100 * HOUR_MS, 50.0)]), row)
    )
    assert outputs.masked[0]
    assert outputs.matured.truth[0] == 50.0
    for name, now in arrays(state.experts.combination):
        np.testing.assert_array_equal(now, dict(arrays(before.combination))[name])
    assert (state.experts.calibration.shift != before.calibration.shift).any()
