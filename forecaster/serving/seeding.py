"""Seeding: the state that a consumer group starts with, made of its history before its first start.

    1. check that the consumer group has no committed offsets and no members
    2. partition by partition: check that neither state nor outputs show that it was read before; make the rows that
       serving would have made of the history, and write their blocks in transactions without offsets; blocks that only
       an earlier attempt wrote get tombstones
    3. check the consumer group again
    4. commit the floors of all partitions and the group's offsets, at the start of the input, in one transaction

The blocks do not count before step 4. A run that ends earlier leaves a group without offsets, so that its first start,
or the next run, begins from nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from forecaster.broker.consumer_groups import standalone_member
from forecaster.core.series.grid import largest_gap, last_timestamp
from forecaster.errors import StateError, TransientBrokerError, UsageError
from forecaster.formats.models import iso_time
from forecaster.interfaces import Producer
from forecaster.records import Message, Outcome, Readings, Transaction
from forecaster.serving.state.partition import Partition
from forecaster.serving.state.recovery import Recovery
from forecaster.serving.state.restore import Restored, Restorer

BYTES_PER_TRANSACTION = 1_500_000
LARGEST_LOST_SHARE = 0.5
"""Largest share of the series whose seeded rows may be lost because the input goes too far back."""


class SeededGroup(Protocol):
    """The part of `broker.consumer_groups.ConsumerGroup` that seeding needs; tests use a fake."""

    def committed(self) -> dict[int, int]:
        """Return the committed offsets, by partition."""

    def members(self) -> int:
        """Return the number of live members."""


@dataclass(frozen=True, slots=True)
class SeededPartition:
    """The state that a partition starts with.

    Attributes:
        number: number of the partition.
        series: number of series with a row.
        left_out: number of series without a row, since the partition has no room for more: they start cold.
        blocks: number of blocks.
        outcomes: number of readings by outcome.
    """

    number: int
    series: int
    left_out: int
    blocks: int
    outcomes: Counter[Outcome]

    @property
    def readings(self) -> int:
        """Number of readings."""
        return self.outcomes.total()


class Seeder:
    """Writes the state that a consumer group starts with.

    Args:
        restorer: creates the empty partitions, and replays the history into them.
        producer: commits transactions.
        group: the group, which must not be in use.
    """

    def __init__(self, restorer: Restorer, producer: Producer, group: SeededGroup) -> None:
        self._restorer, self._producer, self._group = restorer, producer, group
        self._floors: dict[int, Message] = {}
        self._offsets: dict[int, int] = {}

    def refuse_used_group(self) -> None:
        """Check that the consumer group has never been used.

        Raises:
            StateError: the group has committed offsets, or members.
            TransientBrokerError: the broker did not answer.
        """
        name, source = self._restorer.config.state_config.key_prefix, self._restorer.config.input_topic
        members = self._group.members()
        if members:
            raise StateError(
                f"group {name} has {members} live member{'s' if members > 1 else ''}; seed a group before its first "
                "start, or name another one with FORECASTER_KAFKA__GROUP_ID"
            )
        for partition_number, offset in self._group.committed().items():
            raise StateError(
                f"group {name} has committed offset {offset} in partition {partition_number} of topic {source}, so its "
                "series have a state already; seed a group before its first start, or name another one with "
                "FORECASTER_KAFKA__GROUP_ID"
            )

    def seed(self, partition_number: int, parts: Iterable[Readings]) -> SeededPartition:
        """Write the blocks of a partition to the state topic; they count once `finish` has committed.

        Args:
            partition_number: number of the partition.
            parts: history of its series, in order of time.

        Raises:
            StateError: the group has been used in the meantime, or a newer version wrote the stored state.
            UsageError: the input goes so far back that its readings would discard the seeded rows.
            TransientBrokerError: the broker did not answer; the partition can be seeded again.
        """
        restored = self._restorer.restore(partition_number)
        if restored.plan.recovery != Recovery.NEW:
            self._refuse_found_state(restored)
        partition = restored.partition
        left_out: set[str] = set()
        outcomes: Counter[Outcome] = Counter()
        for readings in parts:
            offsets = np.full(len(readings), partition.position, np.int64)
            result = self._restorer.replayer.replay_batch(partition, readings, offsets)
            outcomes.update(Outcome(outcome) for outcome in result.outcomes.tolist())
            stateless = np.flatnonzero(result.outcomes == Outcome.STATELESS)
            left_out.update(readings.series_ids[index] for index in stateless.tolist())
        self._refuse_older_input(partition)
        partition.pending_tombstones -= set(partition.blocks)  # new blocks replace those of an earlier attempt
        self._write(partition)
        return SeededPartition(partition_number, len(partition.table), len(left_out), len(partition.blocks), outcomes)

    def _refuse_found_state(self, restored: Restored) -> None:
        """Raise StateError: the group was used in the meantime, or long ago."""
        self.refuse_used_group()
        config, partition = self._restorer.config, restored.partition
        raise StateError(
            f"group {config.state_config.key_prefix} has read partition {partition.number} of topic "
            f"{config.input_topic} up to offset {partition.position}, as its state or its outputs show, although Kafka "
            "has no committed offset of it; seed a group before its first start, or name another one with "
            "FORECASTER_KAFKA__GROUP_ID"
        )

    def finish(self) -> None:
        """Commit the group's offsets and the floors, so that its first start restores the seeded rows.

        Raises:
            StateError: the group has been used in the meantime.
            TransientBrokerError: the broker did not answer, or did not commit.
        """
        self.refuse_used_group()
        if not self._commit(list(self._floors.values()), self._offsets) and self._group.committed() != self._offsets:
            raise TransientBrokerError(
                f"the offsets of group {self._restorer.config.state_config.key_prefix} were not committed"
            )

    def _refuse_older_input(self, partition: Partition) -> None:
        """Check that the input does not go too far back.

        Early readings of the input are late for most of the seeded rows; readings from farther back than the largest
        gap would restart a series and discard its row.
        """
        written = self._restorer.first_written_ms(partition.number)
        table = partition.table
        used = table.used
        if written is None or not used.any():
            return
        times, grid = table.state.timeline, self._restorer.config.pipeline.observation.grid
        reach = largest_gap(grid, np.maximum(times.interval_ms, 1)) * times.interval_ms
        discarded = (times.interval_ms > 0) & (written < last_timestamp(times) - reach)
        if discarded[used].mean() > LARGEST_LOST_SHARE:
            until = iso_time(int(last_timestamp(times)[used].max()))
            raise UsageError(
                f"partition {partition.number} of topic {self._restorer.config.input_topic} goes back to "
                f"{iso_time(written)}, but the history ends at {until}. A series whose input begins more than "
                "FORECASTER_SERIES__MAX_GAP before the end of its history restarts there and loses its seeded state. "
                "End the history at the beginning of the input"
            )

    def _write(self, partition: Partition) -> None:
        while (writes := partition.next_writes(BYTES_PER_TRANSACTION)) is not None:
            messages = writes.messages
            if writes.floor is not None:
                *messages, self._floors[partition.number] = messages
            if messages and not self._commit(messages, {}):
                raise TransientBrokerError(f"the blocks of partition {partition.number} were not written")
            partition.mark_stored(writes)
        self._offsets[partition.number] = partition.position

    def _commit(self, messages: list[Message], offsets: dict[int, int]) -> bool:
        """Return whether the transaction was committed; otherwise restart the producer."""
        config = self._restorer.config
        committed = self._producer.commit(
            Transaction({config.state_topic: messages}, offsets, standalone_member(config.state_config.key_prefix))
        )
        if not committed:
            self._producer.restart()
        return committed
