"""Alignment: each partition's records continue at its position, or the partition is restored."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import structlog

from forecaster.broker.retry import retry
from forecaster.records import PollResult
from forecaster.serving.dependencies import Consumer
from forecaster.serving.state.partition import Partition
from forecaster.serving.state.store import StateStore

_log = structlog.get_logger()


class PositionAligner:
    """Compares what the consumer delivers with the positions of the open partitions.

    Between a partition's position and its next record, there may be transaction markers, aborted records and compacted
    ones. Nothing else can be there if the log still begins at or before the position.

    Args:
        store: owns the open partitions and their positions.
        consumer: reads the input.
        outage_deadline_seconds: how long to wait for a broker that does not answer.
        stop: ends every wait when it is set.
    """

    def __init__(
        self, store: StateStore, consumer: Consumer, outage_deadline_seconds: float, stop: threading.Event
    ) -> None:
        self._store, self._consumer = store, consumer
        self._outage_deadline, self._stop = outage_deadline_seconds, stop

    def align(self, polled: PollResult) -> bool:
        """Move each position over markers; rewind and queue for restore the partitions that do not fit.

        Returns:
            Whether all partitions fit.

        Raises:
            BrokerUnavailable: the broker did not answer for the outage deadline.
        """
        positions: dict[int, int] = {}
        misaligned: list[int] = []
        for partition_number, offset in self._next_offsets(polled.begin).items():
            if partition_number not in self._store.partitions:
                misaligned.append(partition_number)
                continue
            partition = self._store.partitions[partition_number]
            if offset < partition.position or (offset > partition.position and self._has_lost_input(partition)):
                _log.error(
                    "input_misaligned",
                    partition=partition_number,
                    expected_offset=partition.position,
                    next_offset=offset,
                )
                misaligned.append(partition_number)
            else:
                self._store.skip_to(partition_number, offset)
            positions[partition_number] = partition.position
        if misaligned:
            self._consumer.pause(misaligned)
            self._consumer.seek({**polled.begin, **positions})
            self._store.restore_again([partition for partition in misaligned if partition in positions])
        return not misaligned

    def _next_offsets(self, begin: Mapping[int, int]) -> dict[int, int]:
        """Return the first offset of each partition in the batch, and of others the offset that is fetched next.

        Partitions without records count only if the consumer has moved past their position, over markers.
        """
        offsets = dict(begin)
        for partition_number, end in self._consumer.ends().items():
            if partition_number in self._store.partitions and partition_number not in offsets:
                position = self._store.partitions[partition_number].position
                offset = self._consumer.next_offset(partition_number) if end > position else None
                if offset is not None and offset > position:
                    offsets[partition_number] = offset
        return offsets

    def _has_lost_input(self, partition: Partition) -> bool:
        """Return whether the input begins after the partition's position: retention has deleted unread records."""
        start = retry(
            lambda: self._store.log_start(partition.number),
            "reading the first offset of the input",
            self._outage_deadline,
            self._stop,
        )
        return partition.position < start
