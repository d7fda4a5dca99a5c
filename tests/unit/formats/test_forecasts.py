"""Records of the forecasts topic: the fields that readers rely on, and how numbers are rounded."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import HOUR_MS, LEVELS, START_MS, Serving

from forecaster.formats.forecasts import encode_forecasts
from forecaster.formats.readings import Decoder, InputSchema
from forecaster.records import InputRecord


def encoded(values: list[float]) -> list[dict]:
    records = [
        InputRecord("readings", 2, 17, START_MS + hour * HOUR_MS, b"pump", json.dumps({"value": value}).encode())
        for hour, value in enumerate(values)
    ]
    readings = Decoder(InputSchema()).decode(records).readings
    outputs = Serving().feed(readings)
    messages = list(encode_forecasts(outputs.forecasts, readings, records, LEVELS, "3q2-7wAA"))
    assert all(message.partition == 2 and message.key == b"pump" for message in messages)
    assert all(dict(message.headers)["source"] == b"readings/2/17" for message in messages)
    assert all(dict(message.headers)["input-id"] == b"3q2-7wAA" for message in messages)
    return [json.loads(message.value or b"") for message in messages]


def test_a_forecast_record_has_the_documented_fields() -> None:
    first, second = encoded([3.0, 5.0])
    assert first["spread"] == "unknown"
    assert first["quantiles"] == {"0.1": [3.0] * 4, "0.5": [3.0] * 4, "0.9": [3.0] * 4}
    assert "spread" not in second
    assert second["schema"] == 1
    assert second["series_id"] == "pump"
    assert second["timestamp"] == START_MS + HOUR_MS
    assert second["timestamps"] == [START_MS + hour * HOUR_MS for hour in (2, 3, 4, 5)]
    assert second["checkpoint"] == "none"
    assert list(second["quantiles"]) == ["0.1", "0.5", "0.9"]
    assert second["quantiles"]["0.1"][0] < second["point"][0] < second["quantiles"]["0.9"][0]


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_published_numbers_are_finer_than_the_spread_in_any_unit(unit: float) -> None:
    values = (np.random.default_rng(0).normal(1000, 1, 50) * unit).tolist()
    for value, forecast in zip(values, encoded(values), strict=True):
        assert forecast["point"][0] == pytest.approx(value, abs=1e-3 * unit)
