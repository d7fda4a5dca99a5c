"""Kafka's consumer and admin client, changed so that they do not stop a process that must continue.

| case | the client | here |
|---|---|---|
| the name of a header is not UTF-8 | reports a corrupt batch | puts U+FFFD for each wrong byte, as Java's client does |
| a batch is corrupt | raises once; the next poll never returns | raises UnreadableBatch, then fetches the batch again |
| several partitions have a backlog | delivers all of one, then of the next | takes turns, a few records of each |
| a topic is deleted, and created again | may continue in the new one | reads only the one with the given id |
| a broker reports a right that the client does not know | raises ValueError | leaves that part of the answer as it is |

`tolerant_coordinator` and `tolerant_connections` have the same purpose. These modules are the only ones that touch
private names of the client; a test fails when one of them moves.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Any
from uuid import UUID

import kafka
from kafka.consumer.fetcher import Fetcher
from kafka.errors import KafkaError
from kafka.record.default_records import DefaultRecordBatch

from forecaster.broker.fetches_by_id import IdentifiedFetcher
from forecaster.broker.retry import describe
from forecaster.broker.tolerant_connections import BoundedNetClient, Question
from forecaster.broker.tolerant_coordinator import TolerantCoordinator

TURN_RECORDS = 16
"""Records that a small poll takes from one partition before the next partition with a backlog has its turn.

A poll that may bring `max_poll_records` takes half of them from one partition: that many records are cheap to process,
but each partition adds to the cost of a transaction.
"""


class UnreadableBatch(KafkaError):  # type: ignore[misc]
    """A batch cannot be read; the position of the consumer stays before it.

    Args:
        partition: partition of the batch.
        offset: offset of the next record to read.
        error: what is wrong with the batch.
    """

    def __init__(self, partition: kafka.TopicPartition, offset: int, error: Exception) -> None:
        super().__init__(
            f"topic {partition.topic}, partition {partition.partition}, offset {offset}: {describe(error)}"
        )
        self.partition = partition
        self.offset = offset


class TolerantConsumer(kafka.KafkaConsumer):  # type: ignore[misc]
    """Kafka's consumer; `poll` raises UnreadableBatch whenever it meets one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"kafka_client": BoundedNetClient, **options})
        self._fetcher.__class__ = FairFetcher
        self._fetcher.longest_wait_ms = self._fetcher.config["fetch_max_wait_ms"]
        self._coordinator.__class__ = TolerantCoordinator
        self._topics_with_ids: set[str] = set()

    @property
    def is_confirmed(self) -> bool:
        """Whether the group has confirmed this member within the session timeout: by a heartbeat or by a join."""
        return bool(self._coordinator.is_confirmed)

    @property
    def is_joining(self) -> bool:
        """Whether the group has not answered a request to join yet; it waits for all other members before it does."""
        return bool(self._coordinator.is_joining)

    def ask(self) -> Question:
        """Ask any known broker for metadata; return at once."""
        question: Question = self._manager.ask()
        return question

    def answers(self, timeout_ms: int) -> bool:
        """Return whether a known broker answers within the time; pauses after failed attempts to connect are cut."""
        return bool(self._manager.answers(timeout_ms))

    def hurry(self) -> None:
        """Connect again now to brokers whose connection has failed; the client's own pauses grow up to 30 s."""
        self._manager.hurry()

    def knows(self, topic: str) -> bool:
        """Return whether the client has the metadata of a topic."""
        return self._cluster.partitions_for_topic(topic) is not None

    def close(self, autocommit: bool = True, timeout_ms: float | None = None) -> None:  # noqa: FBT001, FBT002 - signature of the client
        """Close the connections; they are closed even if leaving the group fails."""
        try:
            super().close(autocommit=autocommit, timeout_ms=timeout_ms)
        finally:
            self._client.close()

    def topic_id(self, topic: str) -> str | None:
        """Return the id of a topic as of the newest metadata; empty = it does not exist, None = not known."""
        topic_id = self._cluster.topic_id(topic)
        if topic_id is not None and topic_id.int:
            self._topics_with_ids.add(topic)
            return str(topic_id)
        return "" if topic in self._topics_with_ids and not self.knows(topic) else None

    def read_from(self, topic: str, topic_id: str) -> None:
        """Read only from the topic with this id, where the broker knows ids; drop what was fetched from another one."""
        with suppress(ValueError):
            known_id = UUID(topic_id)
            if known_id.int:  # zero is the id of every topic without one, and no fetch can name it
                self._fetcher.read_from(topic, known_id)

    def next_offset(self, partition: kafka.TopicPartition) -> int | None:
        """Return the offset that is read next; None = not known yet.

        The client's own `position` does the same after it has refreshed the positions of all partitions, which is slow.
        """
        state = self._subscription.assignment.get(partition)
        return None if state is None or state.position is None else int(state.position.offset)

    def readable_end(self, partition: kafka.TopicPartition) -> int | None:
        """Return the end of the records that can be read, as of the last fetch; None = not fetched yet.

        With `read_committed`, it is the last stable offset: the records behind it wait for the end of a transaction.
        """
        state = self._subscription.assignment.get(partition)
        if state is None or state.highwater is None:
            return None
        last_stable = getattr(state, "last_stable_offset", -1)  # -1 = the broker does not say
        return int(state.highwater if last_stable < 0 else min(state.highwater, last_stable))


