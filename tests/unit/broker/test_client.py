"""Odd and damaged batches: the first are read, and the second cost no more than themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from kafka import TopicPartition
from kafka.consumer.fetcher import CompletedFetch
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from forecaster.broker import consumer
from forecaster.broker.client import KafkaConsumer, PartitionRecords, UnreadableBatch
from forecaster.broker.consumer import GroupConsumer
from forecaster.broker.options import Connection
from forecaster.errors import BrokerUnavailable, TransientBrokerError

HERE, THERE = TopicPartition("readings", 3), TopicPartition("readings", 4)
CODECS = range(5)
NOT_UTF_8 = b"m\xe4\xdftelle"


class Raw(str):
    """A header's name that is written as bytes that are no UTF-8."""

    def encode(self, *_: str) -> bytes:
        return NOT_UTF_8


def batch(*headers: Sequence[tuple[str, bytes | None]], offset: int = 0, codec: int = 0) -> bytearray:
    """Records 0, 1, 2 ... of an offset, each with its headers."""
    builder = MemoryRecordsBuilder(magic=2, compression_type=codec, batch_size=100_000, offset=offset)
    for number, one in enumerate(headers):
        builder.append(1_000 + number, b"key", b"value-%d" % number, list(one))
    builder.close()
    return bytearray(builder.buffer())


def damaged(one: bytearray) -> bytearray:
    one[-1] ^= 1
    return one


@pytest.mark.parametrize("codec", CODECS)
def test_a_header_whose_name_is_not_utf_8_is_read_like_any_other(codec: int) -> None:
    odd = [(Raw(), b"7"), ("größe", None)]
    records = PartitionRecords(0, HERE, MemoryRecords(batch([("a", b"1")], odd, [], odd, [("b", b"")], codec=codec)))
    found = records.take()
    assert [one.offset for one in found] == [0, 1, 2, 3, 4]
    assert [one.value for one in found] == [b"value-%d" % number for number in range(5)]
    read = [("m\ufffd\ufffdtelle", b"7"), ("größe", None)]
    assert [one.headers for one in found] == [[("a", b"1")], read, [], read, [("b", b"")]]
    assert not records
    assert all(type(one.headers[0][1]) is bytes for one in found if one.headers)


def test_such_a_header_can_be_written_again() -> None:
    (record,) = PartitionRecords(0, HERE, MemoryRecords(batch([(Raw(), b"7")]))).take()
    (again,) = PartitionRecords(0, HERE, MemoryRecords(batch(record.headers))).take()
    assert again.headers == record.headers


@pytest.fixture
def client() -> Iterator[KafkaConsumer]:
    """One that never meets a broker."""
    with closing(
        KafkaConsumer(bootstrap_servers="127.0.0.1:9", api_version=(2, 6), isolation_level="read_committed")
    ) as one:
        one.assign([HERE, THERE])
        one.seek(HERE, 0)
        one.seek(THERE, 0)
        yield one


def fetched(client: KafkaConsumer, partition: TopicPartition, offset: int, data: bytearray) -> None:
    """The broker has answered a fetch."""
    answer = SimpleNamespace(
        error_code=0,
        high_watermark=100,
        diverging_epoch=None,
        records=bytes(data),
        aborted_transactions=[],
        preferred_read_replica=-1,
    )
    vars(vars(client)["_fetcher"])["_completed_fetches"].append(CompletedFetch(partition, offset, 11, answer, None))


def polled(client: KafkaConsumer) -> dict[TopicPartition, list[int]]:
    """Returns the offsets that a poll brings; fails where it never ends."""
    answers: list[Any] = []

    def poll() -> None:
        try:
            answers.append(client.poll(timeout_ms=0))
        except UnreadableBatch as error:
            answers.append(error)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    thread.join(10.0)
    assert not thread.is_alive(), "the poll does not end"
    if isinstance(answers[0], UnreadableBatch):
        raise answers[0]
    return {partition: [one.offset for one in records] for partition, records in answers[0].items()}


def polled_some(client: KafkaConsumer, most: int) -> dict[TopicPartition, list[int]]:
    """Returns the offsets that a poll of so many records brings."""
    batches = client.poll(timeout_ms=0, max_records=most)
    return {partition: [one.offset for one in records] for partition, records in batches.items()}


def test_a_corrupt_batch_is_an_error_each_time_and_is_fetched_anew(client: KafkaConsumer) -> None:
    good, bad = batch([], []), damaged(batch([], offset=2))
    fetched(client, HERE, 0, good + bad)
    assert polled(client) == {HERE: [0, 1]}
    for _ in range(3):
        with pytest.raises(UnreadableBatch, match=r"topic readings, partition 3, offset 2: .*crc"):
            polled(client)
        assert polled(client) == {}
        assert client.position(HERE, timeout_ms=0) == 2
        fetched(client, HERE, 2, bad)
    with pytest.raises(UnreadableBatch):
        polled(client)
    fetched(client, HERE, 2, batch([], offset=2))
    assert polled(client) == {HERE: [2]}


