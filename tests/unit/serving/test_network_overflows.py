"""Forecasts that a network could not make are counted by checkpoint, and logged once."""

from __future__ import annotations

from collections import Counter

import numpy as np
from builders import Serving, growing_checkpoint, hourly, pipeline_config, readings
from structlog.testing import capture_logs

from forecaster.core.network.model import Model
from forecaster.pipeline import Batch
from forecaster.serving.network_overflows import count_network_overflows

CONFIG = pipeline_config()
STREAM = readings([row for hour in range(40) for row in hourly([float(hour % 7)], "a", hour)])


def test_forecasts_without_their_network_are_counted_and_the_first_is_logged() -> None:
    serving = Serving(CONFIG, Model(growing_checkpoint(CONFIG)))
    forecasts = serving.feed(STREAM).forecasts
    without = forecasts.checkpoint.tolist().count("none")
    assert 0 < without < 40
    counts, batch = Counter[str](), Batch.of_one_model(STREAM, np.zeros(40, np.int64))
    with capture_logs() as logs:
        for _ in range(2):
            count_network_overflows(counts, [serving.model], batch, forecasts)
    assert counts == {"random-0": 2 * without}
    assert [(entry["event"], entry["forecasts_without_network"]) for entry in logs] == [("network_overflowed", without)]


def test_readings_without_a_network_or_a_row_are_not_counted() -> None:
    forecasts = Serving(CONFIG, Model(growing_checkpoint(CONFIG))).feed(STREAM).forecasts
    no_row = Batch.of_one_model(STREAM, np.full(40, -1))
    counts = Counter[str]()
    count_network_overflows(counts, [Model(growing_checkpoint(CONFIG))], no_row, forecasts)
    forecasts.checkpoint[:] = "none"
    count_network_overflows(counts, [None], Batch.of_one_model(STREAM, np.zeros(40, np.int64)), forecasts)
    assert not counts
