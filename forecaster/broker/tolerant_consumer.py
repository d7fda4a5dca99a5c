"""Kafka's consumer, but one odd record, or one damaged batch, does not stop the process that reads it.

| what is met | the client as it comes | here |
|---|---|---|
| a header's name that is not UTF-8 | the batch counts as corrupt | U+FFFD for each wrong byte, as in Java's client |
| a batch that is corrupt | one error; the next poll never ends | an error that says where, and it is fetched anew |
"""

from __future__ import annotations

from typing import Any

import kafka
from kafka.consumer.fetcher import Fetcher
from kafka.errors import KafkaError
from kafka.record.default_records import DefaultRecordBatch

from forecaster.broker.retry import describe


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
        self._fetcher.PartitionRecords = PartitionRecords

    def next_offset(self, partition: kafka.TopicPartition) -> int | None:
        """Returns where the partition is read next, as far as it is known here; None = it is not.

        The client's own `position` looks after all partitions at each call.
        """
        state = self._subscription.assignment.get(partition)
        return None if state is None or state.position is None else int(state.position.offset)


class PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """What one fetch brought of a partition."""

    def take(self, n: int | None = None) -> list[Any]:
        """Returns the next records.

        Raises:
            UnreadableBatch: the rest of what was fetched is dropped, since what has failed once cannot go on.
        """
        try:
            found: list[Any] = super().take(n)
        except Exception as error:
            self.drain()
            raise UnreadableBatch(self.topic_partition, self.next_fetch_offset, error) from error
        return found

    def _unpack_records(self, partition: kafka.TopicPartition, records: Any, *deserializers: Any) -> Any:
        return super()._unpack_records(partition, _Batches(records), *deserializers)


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