class TolerantAdminClient(kafka.KafkaAdminClient):  # type: ignore[misc]
    """Kafka's admin client; it does not translate the rights that a broker reports with each group."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"kafka_client": BoundedNetClient, **options})

    @property
    def is_lost(self) -> bool:
        """Whether no known broker answered the last request."""
        return bool(self._manager.is_lost)

    def answers(self, timeout_ms: int) -> bool:
        """Return whether a known broker answers within the time."""
        return bool(self._manager.answers(timeout_ms))

    def _process_acl_operations(self, obj: Any) -> Any:
        return obj


class PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """Records of one partition from one fetch; it delivers a few at a time, then waits in the queue of fetches."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._fetcher: FairFetcher | None = None
        self._is_queued = False

    def __bool__(self) -> bool:
        """Return whether the next records come from this fetch: never while it waits in the queue."""
        return not self._is_queued and bool(super().__bool__())

    @property
    def fetched_offset(self) -> int:
        """Offset of the next record; the fetcher asks for it by this name when the fetch comes from the queue."""
        return int(self.next_fetch_offset)

    def take_turns(self, fetcher: FairFetcher) -> PartitionRecords:
        """Deliver the next records from this fetch, then wait at the end of the fetcher's queue."""
        self._fetcher, self._is_queued = fetcher, False
        return self

    def take(self, n: int | None = None) -> list[Any]:
        """Return the next records, at most as many as one turn has.

        Raises:
            UnreadableBatch: the next batch is corrupt. The rest of the fetch is dropped, because the client cannot
                continue in it.
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
        return super()._unpack_records(partition, _TolerantBatches(records), *deserializers)


class FairFetcher(IdentifiedFetcher):
    """Takes records from all partitions in turn, so that none waits for the backlog of another.

    The order within a partition and its position are the client's own. A fetch that is partly delivered waits in the
    client's queue of completed fetches. There the client sets it aside while its partition is paused, and does not
    fetch its partition again.
    """

    PartitionRecords = PartitionRecords
    longest_wait_ms: int
    turn = TURN_RECORDS

    @property
    def queue(self) -> deque[Any]:
        """Fetches to deliver records from; the next partition's come first."""
        fetches: deque[Any] = self._completed_fetches
        return fetches

    def fetched_records(self, max_records: int | None = None, update_offsets: bool = True) -> tuple[Any, bool]:  # noqa: FBT001, FBT002 - signature of the client
        """Return the next records, and False: partitions without records in the queue are to be fetched now.

        While other partitions have records in the queue, the broker answers that fetch at once: the next fetch of the
        others waits for its answer.
        """
        most: int = self.config["max_poll_records"]
        self.turn = TURN_RECORDS if max_records is not None and max_records < most else max(TURN_RECORDS, most // 2)
        records, _ = super().fetched_records(max_records, update_offsets)
        self.config["fetch_max_wait_ms"] = 0 if self.queue else self.longest_wait_ms
        return records, False

    def _parse_fetched_data(self, completed_fetch: Any) -> Any:
        is_begun = isinstance(completed_fetch, PartitionRecords)
        parsed = completed_fetch if is_begun else super()._parse_fetched_data(completed_fetch)
        state = self._subscriptions.assignment.get(completed_fetch.topic_partition)
        if not is_begun and parsed is not None and state is not None:
            state.last_stable_offset = completed_fetch.partition_data.last_stable_offset  # the client ignores it
        return None if parsed is None else parsed.take_turns(self)


class _TolerantBatches:
    """Batches of one fetch, each of them tolerant of header names that are not UTF-8."""

    def __init__(self, records: Any) -> None:
        self._records = records

    def next_batch(self) -> Any:
        """Return the next batch; None after the last."""
        batch = self._records.next_batch()
        return _TolerantBatch(batch._buffer) if isinstance(batch, DefaultRecordBatch) else batch  # noqa: SLF001 - bytes of the batch


class _TolerantBatch(DefaultRecordBatch):  # type: ignore[misc]
    """A batch that decodes tolerantly from the first record on that needs it; strict decoding is faster."""

    _buffer: bytearray

    def _read_msg(self) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            self._buffer = _TolerantBytes(self._buffer)
            return super()._read_msg()


class _TolerantBytes(bytearray):
    """Bytes whose parts can always be decoded."""

    def __getitem__(self, key: Any) -> Any:
        part: Any = super().__getitem__(key)
        return _TolerantBytes(part) if isinstance(key, slice) else part

    def decode(self, *_: str) -> str:
        return super().decode("utf-8", "replace")
