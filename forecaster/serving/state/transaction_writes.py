"""Which blocks each transaction writes: a number of bytes, shared by all open partitions in turn."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from forecaster.backoff import Backoff
from forecaster.clock import Clock
from forecaster.formats.state import Swap
from forecaster.serving.state.partition import Partition, PartitionBatch
from forecaster.serving.state.writes import StateWrites

BLOCK_BYTES_PER_TRANSACTION = 1_500_000
NO_TRY = Backoff(60.0, 600.0)
"""Pauses between tries of a block that is larger than the blocks of a transaction may be."""


class TransactionWrites:
    """Chooses what a transaction writes of the state, within the bytes that its blocks may have.

    Each partition decides which of its blocks are due; a partition that comes first in a transaction leaves fewer bytes
    for the others. No block is marked as stored here: that follows the commit.

    Args:
        clock: measures the pauses between tries of a block that is too large.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._most_bytes = BLOCK_BYTES_PER_TRANSACTION
        self._rotation = 0
        self._tries = NO_TRY

    def limit(self, size: int) -> None:
        """Let the blocks of later transactions have at most this many bytes.

        A batch whose next block is larger writes none; a transaction of state alone writes one, unless it can wait.
        """
        self._most_bytes = size

    def of_batch(
        self,
        partitions: Mapping[int, Partition],
        batches: Mapping[int, PartitionBatch],
        swaps: Mapping[int, list[Swap]],
    ) -> dict[int, StateWrites]:
        """Return what the transaction of a batch writes, by partition: the state as it is before the batch.

        Args:
            partitions: open partitions, by number.
            batches: facts about the part of the batch of each of its partitions.
            swaps: checkpoints that serve in it, of each of its partitions.
        """
        budget = self._budget
        batch_writes: dict[int, StateWrites] = {}
        for number in self._in_rotation(batches):
            batch_writes[number] = partitions[number].batch_writes(batches[number], swaps[number], budget)
            budget -= batch_writes[number].size
        return batch_writes

    def next_of(self, partition: Partition) -> dict[int, StateWrites]:
        """Return the next writes of a partition, by its number; empty = all is written."""
        writes = partition.next_writes(self._budget)
        return {} if writes is None else {partition.number: writes}

    def next_of_any(self, partitions: Iterable[Partition]) -> dict[int, StateWrites]:
        """Return the next writes of the first partition that has something to write; empty = none has."""
        return next(filter(None, map(self.next_of, partitions)), {})

    def overdue(self, partitions: Iterable[Partition], *, may_try: bool) -> dict[int, StateWrites]:
        """Return writes, by partition, of those whose blocks or floor are older than the snapshot interval.

        If no block fits in the bytes that a transaction may have, one is tried all the same, with growing pauses:
        without any transaction, nothing would show that the broker takes more again.

        Args:
            partitions: partitions that have no batch.
            may_try: whether a block that does not fit may be tried; a batch has a transaction anyway.
        """
        overdue = [partition for partition in partitions if partition.is_overdue()]
        fitting, now = self._fitting(overdue), self._clock()
        if fitting or not overdue or not may_try or self._tries.lasts(now):
            return fitting
        self._tries = self._tries.after_failure(now)
        return self.next_of(overdue[0])

    def record_stored(self, writes: StateWrites) -> None:
        """Note that writes of a partition are in the state topic; if they hold a block, the next try needs no pause."""
        if writes.written:
            self._tries = NO_TRY

    @property
    def _budget(self) -> int:
        """Bytes of blocks that a transaction may have."""
        return min(BLOCK_BYTES_PER_TRANSACTION, self._most_bytes)

    def _fitting(self, partitions: Sequence[Partition]) -> dict[int, StateWrites]:
        """Return the next writes of the partitions, as far as they fit in one transaction."""
        budget = self._budget
        fitting: dict[int, StateWrites] = {}
        for partition in partitions:
            writes = partition.next_writes(budget, at_least_one=False) if budget > 0 else None
            if writes is not None:
                budget -= writes.size
                fitting[partition.number] = writes
        return fitting

    def _in_rotation(self, partition_numbers: Collection[int]) -> list[int]:
        """Return the partitions, beginning with another one each time, so that the budget reaches all of them."""
        ordered = sorted(partition_numbers)
        self._rotation = (self._rotation + 1) % len(ordered)
        return ordered[self._rotation :] + ordered[: self._rotation]