def test_a_corrupt_batch_does_not_cost_its_neighbours_their_turn(client: KafkaConsumer) -> None:
    fetched(client, HERE, 0, damaged(batch([])))
    fetched(client, THERE, 0, batch([], []))
    with pytest.raises(UnreadableBatch):
        polled(client)
    assert polled(client) == {THERE: [0, 1]}


def drained(client: KafkaConsumer, most: int) -> list[dict[int, list[int]]]:
    """Returns the offsets of each poll, by partition, until nothing is left."""
    polls: list[dict[int, list[int]]] = []
    while batches := client.poll(timeout_ms=0, max_records=most):
        polls.append({one.partition: [record.offset for record in records] for one, records in batches.items()})
    return polls


def test_partitions_with_a_backlog_share_every_poll(client: KafkaConsumer) -> None:
    fetched(client, HERE, 0, batch(*[[]] * 500))
    fetched(client, THERE, 0, batch(*[[]] * 400))
    polls = drained(client, 100)
    for one in polls[:7]:
        assert {partition: len(offsets) for partition, offsets in one.items()} in ({3: 52, 4: 48}, {3: 48, 4: 52})
    for partition, count in ((3, 500), (4, 400)):
        assert [offset for one in polls for offset in one.get(partition, [])] == list(range(count))
    assert all(sum(map(len, one.values())) == 100 for one in polls[:9]), "a partition without records leaves no room"


def test_a_full_poll_takes_half_of_its_records_from_one_partition(client: KafkaConsumer) -> None:
    """So that a transaction with many records touches few partitions."""
    fetched(client, HERE, 0, batch(*[[]] * 700))
    fetched(client, THERE, 0, batch(*[[]] * 700))
    first, second, *_ = drained(client, 500)
    assert {partition: len(offsets) for partition, offsets in first.items()} == {3: 250, 4: 250}
    assert {partition: len(offsets) for partition, offsets in second.items()} == {3: 250, 4: 250}


@pytest.mark.parametrize("most", [1, 15, 16, 17, 1_000])
def test_records_come_once_and_in_order_with_polls_of_any_size(client: KafkaConsumer, most: int) -> None:
    fetched(client, HERE, 0, batch(*[[]] * 40) + batch(*[[]] * 8, offset=40))
    fetched(client, THERE, 0, batch([]))
    polls = drained(client, most)
    for partition, count in ((3, 48), (4, 1)):
        assert [offset for one in polls for offset in one.get(partition, [])] == list(range(count))
    assert client.next_offset(HERE) == 48


def test_records_that_were_fetched_wait_while_their_partition_is_paused(client: KafkaConsumer) -> None:
    fetched(client, HERE, 0, batch(*[[]] * 40))
    assert polled_some(client, 4) == {HERE: [0, 1, 2, 3]}
    client.pause(HERE)
    fetched(client, THERE, 0, batch([], []))
    assert polled(client) == {THERE: [0, 1]}
    client.resume(HERE)
    assert polled(client) == {HERE: list(range(4, 40))}


def test_records_before_a_seek_are_not_delivered_after_it(client: KafkaConsumer) -> None:
    fetched(client, HERE, 0, batch(*[[]] * 40))
    assert polled_some(client, 20) == {HERE: list(range(20))}
    client.seek(HERE, 7)
    assert polled(client) == {}
    fetched(client, HERE, 7, batch([], offset=7))
    assert polled(client) == {HERE: [7]}


class Corrupt:
    """A client one of whose partitions cannot be read, and whose other one delivers every other time."""

    def __init__(self) -> None:
        self.polls = 0

    def __call__(self, **_: object) -> Corrupt:
        return self

    def subscribe(self, *_: object, **__: object) -> None: ...
    def partitions_for_topic(self, _: str) -> None: ...

    def group_metadata(self) -> SimpleNamespace:
        return SimpleNamespace(state=consumer.MemberState.STABLE)

    def next_offset(self, _: object) -> None: ...

    def poll(self, **_: object) -> dict[TopicPartition, list[SimpleNamespace]]:
        self.polls += 1
        if self.polls % 2:
            raise UnreadableBatch(HERE, 17, ValueError("damaged"))
        return {THERE: [SimpleNamespace(offset=self.polls)]}


def test_a_batch_that_stays_corrupt_is_an_outage_whatever_the_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(consumer, "KafkaConsumer", Corrupt())
    monkeypatch.setattr(consumer, "time", SimpleNamespace(monotonic=lambda: now[0]))
    member = GroupConsumer(Connection("127.0.0.1:9", "group"), "readings", 60.0)
    with structlog.testing.capture_logs() as said:
        for now[0] in (0.0, 30.0, 60.0):
            with pytest.raises(TransientBrokerError, match="topic readings, partition 3, offset 17"):
                member.poll()
            assert member.poll().end.keys() == {4}
        now[0] = 61.0
        with pytest.raises(BrokerUnavailable, match=r"topic readings, partition 3, offset 17: .*for 61 s"):
            member.poll()
    assert [(one["topic"], one["partition"], one["offset"]) for one in said] == [("readings", 3, 17)]
