"""Which readings are written for training: all of a small fleet, whole groups by hash of a large one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.core.hashing import HASHES, group_hash
from forecaster.records import I64, Outcome, Readings


@dataclass(frozen=True, slots=True)
class HistorySampling:
    """Selects about `max_train_series` series over the whole fleet: of each group all of them, or none.

    A group is selected if its hash lies below a share that falls as its partition fills. The groups that are selected
    later are a subset of those before, so that the history of a group has no gaps.

    Attributes:
        max_train_series: number of series to select in the fleet, at least 1.
        partitions: number of partitions of the input, which are assumed to hold equally many series.
    """

    max_train_series: int
    partitions: int

    def share(self, series_in_partition: int) -> float:
        """Return the share of a partition's groups that is selected, 0 to 1."""
        return min(1.0, self.max_train_series / self.partitions / max(series_in_partition, 1))

    def select(self, readings: Readings, indices: I64, outcomes: NDArray[np.int8], series_in_partition: int) -> I64:
        """Return the indices of the readings to write: those of selected groups that moved their series to a new tick.

        Args:
            readings: N readings of the batch.
            indices: indices of the partition's readings among them, ascending.
            outcomes: values of `records.Outcome`; (N,).
            series_in_partition: number of series that the partition holds.
        """
        of_partition = outcomes[indices]
        steps: I64 = indices[(of_partition == Outcome.FORECAST) | (of_partition == Outcome.WARMING)]
        share = self.share(series_in_partition)
        if share >= 1.0 or not len(steps):
            return steps
        begins = np.ones(len(steps), bool)
        if readings.groups is not None:  # all readings of a record have one group, whose hash is computed once
            begins[1:] = np.diff(readings.record_of_reading[steps]) != 0
        names = readings.series_ids if readings.groups is None else readings.groups
        hashes = np.array([group_hash(names[index]) for index in steps[begins].tolist()], np.int64)
        selected: I64 = steps[(hashes < share * HASHES)[np.cumsum(begins) - 1]]
        return selected
