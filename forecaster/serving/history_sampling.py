"""Which readings are written for the trainer: all of a small fleet, whole groups by hash of a large one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.formats.history import HASHES, group_hash
from forecaster.records import I64, Outcome, Readings


@dataclass(frozen=True, slots=True)
class HistoryChoice:
    """Chooses about `max_train_series` series over the whole fleet; of each group all or none.

    A group is chosen when its hash lies below a share that falls as its partition fills: the groups chosen then are
    some of those chosen before, so that what the trainer knows of them has no holes.

    Attributes:
        max_train_series: of the fleet, at least 1.
        partitions: of the input, which are taken to be alike.
    """

    max_train_series: int
    partitions: int

    def share(self, series_in_partition: int) -> float:
        """Returns which share of a partition's groups is chosen, 0 to 1."""
        return min(1.0, self.max_train_series / self.partitions / max(series_in_partition, 1))

    def chosen(self, readings: Readings, positions: I64, outcomes: NDArray[np.int8], series_in_partition: int) -> I64:
        """Returns the positions of the readings to write: steps of their series, of chosen groups.

        Args:
            readings: of the batch; N.
            positions: of the readings that are of the partition, ascending.
            outcomes: of `records.Outcome`; (N,).
            series_in_partition: how many it holds.
        """
        of_partition = outcomes[positions]
        steps: I64 = positions[(of_partition == Outcome.FORECAST) | (of_partition == Outcome.WARMING)]
        share = self.share(series_in_partition)
        if share >= 1.0 or not len(steps):
            return steps
        begins = np.ones(len(steps), bool)
        if readings.groups is not None:  # a record is of one group, which is hashed once
            begins[1:] = np.diff(readings.records[steps]) != 0
        names = readings.series_ids if readings.groups is None else readings.groups
        hashes = np.array([group_hash(names[position]) for position in steps[begins].tolist()], np.int64)
        kept: I64 = steps[(hashes < share * HASHES)[np.cumsum(begins) - 1]]
        return kept
