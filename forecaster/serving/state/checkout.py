"""Borrowing rows: a batch works on its own copy, and the copy replaces the rows once the batch is committed."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

import numpy as np

from forecaster.core.arrays import concatenate, convert
from forecaster.core.state import SeriesState
from forecaster.records import I64, Readings
from forecaster.serving.state.partition import Partition, PartitionBatch, PartitionCheckout


@dataclass(frozen=True, slots=True)
class Checkout:
    """A batch's own copy of the rows that it touches.

    Attributes:
        state: the copied rows, partition after partition.
        row: row of `state` that each reading's series has; -1 = it can have none; (N,).
        borrowed: rows that are borrowed from each partition, in the order of `state`.
    """

    state: SeriesState
    row: I64
    borrowed: dict[int, PartitionCheckout]


def check_out(partitions: Mapping[int, Partition], readings: Readings, partition_of_reading: I64) -> Checkout:
    """Return a copy of the rows of the readings' series; the partitions stay as they are.

    Args:
        partitions: open partitions, by number; at least one.
        readings: N readings.
        partition_of_reading: the partition of each reading; (N,).
    """
    row = np.empty(len(readings), np.int64)
    states: list[SeriesState] = []
    borrowed: dict[int, PartitionCheckout] = {}
    begin = 0
    for partition_number in sorted(set(partition_of_reading.tolist())):
        in_partition = np.flatnonzero(partition_of_reading == partition_number)
        indices, partition = in_partition.tolist(), partitions[partition_number]
        groups = None if readings.groups is None else [readings.groups[index] for index in indices]
        rows, of_partition = partition.checkout(
            [readings.series_ids[index] for index in indices], groups, readings.record_of_reading[in_partition]
        )
        row[in_partition] = np.where(rows < 0, -1, np.searchsorted(of_partition.rows, rows) + begin)
        begin += len(of_partition.rows)
        states.append(partition.table.copy(of_partition.rows, of_partition.new_rows))
        if of_partition.first_without_room >= 0:
            of_partition = replace(of_partition, first_without_room=indices[of_partition.first_without_room])
        borrowed[partition_number] = of_partition
    if not states:
        states.append(next(iter(partitions.values())).table.copy(np.empty(0, np.int64), {}))
    return Checkout(concatenate(states), row, borrowed)


def partition_batches(
    checkout: Checkout, partition_of_reading: I64, offsets: I64, ends: Mapping[int, int]
) -> dict[int, PartitionBatch]:
    """Return the facts that decide what each partition of a batch writes.

    Args:
        checkout: rows that the batch borrows.
        partition_of_reading: the partition of each reading; (N,).
        offsets: offsets of the readings; (N,).
        ends: offset after the batch, by partition.
    """
    batches: dict[int, PartitionBatch] = {}
    for partition_number, end in ends.items():
        borrowed = checkout.borrowed.get(partition_number)
        first = borrowed.first_without_room if borrowed is not None else -1
        refused = int(offsets[first]) if first >= 0 else -1
        readings = int((partition_of_reading == partition_number).sum())
        batches[partition_number] = PartitionBatch(readings, end, borrowed, refused)
    return batches


def adopt(partitions: Mapping[int, Partition], checkout: Checkout, adopting: Container[int]) -> None:
    """Replace the borrowed rows by the batch's copy; the positions stay for the caller to move.

    Args:
        partitions: open partitions, by number.
        checkout: the copy, as the batch has left it.
        adopting: partitions that adopt their part of it.
    """
    begin = 0
    for partition_number, borrowed in checkout.borrowed.items():
        end = begin + len(borrowed.rows)
        if partition_number in adopting:
            rows = convert(checkout.state, lambda array, span=slice(begin, end): array[span])  # type: ignore[misc]
            partitions[partition_number].adopt(borrowed, rows)
        begin = end
