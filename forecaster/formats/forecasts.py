"""Records of the forecasts topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson

import forecaster
from forecaster.formats.readings import SCHEMA
from forecaster.formats.source import source_of
from forecaster.records import F64, Forecasts, Message, Readings, SourceRecord

SIGNIFICANT = 10_000.0
"""Published numbers are rounded to at least this fine a part of the forecast's spread."""
MAX_DECIMALS = 15


def encode_forecasts(
    forecasts: Forecasts, readings: Readings, records: Sequence[SourceRecord], levels: Sequence[float]
) -> Iterator[Message]:
    """Yields one record for each forecast, in their order.

    Args:
        forecasts: M of them.
        readings: what they were made at.
        records: where the readings came from.
        levels: of the quantiles.
    """
    names = [level_name(level) for level in levels]
    point, quantiles = _rounded(forecasts)
    version = ("version", forecaster.__version__.encode())
    numbers = readings.records.tolist()
    stamps, known = forecasts.timestamp_ms.tolist(), forecasts.spread_known.tolist()
    checkpoints = forecasts.checkpoint.tolist()
    for row, reading in enumerate(forecasts.reading.tolist()):
        series_id = readings.series_ids[reading]
        record = records[numbers[reading]]
        body = {
            "schema": SCHEMA,
            "series_id": series_id,
            "timestamp": stamps[row],
            "checkpoint": checkpoints[row],
            "timestamps": forecasts.target_ms[row],
            "point": point[row],
            "quantiles": dict(zip(names, quantiles[row], strict=True)),
        }
        if not known[row]:
            body["spread"] = "unknown"
        headers = [("source", source_of(record)), version]
        value = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        yield Message(record.partition, series_id.encode(), value, headers)


def message_of_reading(
    body: dict[str, Any], reading: int, readings: Readings, records: Sequence[SourceRecord]
) -> Message:
    """Returns a record about a reading, keyed and placed as it; NaN is null."""
    series_id, record = readings.series_ids[reading], records[int(readings.records[reading])]
    head = {"schema": SCHEMA, "series_id": series_id, "timestamp": int(readings.timestamp_ms[reading])}
    value = orjson.dumps(head | body, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = [("source", source_of(record)), ("version", forecaster.__version__.encode())]
    return Message(record.partition, series_id.encode(), value, headers)


def level_name(level: float) -> str:
    """Returns a quantile level as records spell it: short, and no two alike."""
    return f"{level:g}" if float(f"{level:g}") == level else repr(level)


def _rounded(forecasts: Forecasts) -> tuple[F64, F64]:
    """Returns point and quantiles with as many decimals as the spread is worth."""
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
