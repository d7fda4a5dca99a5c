"""Kafka's consumer, but one odd record, or one damaged batch, does not stop the process that reads it.

| what is met | the client as it comes | here |
|---|---|---|
| a header's name that is not UTF-8 | the batch counts as corrupt | U+FFFD for each wrong byte, as in Java's client |
| a batch that is corrupt | one error; the next poll never ends | an error that says where, and it is fetched anew |
| a backlog in several partitions | all that was fetched of one, then of the next | a few records of each in turn |
"""

from __future__ import annotations

from collections import deque
from typing import Any

import kafka
from kafka.consumer.fetcher import Fetcher
from kafka.errors import KafkaError
from kafka.record.default_records import DefaultRecordBatch

from forecaster.broker.patience import describe

TURN_RECORDS = 16
"""Records that a poll takes from one partition before it turns to the next, where it may not have `max_poll_records`.

A poll that may takes half of them: so many records are cheap to process, but each partition adds to a transaction.
"""


class UnreadableBatch(KafkaError):  # type: ignore[misc]
    """A batch cannot be read; the position stays before it.

    Args:
        partition: where it is.
        offset: the next one to be read.
        error: what is wrong with it.
    """

    def __init__(self, partition: kafka.TopicPartition, offset: int, error: Exception) -> None:
        super().__init__(
            f"topic {partition.topic}, partition {partition.partition}, offset {offset}: {describe(error)}"
        )
        self.partition = partition
        self.offset = offset


class KafkaConsumer(kafka.KafkaConsumer):  # type: ignore[misc]
    """The client's consumer; its `poll` raises UnreadableBatch as often as it meets one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._fetcher.__class__ = FairFetcher

    def next_offset(self, partition: kafka.TopicPartition) -> int | None:
        """Returns where the partition is read next, as far as it is known here; None = it is not.

        The client's own `position` looks after all partitions at each call.
        """
        state = self._subscription.assignment.get(partition)
        return None if state is None or state.position is None else int(state.position.offset)


class PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """What one fetch brought of a partition. It delivers a few records at a time, and queues behind the others then."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._fetcher: FairFetcher | None = None
        self._is_queued = False

    def __bool__(self) -> bool:
        """Return whether the next records come from here: not while it waits in the queue."""
        return not self._is_queued and bool(super().__bool__())

    @property
    def fetched_offset(self) -> int:
        """Offset of the next record, by the name that a fetch in the queue has for it."""
        return int(self.next_fetch_offset)

    def take_turns(self, fetcher: FairFetcher) -> PartitionRecords:
        """Deliver the next records from here, then wait at the end of the fetcher's queue."""
        self._fetcher, self._is_queued = fetcher, False
        return self

    def take(self, n: int | None = None) -> list[Any]:
        """Return the next records, as many as a turn has at most.

        Raises:
            UnreadableBatch: a batch is corrupt; the rest of the fetch is dropped: the client cannot read on in it.
        """
        if self._fetcher is not None:
            n = self._fetcher.turn if n is None else min(n, self._fetcher.turn)
        try:
            records: list[Any] = super().take(n)
        except Exception as error:
            self.drain()
            raise UnreadableBatch(self.topic_partition, self.next_fetch_offset, error) from error
        if self._fetcher is not None and self:
            self._is_queued = True
            self._fetcher.queue.append(self)
        return records

    def _unpack_records(self, partition: kafka.TopicPartition, records: Any, *deserializers: Any) -> Any:
        return super()._unpack_records(partition, _Batches(records), *deserializers)


class FairFetcher(Fetcher):  # type: ignore[misc]
    """Takes the records of a poll from all partitions that have some, in turn: none waits for another's backlog.

    The order within a partition and its position are the client's own. The client's queue of fetches holds those that
    are begun, too, so that it parks them while their partition is paused, and asks for no second fetch meanwhile.
    """

    PartitionRecords = PartitionRecords
    turn = TURN_RECORDS

    @property
    def queue(self) -> deque[Any]:
        """Fetches to deliver records from, those of the next partition first."""
        fetches: deque[Any] = self._completed_fetches
        return fetches

    def fetched_records(self, max_records: int | None = None, update_offsets: bool = True) -> tuple[Any, bool]:  # noqa: FBT001, FBT002 - the client's
        """Return the next records, and that partitions without any are to be fetched."""
        most: int = self.config["max_poll_records"]
        self.turn = TURN_RECORDS if max_records is not None and max_records < most else max(TURN_RECORDS, most // 2)
        records, _ = super().fetched_records(max_records, update_offsets)
        return records, False

    def _parse_fetched_data(self, completed_fetch: Any) -> Any:
        begun = isinstance(completed_fetch, PartitionRecords)
        parsed = completed_fetch if begun else super()._parse_fetched_data(completed_fetch)
        return None if parsed is None else parsed.take_turns(self)


class _Batches:
    """The batches of a fetch, tolerant ones where they have headers."""

    def __init__(self, records: Any) -> None:
        self._records = records

    def next_batch(self) -> Any:
        """Returns the next batch; None after the last."""
        batch = self._records.next_batch()
        return _Batch(batch._buffer) if isinstance(batch, DefaultRecordBatch) else batch  # noqa: SLF001 - its bytes


class _Batch(DefaultRecordBatch):  # type: ignore[misc]
    """A batch that goes on tolerantly from the first record on whose headers are no UTF-8."""

    _buffer: bytearray

    def _read_msg(self) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            self._buffer = _Tolerant(self._buffer)
            return super()._read_msg()


class _Tolerant(bytearray):
    """Bytes any part of which can be decoded."""

    def __getitem__(self, where: Any) -> Any:
        part: Any = super().__getitem__(where)
        return _Tolerant(part) if isinstance(where, slice) else part

    def decode(self, *_: str) -> str:
        return super().decode("utf-8", "replace")
