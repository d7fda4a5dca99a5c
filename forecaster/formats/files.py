"""Readings from files: CSV (gzipped or not) and Parquet; long, wide, or one series a file.

| columns | shape |
|---|---|
| series_id, a time, value | long: each row is a reading of the series that it names |
| a time and one more | one series, named after the file |
| a time and several more | wide: one group, each column is a series `<file>/<column>` |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecaster.errors import UsageError
from forecaster.history import SeriesHistory
from forecaster.records import F64, I64

TIME_NAMES = ("timestamp", "time", "date", "datetime", "ds")
_EPOCH_MS_FLOOR = 100_000_000_000
"""Smaller numbers are probably not epoch milliseconds: this is in 1973."""


def read_files(paths: Sequence[Path], time_columns: Sequence[str] = ()) -> SeriesHistory:
    """Return the readings of all files together.

    Args:
        paths: files with names that end in .csv, .csv.gz or .parquet.
        time_columns: column of the event time, or several that together spell it; empty = found by its name.

    Raises:
        UsageError: a file cannot be read as one of the three shapes.
    """
    return join([_long(path, time_columns) for path in paths])


def join(frames: Sequence[pd.DataFrame]) -> SeriesHistory:
    """Return the readings of frames with the columns series_id, timestamp_ms, value and record, in order of time."""
    shifted, records = [], 0
    for frame in frames:
        shifted.append(frame.assign(record=frame["record"] + records))
        records += int(frame["record"].max()) + 1 if len(frame) else 0
    table = pd.concat(shifted, ignore_index=True)
    table = table.sort_values(["timestamp_ms", "record"], kind="stable", ignore_index=True)
    row, names = pd.factorize(table["series_id"])
    return SeriesHistory(
        series_ids=[str(name) for name in names],
        series_index=row.astype(np.int64),
        timestamp_ms=table["timestamp_ms"].to_numpy(np.int64),
        values=table["value"].to_numpy(np.float64),
        record_of_reading=table["record"].to_numpy(np.int64),
    )


def _long(path: Path, time_columns: Sequence[str]) -> pd.DataFrame:
    frame = _read(path)
    columns = list(time_columns) or _time_column(frame, path)
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise UsageError(f"{path}: no column {missing[0]!r}; the columns are {', '.join(map(str, frame.columns))}")
    timestamps = _timestamps(frame, columns, path)
    rest = frame.drop(columns=columns)
    if {"series_id", "value"} <= set(rest.columns):
        values = _numbers(rest["value"], path)
        return _frame(rest["series_id"].astype(str).to_numpy(), timestamps, values, np.arange(len(rest)))
    name = path.name.split(".")[0]
    names = [name] if rest.shape[1] == 1 else [f"{name}/{column}" for column in rest.columns]
    if not names:
        raise UsageError(f"{path}: no column of values, only the time {', '.join(columns)}")
    values = np.column_stack([_numbers(rest[column], path) for column in rest.columns])
    rows, series = values.shape
    records = np.repeat(np.arange(rows), series)
    return _frame(np.tile(np.array(names, object), rows), np.repeat(timestamps, series), values.reshape(-1), records)


def _frame(series_id: NDArray[np.object_], timestamps: I64, values: F64, records: I64) -> pd.DataFrame:
    return pd.DataFrame({"series_id": series_id, "timestamp_ms": timestamps, "value": values, "record": records})


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, low_memory=False)
    except (ValueError, OSError) as error:
        raise UsageError(f"{path}: cannot be read as CSV or Parquet: {error}") from error


def _time_column(frame: pd.DataFrame, path: Path) -> list[str]:
    for column in frame.columns:
        if str(column).lower() in TIME_NAMES:
            return [str(column)]
    raise UsageError(f"{path}: no column is named {' or '.join(TIME_NAMES)}: name the column of the time with --time")


def _timestamps(frame: pd.DataFrame, columns: Sequence[str], path: Path) -> I64:
    """Return event times in epoch ms; times without a zone are UTC, numbers are epoch milliseconds."""
    column = frame[columns[0]]
    if len(columns) > 1:
        column = frame[list(columns)].astype(str).agg(" ".join, axis=1)
    if pd.api.types.is_numeric_dtype(column):
        if len(column) and (column.isna().any() or column.min() < _EPOCH_MS_FLOOR):
            raise UsageError(f"{path}: numbers in {columns[0]!r} must be epoch milliseconds")
        return column.to_numpy(np.int64)
    try:
        parsed = pd.to_datetime(column, utc=True)
    except ValueError:
        try:
            parsed = pd.to_datetime(column, utc=True, format="mixed")
        except ValueError as error:
            raise UsageError(f"{path}: {' '.join(columns)} cannot be read as a time: {error}") from error
    if parsed.isna().any():
        raise UsageError(f"{path}: row {int(parsed.isna().argmax()) + 1} has no {' '.join(columns)}")
    return epoch_ms(parsed)


def epoch_ms(times: pd.Series[pd.Timestamp]) -> I64:
    """Return aware timestamps in epoch milliseconds."""
    return np.asarray(times.dt.as_unit("ms").astype("int64"), np.int64)


def _numbers(column: pd.Series[Any], path: Path) -> F64:
    try:
        values = pd.to_numeric(column).to_numpy(np.float64)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: column {column.name!r} must hold numbers: {error}") from error
    return np.where(np.isfinite(values), values, np.nan)
