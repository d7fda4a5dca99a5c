"""Files become the records that would have come through the input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import START_MS

from forecaster.broker.consumer_groups import partition_of
from forecaster.cli.seed import input_history
from forecaster.errors import UsageError
from forecaster.formats.files import read_files
from forecaster.history import SeriesHistory


def wide(folder: Path, name: str = "boiler", columns: str = "timestamp,in,out", rows: str = "") -> SeriesHistory:
    file = folder / f"{name}.csv"
    file.write_text(f"{columns}\n" + (rows or f"{START_MS},1,2\n{START_MS + 1000},3,4\n"))
    return read_files([file])


def test_without_value_fields_each_cell_is_a_record_keyed_by_its_series(tmp_path: Path) -> None:
    arranged = input_history(wide(tmp_path), ())
    assert arranged.groups == ["boiler/in", "boiler/out"]
    assert arranged.partitions_of_series(7).tolist() == [partition_of(b"boiler/in", 7), partition_of(b"boiler/out", 7)]
    [part] = arranged.batches(np.ones(2, np.bool_))
    assert part.groups is None
    assert part.record_of_reading.tolist() == [0, 1, 2, 3]


def test_with_value_fields_a_line_is_a_record_keyed_by_its_file(tmp_path: Path) -> None:
    arranged = input_history(wide(tmp_path), ("in", "out"))
    assert arranged.partitions_of_series(7).tolist() == [partition_of(b"boiler", 7)] * 2
    [part] = arranged.batches(np.ones(2, np.bool_))
    assert part.groups == ["boiler"] * 4
    assert part.record_of_reading.tolist() == [0, 0, 1, 1]
    assert part.series_ids == ["boiler/in", "boiler/out"] * 2


def test_columns_that_are_no_field_are_counted(tmp_path: Path) -> None:
    """If no column is a field, the files are refused."""
    arranged = input_history(wide(tmp_path), ("in", "pressure"))
    assert (arranged.unnamed, set(arranged.history.series_index.tolist())) == (1, {0})
    with pytest.raises(UsageError, match="FORECASTER_INPUT__VALUE_FIELDS=pressure"):
        input_history(wide(tmp_path), ("pressure",))


def test_a_reading_that_no_record_can_carry_is_counted(tmp_path: Path) -> None:
    rows = f"{START_MS},1e31,2\n{START_MS},,-1e31\n"
    arranged = input_history(wide(tmp_path, rows=rows), ())
    assert (arranged.refused, len(arranged.history)) == (2, 2)
    assert np.isnan(arranged.history.values).sum() == 1


def test_batches_hold_selected_series_and_complete_records(tmp_path: Path) -> None:
    columns = [f"s{number}" for number in range(9)]
    lines = "".join(f"{START_MS + 1000 * line}," + ",".join("1" * 9) + "\n" for line in range(500))
    history = wide(tmp_path, columns="timestamp," + ",".join(columns), rows=lines)
    arranged = input_history(history, tuple(columns))
    parts = list(arranged.batches(np.ones(9, np.bool_)))
    assert len(parts) > 1
    assert all(len(part) % 9 == 0 for part in parts)
    alone = input_history(history, ())
    only = np.arange(9) == 4
    assert {name for part in alone.batches(only) for name in part.series_ids} == {"boiler/s4"}
    assert sum(len(part) for part in alone.batches(only)) == 500
