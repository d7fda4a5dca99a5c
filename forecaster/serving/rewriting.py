"""Rewriting of stored state that was lost: the state of open partitions is written again from memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from forecaster.formats.state_log import StateLog
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
    no floor instead of some of the blocks. The floor names the log that the blocks are written to, as it was before the
    first of them: floors of batches before the loss is noticed name the former log, so that a restore distrusts them.

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

    def begin(self, state_logs: Mapping[int, StateLog]) -> None:
        """Write the state of open partitions again if the state topic has lost records that their floors need.

        A partition that is being restored is compared after it has been opened: its rows are complete then.

        Args:
            state_logs: logs of the state topic as they are now, by partition; those that are known.
        """
        partitions = {number: self._store.partitions.get(number) for number in state_logs}
        lost = {
            number: partition
            for number, partition in partitions.items()
            if partition is not None and partition.has_lost_records(state_logs[number])
        }
        if not lost:
            return
        self._consumer.pause(lost)
        self._store.discard_stored({number: state_logs[number] for number in lost})
        self._partitions |= lost
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
