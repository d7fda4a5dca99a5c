"""Files of every shape give the same readings; an unreadable file is named with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import HOUR_MS, START_MS

from forecaster.errors import UsageError
from forecaster.formats.files import read_files
from forecaster.history import SeriesHistory

TIMES = pd.to_datetime([START_MS, START_MS + HOUR_MS], unit="ms")
WIDE = pd.DataFrame({"date": TIMES, "flow": [1.0, 2.0], "heat": [np.nan, 4.0]})
LONG = pd.DataFrame({"series_id": ["b", "a", "a"], "time": [*TIMES, TIMES[0]], "value": [1.0, 2.0, 3.0]})


def table(history: SeriesHistory) -> list[tuple[str, int, float]]:
    readings = history.readings(0, len(history))
    hours = ((readings.timestamp_ms - START_MS) // HOUR_MS).tolist()
    return list(zip(readings.series_ids, hours, np.nan_to_num(readings.values, nan=-1).tolist(), strict=False))


@pytest.mark.parametrize("name", ["site.csv", "site.csv.gz", "site.parquet"])
def test_wide_files_are_one_group(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WIDE.to_parquet(path) if name.endswith("parquet") else WIDE.to_csv(path, index=False)
    history = read_files([path])
    assert table(history) == [
        ("site/flow", 0, 1.0),
        ("site/heat", 0, -1.0),
        ("site/flow", 1, 2.0),
        ("site/heat", 1, 4.0),
    ]
    assert history.record_of_reading.tolist() == [0, 0, 1, 1]


def test_long_files_name_their_series_and_are_sorted_by_time(tmp_path: Path) -> None:
    LONG.to_csv(tmp_path / "x.csv", index=False)
    assert table(read_files([tmp_path / "x.csv"])) == [("b", 0, 1.0), ("a", 0, 3.0), ("a", 1, 2.0)]


def test_a_file_with_one_column_is_a_series_named_after_it(tmp_path: Path) -> None:
    """Several files give the readings of all."""
    for name in ("one", "two"):
        WIDE[["date", "flow"]].to_csv(tmp_path / f"{name}.csv", index=False)
    history = read_files([tmp_path / "one.csv", tmp_path / "two.csv"])
    assert table(history) == [("one", 0, 1.0), ("two", 0, 1.0), ("one", 1, 2.0), ("two", 1, 2.0)]
    assert len(set(history.record_of_reading.tolist())) == 4


def test_several_columns_can_spell_the_time(tmp_path: Path) -> None:
    frame = pd.DataFrame({"Day": ["2025-01-01", "2025-01-01"], "Hour": ["00:00:00", "01:00:00"], "flow": [1, 2]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    assert table(read_files([tmp_path / "x.csv"], ["Day", "Hour"])) == [("x", 0, 1.0), ("x", 1, 2.0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "name the column of the time"),
        ("time,b\nsoon,2\n", "cannot be read as a time"),
        ("time,b\n2025-01-01,x\n", "must hold numbers"),
        ("time,b\n12,1\n", "epoch milliseconds"),
        ("time\n2025-01-01\n", "no column of values"),
        ("", "cannot be read"),
    ],
)
def test_an_unreadable_file_is_named_with_the_reason(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_files([path])
    assert "bad.csv" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.csv"):
        read_files([tmp_path / "nothing.csv"])


def test_a_history_is_split_by_time_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "site.csv"
    path.write_text("time,flow,heat\n2025-01-01T00:00,1,2\n2025-01-01T01:00,3,4\n2025-01-01T02:00,5,6\n")
    history = read_files([path])
    cut_ms = int(history.timestamp_ms[2])
    assert history.before(cut_ms).values.tolist() == [1, 2]
    assert history.since(cut_ms).values.tolist() == [3, 4, 5, 6]
    assert history.interval_ms() == 3_600_000
    assert history.before(cut_ms).interval_ms() == 0
    assert history.record_end(3) == 4
    assert history.record_end(0) == 0
    assert history.record_end(99) == 6
