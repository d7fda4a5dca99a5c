"""Fakes of Kafka: logs and group offsets as plain objects, and transactions that fail when a test says so."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from builders import HOUR_MS, START_MS

from forecaster.errors import InputMissing, TransientBrokerError
from forecaster.formats.state import Identity
from forecaster.formats.state_log import StateLog, state_log
from forecaster.records import (
    FailureReason,
    Headers,
    InputRecord,
    PollResult,
    TopicFacts,
    Transaction,
    TransactionFailure,
)

INPUT, STATE, HISTORY, MODELS = "readings", "state", "history", "models"
FACTS = TopicFacts("cluster", "topic", 1)
IDENTITY = Identity(*FACTS, "pipeline", HOUR_MS)


class Member(NamedTuple):
    """A member of the group, as a poll returns it."""

    generation_id: int = 1
    member_id: str = "member"


class FakeKafka:
    """The logs and the group's offsets; every transaction ends with a marker, which takes an offset of the log.

    Attributes:
        open_from: first offset of an open transaction of the input, by partition.
    """

    def __init__(self, partitions: int = 1) -> None:
        self.partitions = range(partitions)
        self.logs: dict[tuple[str, int], list[InputRecord]] = {}
        self.ends: dict[tuple[str, int], int] = {}
        self.starts: dict[tuple[str, int], int] = {}
        self.open_from: dict[int, int] = {}
        self.offsets: dict[int, int] = {}
        self.published: list[tuple[str, str, bytes]] = []
        self.written_ms = 0
        self.facts: TopicFacts | None = FACTS._replace(partitions=partitions)
        self.compacted = False
        self.state_id = "state-topic"

    def append(
        self,
        partition: int,
        value: bytes | None,
        key: bytes | None = b"pump",
        topic: str = INPUT,
        headers: Headers = (),
    ) -> None:
        log = self.logs.setdefault((topic, partition), [])
        end = self.ends.get((topic, partition), 0)
        log.append(InputRecord(topic, partition, end, self.written_ms, key, value, headers))
        self.ends[topic, partition] = end + 1

    def mark(self, partition: int, offsets: int = 1) -> None:
        """Use up offsets of the input, as transaction markers and aborted records do."""
        self.ends[INPUT, partition] = self.ends.get((INPUT, partition), 0) + offsets

    def hours(self, partition: int, hours: range, key: bytes = b"pump") -> None:
        """Append one reading per hour."""
        for hour in hours:
            self.append(partition, b'{"timestamp": %d, "value": %d}' % (START_MS + hour * HOUR_MS, hour % 7), key)

    def read(self, topic: str, partition: int, offset: int, count: int) -> list[InputRecord]:
        assert offset >= self.starts.get((topic, partition), 0), "retention has deleted these records"
        log = self.logs.get((topic, partition), [])
        begin = bisect_left(log, offset, key=attrgetter("offset"))
        return log[begin : begin + count]

    def last_stable_offset(self, partition: int) -> int:
        """Return the end of what a consumer can read of the input; behind it, `open_from` has an open transaction."""
        end = self.ends.get((INPUT, partition), 0)
        return min(end, self.open_from.get(partition, end))

    def forget_offsets(self) -> None:
        """Forget the group's offsets, as Kafka does of a group that was away for long, or deleted."""
        self.offsets = {}

    def compact(self, topic: str, partition: int, kept: Callable[[InputRecord], bool]) -> None:
        """Remove records from the middle of a log; it begins where it did."""
        self.logs[topic, partition] = [record for record in self.logs[topic, partition] if kept(record)]

    def create_again(self, topic_id: str) -> None:
        """Replace the input by an empty topic with another id."""
        self.delete_input()
        self.facts = FACTS._replace(topic_id=topic_id, partitions=len(self.partitions))

    def delete_input(self) -> None:
        """Delete the input; Kafka deletes the offsets that groups have committed in it, too."""
        for number in self.partitions:
            self.logs.pop((INPUT, number), None)
            self.ends.pop((INPUT, number), None)
            self.starts.pop((INPUT, number), None)
        self.offsets, self.facts = {}, None

    def create_state_again(self, topic_id: str) -> None:
        """Replace the state topic by an empty one with another id."""
        for number in self.partitions:
            self.logs.pop((STATE, number), None)
            self.ends.pop((STATE, number), None)
            self.starts.pop((STATE, number), None)
        self.state_id = topic_id

    def state_logs(self) -> dict[int, StateLog]:
        """Return the logs of the state topic, as a watch sees them."""
        return {number: state_log(self.state_id, self.starts.get((STATE, number), 0)) for number in self.partitions}

    def retain(self, topic: str, partition: int, start: int) -> None:
        """Delete the records before `start`, as retention does."""
        self.starts[topic, partition] = start
        kept = [record for record in self.logs[topic, partition] if record.offset >= start]
        self.logs[topic, partition] = kept

    def commit(self, transaction: Transaction) -> None:
        for topic, messages in transaction.messages.items():
            for message in messages:
                self.append(message.partition, message.value, message.key, topic, message.headers)
                if topic not in (STATE, HISTORY, MODELS):
                    source = dict(message.headers)["source"] or b""
                    self.published.append((topic, source.decode(), message.value or b""))
            for partition in {message.partition for message in messages}:
                self.ends[topic, partition] = self.ends.get((topic, partition), 0) + 1
        self.offsets.update(transaction.offsets)

    def sources(self, topic: str = "forecasts") -> list[str]:
        """The source header of every record on the topic: which input record it was made of."""
        return [source for name, source, _ in self.published if name == topic]


