"""A group's state from history, before its first start: nothing of it counts until all of it is there.

    1. the group has no offsets and no members
    2. partition by partition: the rows that service would have made of the history, then their blocks, in transactions
       that commit no offsets; blocks of an earlier attempt that are not written anew get tombstones
    3. again 1
    4. one transaction with the floors of all partitions and the group's offsets, at the beginning of the input

Who ends in the middle leaves a group without offsets, which begins new: the next attempt begins anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from forecaster.broker.consumer_groups import standalone_member
from forecaster.core.series.timeline import largest_gap, last_stamp
from forecaster.errors import StateError, TransientBrokerError, UsageError
from forecaster.formats.models import iso_time
from forecaster.records import Message, Outcome, Readings, Transaction
from forecaster.serving.state.partition import Partition
from forecaster.serving.state.recovery import Recovery
from forecaster.serving.state.restore import Restorer
from forecaster.serving.state.table import FREE

BYTES_PER_TRANSACTION = 1_500_000
MOST = 0.5


class Producer(Protocol):
    """What seeding asks of `TransactionalProducer`; tests have their own."""

    def commit(self, transaction: Transaction) -> bool: ...
    def restart(self) -> None: ...


class ConsumerGroup(Protocol):
    """What seeding asks of `broker.groups.Group`; tests have their own."""

    def committed(self) -> dict[int, int]: ...
    def members(self) -> int: ...


@dataclass(frozen=True, slots=True)
class SeededPartition:
    """What a partition begins with.

    Attributes:
        number: of the partition.
        series: that have a row.
        left_out: series for which there was no room: they begin cold, as new ones do there.
        blocks: of rows.
        outcomes: how many readings became what.
    """

    number: int
    series: int
    left_out: int
    blocks: int
    outcomes: Counter[Outcome]

    @property
    def readings(self) -> int:
        """How many went in."""
        return self.outcomes.total()


class Seeder:
    """Writes the state that a group begins with.

    Args:
        restorer: of the group; makes its empty partitions, and feeds them.
        producer: of transactions.
        group: must not be in use.
    """

    def __init__(self, restorer: Restorer, producer: Producer, group: ConsumerGroup) -> None:
        self._restorer, self._producer, self._group = restorer, producer, group
        self._floors: dict[int, Message] = {}
        self._offsets: dict[int, int] = {}

    def refuse_used_group(self) -> None:
        """Nobody has used the group, and nobody is in it.

        Raises:
            StateError: it has offsets or members.
            TransientBrokerError: the broker did not say.
        """
        name, source = self._restorer.config.state_config.key_prefix, self._restorer.config.source
        members = self._group.members()
        if members:
            raise StateError(
                f"group {name}: has {members} live member{'s' if members > 1 else ''}: seed a group before its first "
                "start, or name another with FORECASTER_KAFKA__GROUP_ID"
            )
        for number, offset in self._group.committed().items():
            raise StateError(
                f"group {name}: has committed offset {offset} of {source} partition {number}: its series have a state "
                "already: seed a group before its first start, or name another with FORECASTER_KAFKA__GROUP_ID"
            )

    def seed(self, number: int, parts: Iterable[Readings]) -> SeededPartition:
        """The blocks of a partition are in the state topic; they count once `finish` has committed.

        Args:
            number: of the partition.
            parts: the history of its series, in order of time.

        Raises:
            StateError: the group is in use meanwhile; or a newer version wrote what is there.
            UsageError: the input goes so far back that its readings would undo what the history did.
            TransientBrokerError: not this time; the next time begins anew.
        """
        restored = self._restorer.restored(number)
        if restored.plan.recovery != Recovery.NEW:
            self.refuse_used_group()
        partition = restored.partition
        left_out: set[str] = set()
        outcomes: Counter[Outcome] = Counter()
        for readings in parts:
            offsets = np.full(len(readings), partition.position, np.int64)
            became = self._restorer.replay_batch(partition, readings, offsets).outcomes
            outcomes.update(Outcome(outcome) for outcome in became.tolist())
            left_out.update(readings.series_ids[row] for row in np.flatnonzero(became == Outcome.STATELESS).tolist())
        self._refuse_older_input(partition)
        partition.pending_tombstones -= set(partition.blocks)  # they are written anew
        self._write(partition)
        return SeededPartition(number, len(partition.table), len(left_out), len(partition.blocks), outcomes)

    def finish(self) -> None:
        """The group has its offsets and floors: its first start restores what was seeded.

        Raises:
            StateError: somebody has begun to use the group meanwhile.
            TransientBrokerError: not this time.
        """
        self.refuse_used_group()
        if not self._commit(list(self._floors.values()), self._offsets) and self._group.committed() != self._offsets:
            raise TransientBrokerError(
                f"group {self._restorer.config.state_config.key_prefix}: its offsets were not committed"
            )

    def _refuse_older_input(self, partition: Partition) -> None:
        """Most rows take the first readings of the input for late ones at worst, not for a grid that begins anew."""
        written = self._restorer.first_written_ms(partition.number)
        table = partition.table
        used = np.array([name != FREE for name in table.names], np.bool_)
        if written is None or not used.any():
            return
        times, grid = table.state.timeline, self._restorer.config.pipeline.observation.grid
        reach = largest_gap(grid, np.maximum(times.interval_ms, 1)) * times.interval_ms
        undone = (times.interval_ms > 0) & (written < last_stamp(times) - reach)
        if undone[used].mean() > MOST:
            until = iso_time(int(last_stamp(times)[used].max()))
            raise UsageError(
                f"{self._restorer.config.source} partition {partition.number}: the input goes back to "
                f"{iso_time(written)}, the history ends at {until}: a series that is read again from farther back than "
                "FORECASTER_SERIES__MAX_GAP begins anew there, and what was seeded is lost: end the history where the "
                "input begins"
            )

    def _write(self, partition: Partition) -> None:
        while (writes := partition.flush(BYTES_PER_TRANSACTION)) is not None:
            messages = writes.messages
            if writes.floor is not None:
                *messages, self._floors[partition.number] = messages
            if messages and not self._commit(messages, {}):
                raise TransientBrokerError(f"partition {partition.number}: its blocks were not written")
            partition.committed(writes)
        self._offsets[partition.number] = partition.position

    def _commit(self, messages: list[Message], offsets: dict[int, int]) -> bool:
        """Returns whether all is committed; else there is a new producer."""
        config = self._restorer.config
        committed = self._producer.commit(
            Transaction({config.state: messages}, offsets, standalone_member(config.state_config.key_prefix))
        )
        if not committed:
            self._producer.restart()
        return committed
