"""Training data that is cut at a time."""

from __future__ import annotations

import numpy as np
from builders import HOUR_MS, START_MS
from trainings import OBSERVATION, seasonal_history

from forecaster.learning.data.training_data import build_training_data


def test_training_data_cut_at_a_time_equals_that_of_a_cut_history() -> None:
    readings = seasonal_history(100)
    readings.values[40:44] = np.nan
    cut_ms = START_MS + 70 * HOUR_MS
    cut, rebuilt = (
        build_training_data(readings, OBSERVATION, local=True).before(cut_ms),
        build_training_data(readings.before(cut_ms), OBSERVATION, local=True),
    )
    assert len(cut.history) == len(rebuilt.history) == 140
    for left, right in zip(cut.sequences, rebuilt.sequences, strict=True):
        assert left.series_index == right.series_index
        for name in ("grid_index", "time_ms", "grid", "truth"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        for name in ("last", "scale", "levels", "calendar", "masked", "gap", "group"):
            np.testing.assert_array_equal(getattr(left.inputs, name), getattr(right.inputs, name))
