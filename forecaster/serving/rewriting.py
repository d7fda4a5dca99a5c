"""Rewriting of stored state that was lost: the state of open partitions is written again from memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import structlog

from forecaster.records import Member
from forecaster.serving.dependencies import Consumer
from forecaster.serving.state.lifecycle import PartitionPhase
from forecaster.serving.state.partition import Partition
from forecaster.serving.state.store import StateStore
from forecaster.serving.state.writes import StateWrites

_log = structlog.get_logger()


class StateRewriter:
    """Writes all blocks of a partition again, one transaction between two batches, and its floor with the last of them.

    The partition reads nothing in the meantime: a floor that is written with a batch would promise blocks that the
    state topic does not hold yet. The first transaction deletes the former floor, so that a restore in the middle finds
    no floor instead of some of the blocks.

    Args:
        store: owns the partitions.
        consumer: reads the input.
        commit: commits a transaction with these writes and marks them as stored; returns whether it did.
    """

    def __init__(
        self, store: StateStore, consumer: Consumer, commit: Callable[[Mapping[int, StateWrites], Member], bool]
    ) -> None:
        self._store, self._consumer, self._commit = store, consumer, commit
        self._partitions: dict[int, Partition] = {}

    @property
    def is_busy(self) -> bool:
        """Whether the state of a partition is still to be written."""
        return bool(self._partitions)

    def begin(self, partition_numbers: Collection[int]) -> None:
        """Write the state of these partitions again; the restore of those that are not open yet begins again."""
        if not partition_numbers:
            return
        partitions = self._store.partitions
        lost = {number: partitions[number] for number in partition_numbers if number in partitions}
        self._consumer.pause(lost)
        self._store.discard_stored(lost)
        self._store.restore_again([number for number in self._store.unopened if number in partition_numbers])
        self._partitions |= lost
        if lost:
            blocks = sum(len(partition.blocks) for partition in lost.values())
            _log.warning("state_rewrite_started", partitions=sorted(lost), blocks=blocks)

    def work(self, member: Member) -> None:
        """Commit the next transaction, if one is due; a partition whose state is complete continues to read."""
        for number, partition in list(self._partitions.items()):
            if self._store.partitions.get(number) is not partition:  # revoked, or restored again
                del self._partitions[number]
            elif writes := self._store.next_writes(number):
                self._commit(writes, member)
                return
            else:
                self._finish(number)

    def _finish(self, partition_number: int) -> None:
        del self._partitions[partition_number]
        if self._store.phases[partition_number] is PartitionPhase.SERVING:
            self._consumer.resume([partition_number])
        _log.info("state_rewrite_finished", partition=partition_number)