class FakeClient:
    """Consumer, producer and log reader of a worker, in one object.

    Attributes:
        paused: partitions that deliver nothing.
        failures: results of the next commits; see `commit`.
        silent: number of calls of `committed` that get no answer.
        newest_id: id of the input in the client's metadata; None = that of the input as it is now.
        capacity: bytes that the broker takes in time; a larger transaction fails for time.
        sizes: bytes of all transactions that were tried.
        is_limited: a poll returns at most the records that the worker asks for; that number depends on the clock.
    """

    def __init__(self, kafka: FakeKafka, *, batch: int = 10_000) -> None:
        self.kafka = kafka
        self._batch = batch
        self.position = {number: kafka.offsets.get(number, 0) for number in kafka.partitions}
        self.paused: set[int] = set(kafka.partitions)
        self.assigned: set[int] = set()
        self.opened, self.closed = list[int](), list[int]()
        self.failures: list[str] = []
        self.is_limited = False
        self.capacity = sys.maxsize
        self.sizes: list[int] = []
        self.reason = FailureReason.OTHER
        self.silent = self.confirmed = self.restarts = 0
        self.reads_from = ""
        self.newest_id: str | None = None
        self._reads: tuple[str, int] = ("", 0)
        self._read_to = 0
        self.assign(kafka.partitions)

    def assign(self, partitions: Collection[int]) -> None:
        self.opened = sorted({*self.opened, *partitions})
        self.assigned |= set(partitions)
        self.paused |= set(partitions)

    def revoke(self, partitions: Collection[int]) -> None:
        self.closed = sorted({*self.closed, *partitions})
        self.opened = [number for number in self.opened if number not in partitions]
        self.assigned -= set(partitions)

    def poll(self, *, wait: bool, max_records: int | None = None) -> PollResult:  # noqa: ARG002 - the fake never waits
        opened, closed, self.opened, self.closed = self.opened, self.closed, [], []
        records: list[InputRecord] = []
        begin, end = dict[int, int](), dict[int, int]()
        share = min(self._batch, max_records) if self.is_limited and max_records else self._batch
        for number in sorted(self.assigned - self.paused):
            readable_end = self.kafka.last_stable_offset(number)
            batch = self.kafka.read(INPUT, number, self.position[number], share)
            batch = [record for record in batch if record.offset < readable_end]
            if batch:
                records += batch
                begin[number], end[number] = batch[0].offset, batch[-1].offset + 1
            if len(batch) < share:  # the end was reached, and the markers behind the records with it
                self.position[number] = max(self.position[number], readable_end)
                end.update({number: self.position[number]} if batch else {})
        self.position.update(end)
        topic_id = self.newest_id
        if topic_id is None:
            topic_id = self.kafka.facts.topic_id if self.kafka.facts is not None else ""
        return PollResult(list(records), begin, end, Member(), closed, opened, stable=True, input_id=topic_id)

    def resume(self, partitions: Collection[int]) -> None:
        self.paused -= set(partitions)

    def pause(self, partitions: Collection[int]) -> None:
        self.paused |= set(partitions)

    def seek(self, offsets: dict[int, int]) -> None:
        self.position.update(offsets)

    def ends(self) -> dict[int, int]:
        return {number: self.kafka.ends.get((INPUT, number), 0) for number in self.assigned}

    def readable_ends(self) -> dict[int, int]:
        return {number: self.kafka.last_stable_offset(number) for number in self.assigned}

    def next_offset(self, partition: int) -> int | None:
        return self.position[partition]

    def confirm_membership(self) -> None:
        self.confirmed += 1

    def committed(self, partitions: Collection[int]) -> dict[int, int]:
        """Return the group's offset of each partition that has one, as the consumer."""
        self._answer()
        return {number: self.kafka.offsets[number] for number in partitions if number in self.kafka.offsets}

    def read_from(self, topic_id: str) -> None:
        self.reads_from = topic_id

    def committed_offset(self, topic: str, partition: int) -> int | None:  # noqa: ARG002 - the group reads one topic
        """Return the group's offset of a partition, as the log reader: None = none."""
        self._answer()
        return self.kafka.offsets.get(partition)

    def _answer(self) -> None:
        """Raise TransientBrokerError as often as `silent` says."""
        if self.silent:
            self.silent -= 1
            raise TransientBrokerError("silence")

    @property
    def failure(self) -> TransactionFailure:
        return TransactionFailure(self.reason, "as told")

    def restart(self) -> None:
        assert self.confirmed, "a fenced producer must confirm its membership first"
        self.restarts += 1

    def commit(self, transaction: Transaction) -> bool:
        """Commit as the next of `failures` says.

        '' = commit; dropped = fail without committing; happened = fail, though it was committed; overtaken = fail,
        because another process has committed later offsets.
        """
        self.sizes.append(transaction.size)
        if transaction.size > self.capacity:
            self.reason = FailureReason.TIMEOUT
            return False
        self.reason = FailureReason.OTHER
        failure = self.failures.pop(0) if self.failures else ""
        if failure not in ("dropped", "overtaken"):
            self.kafka.commit(transaction)
        if failure == "overtaken":
            self.kafka.offsets.update({number: offset + 2 for number, offset in transaction.offsets.items()})
        return not failure

    def facts(self, topic: str) -> TopicFacts:
        if self.kafka.facts is None:
            raise InputMissing(f"topic {topic}: does not exist")
        return self.kafka.facts

    def topic_id(self, topic: str) -> str:
        assert topic == STATE, "the input has facts"
        return self.kafka.state_id

    def is_compacted(self, topic: str) -> bool:
        return topic == INPUT and self.kafka.compacted

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        where = (topic, partition)
        return self.kafka.starts.get(where, 0), self.kafka.ends.get(where, 0)

    def seek_log(self, topic: str, partition: int, offset: int) -> None:
        self._reads, self._read_to = (topic, partition), offset

    def read(self, *, wait: bool = True) -> list[InputRecord]:  # noqa: ARG002 - the fake never waits
        records = self.kafka.read(*self._reads, self._read_to, 50)
        self._read_to = records[-1].offset + 1 if records else self.kafka.ends.get(self._reads, 0)
        return records

    @property
    def read_position(self) -> int:
        return self._read_to


class FakeReader:
    """The log reader of a client."""

    def __init__(self, client: FakeClient) -> None:
        self.committed, self.bounds = client.committed_offset, client.bounds
        self.seek, self.read = client.seek_log, client.read
        self.facts, self.is_compacted, self.topic_id = client.facts, client.is_compacted, client.topic_id
        self._client = client

    @property
    def position(self) -> int:
        return self._client.read_position


@dataclass
class FakeWatch:
    """A watch over the topics that finds what a test says.

    Attributes:
        state_logs: logs of the state topic, by partition; told once.
        problem: what is wrong with the topics.
        looks: number of looks that did not wait until one was due.
    """

    state_logs: dict[int, StateLog] = field(default_factory=dict)
    problem: str = ""
    looks: int = 0

    def look(self) -> dict[int, StateLog]:
        self.looks += 1
        return self.look_if_due()

    def look_if_due(self) -> dict[int, StateLog]:
        state_logs, self.state_logs = self.state_logs, {}
        return state_logs
