"""Which readings are written to the training history."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import START_MS, readings

from forecaster.records import Outcome, Readings
from forecaster.serving.history_sampling import HistorySampling

GROUPS, FIELDS = 2_000, 3


def fleet(groups: int = GROUPS) -> Readings:
    """One record of each device, with three sensors."""
    rows = [(f"pump-{group}/{field}", START_MS, 1.0) for group in range(groups) for field in range(FIELDS)]
    batch = readings(rows, [number // FIELDS for number in range(len(rows))])
    return replace(batch, groups=[name.split("/")[0] for name in batch.series_ids])


def selected(sampling: HistorySampling, batch: Readings, series: int) -> list[int]:
    outcomes = np.zeros(len(batch), np.int8)
    return sampling.select(batch, np.arange(len(batch)), outcomes, series).tolist()


def test_all_series_of_a_small_fleet_are_written() -> None:
    batch = fleet(100)
    assert selected(HistorySampling(max_train_series=2_400, partitions=8), batch, 300) == list(range(300))


def test_a_large_fleet_writes_about_max_train_series() -> None:
    taken = len(selected(HistorySampling(max_train_series=9_600, partitions=8), fleet(), GROUPS * FIELDS))
    assert 0.85 < taken / 1_200 < 1.15


@pytest.mark.parametrize("name", ["{:d}", "site/{:06d}", "10.0.{0:x}", "sensor-{:04d}-temperature"])
def test_the_share_does_not_depend_on_names(name: str) -> None:
    batch = readings([(name.format(number), START_MS, 1.0) for number in range(20_000)])
    taken = len(selected(HistorySampling(max_train_series=1_000, partitions=1), batch, 20_000))
    assert 0.8 < taken / 1_000 < 1.2


def test_groups_are_written_completely_or_not_at_all() -> None:
    batch = fleet()
    taken = np.array(selected(HistorySampling(max_train_series=500, partitions=1), batch, GROUPS * FIELDS))
    counts = np.bincount(taken // FIELDS)
    assert set(counts.tolist()) == {0, FIELDS}


def test_a_growing_fleet_only_removes_groups() -> None:
    batch, sampling = fleet(), HistorySampling(max_train_series=1_000, partitions=2)
    before = set(range(GROUPS * FIELDS))
    for series in range(400, 12_000, 100):
        now = set(selected(sampling, batch, series))
        assert now <= before
        before = now
    assert before


def test_only_steps_of_the_partition_are_written() -> None:
    batch = fleet(4)
    outcomes = np.array([*Outcome, *Outcome], np.int8)
    positions = np.array([0, 1, 2, 5, 6, 8, 10])
    written = HistorySampling(max_train_series=1_000, partitions=1).select(batch, positions, outcomes, 12)
    assert written.tolist() == [0, 1, 6]
    assert all(outcomes[at] in (Outcome.FORECAST, Outcome.WARMING) for at in written)


def test_a_batch_without_steps_writes_nothing() -> None:
    batch = fleet(4)
    outcomes = np.full(len(batch), Outcome.LATE, np.int8)
    sampling = HistorySampling(max_train_series=1, partitions=1)
    assert not len(sampling.select(batch, np.arange(len(batch)), outcomes, 12))
