"""Records of the forecasts topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson

import forecaster
from forecaster.formats.readings import SCHEMA
from forecaster.formats.sources import source_headers
from forecaster.records import F64, Forecasts, Message, Readings, SourceRecord

SIGNIFICANT = 10_000.0
"""Published numbers keep a resolution of at least the forecast's spread divided by this."""
MAX_DECIMALS = 15


def encode_forecasts(
    forecasts: Forecasts,
    readings: Readings,
    records: Sequence[SourceRecord],
    levels: Sequence[float],
    input_id: str,
) -> Iterator[Message]:
    """Yield one record for each forecast, in their order.

    Args:
        forecasts: M forecasts.
        readings: readings that they were made at.
        records: records that the readings came in.
        levels: quantile levels, ascending; Q.
        input_id: short id of the records' topic.
    """
    names = [level_name(level) for level in levels]
    point, quantiles = _rounded(forecasts)
    version = ("version", forecaster.__version__.encode())
    numbers = readings.record_of_reading.tolist()
    timestamps, known = forecasts.timestamp_ms.tolist(), forecasts.spread_known.tolist()
    checkpoints = forecasts.checkpoint.tolist()
    for row, reading in enumerate(forecasts.reading.tolist()):
        series_id = readings.series_ids[reading]
        record = records[numbers[reading]]
        body = {
            "schema": SCHEMA,
            "series_id": series_id,
            "timestamp": timestamps[row],
            "checkpoint": checkpoints[row],
            "timestamps": forecasts.target_ms[row],
            "point": point[row],
            "quantiles": dict(zip(names, quantiles[row], strict=True)),
        }
        if not known[row]:
            body["spread"] = "unknown"
        headers = [*source_headers(record, input_id), version]
        value = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        yield Message(record.partition, series_id.encode(), value, headers)


def message_of_reading(
    body: dict[str, Any], reading: int, readings: Readings, records: Sequence[SourceRecord], input_id: str
) -> Message:
    """Return a record about a reading, with its series_id as the key and its partition; NaN becomes null."""
    series_id, record = readings.series_ids[reading], records[int(readings.record_of_reading[reading])]
    head = {"schema": SCHEMA, "series_id": series_id, "timestamp": int(readings.timestamp_ms[reading])}
    value = orjson.dumps(head | body, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = [*source_headers(record, input_id), ("version", forecaster.__version__.encode())]
    return Message(record.partition, series_id.encode(), value, headers)


def level_name(level: float) -> str:
    """Return a quantile level as records spell it: short, and different for different levels."""
    return f"{level:g}" if float(f"{level:g}") == level else repr(level)


def _rounded(forecasts: Forecasts) -> tuple[F64, F64]:
    """Return point and quantiles, rounded to the decimals that the spread of each forecast justifies."""
    spread = np.ptp(np.concatenate([forecasts.point[:, None], forecasts.quantiles], axis=1), axis=(1, 2))
    with np.errstate(divide="ignore"):
        decimals = np.ceil(np.log10(SIGNIFICANT) - np.log10(spread))
    decimals = np.where(spread > 0, decimals, MAX_DECIMALS + 1)
    factor = 10.0 ** np.clip(decimals, 0, MAX_DECIMALS)
    exact = decimals > MAX_DECIMALS
    factor[exact] = 1.0
    point = np.rint(forecasts.point * factor[:, None]) / factor[:, None]
    quantiles = np.rint(forecasts.quantiles * factor[:, None, None]) / factor[:, None, None]
    point[exact], quantiles[exact] = forecasts.point[exact], forecasts.quantiles[exact]
    return point, quantiles
