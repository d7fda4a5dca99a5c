"""Clients that tolerate odd headers and corrupt batches, and that read partitions in turn."""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.consumer.fetcher import CompletedFetch, Fetcher
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from forecaster.broker import tolerant_clients
from forecaster.broker.tolerant_clients import FairFetcher, PartitionRecords, TolerantConsumer, UnreadableBatch

HERE, THERE = TopicPartition("readings", 3), TopicPartition("readings", 4)
CODECS = range(5)
TOLERANT = ("fetches_by_id.py", "tolerant_clients.py", "tolerant_connections.py")
NOT_UTF_8 = b"m\xe4\xdftelle"


class Raw(str):
    """A header name that is written as bytes that are not UTF-8."""

    def encode(self, *_: str) -> bytes:
        return NOT_UTF_8


def batch(*headers: Sequence[tuple[str, bytes | None]], offset: int = 0, codec: int = 0) -> bytearray:
    """Return a batch of one record for each list of headers, from an offset on."""
    builder = MemoryRecordsBuilder(magic=2, compression_type=codec, batch_size=100_000, offset=offset)
    for number, pairs in enumerate(headers):
        builder.append(1_000 + number, b"key", b"value-%d" % number, list(pairs))
    builder.close()
    return bytearray(builder.buffer())


def damaged(data: bytearray) -> bytearray:
    data[-1] ^= 1
    return data


@pytest.mark.parametrize("codec", CODECS)
def test_a_header_whose_name_is_not_utf_8_is_read_like_any_other(codec: int) -> None:
    odd = [(Raw(), b"7"), ("größe", None)]
    records = PartitionRecords(0, HERE, MemoryRecords(batch([("a", b"1")], odd, [], odd, [("b", b"")], codec=codec)))
    taken = records.take()
    assert [record.offset for record in taken] == [0, 1, 2, 3, 4]
    assert [record.value for record in taken] == [b"value-%d" % number for number in range(5)]
    replaced = [("m\ufffd\ufffdtelle", b"7"), ("größe", None)]
    assert [record.headers for record in taken] == [[("a", b"1")], replaced, [], replaced, [("b", b"")]]
    assert not records
    assert all(type(record.headers[0][1]) is bytes for record in taken if record.headers)


def test_a_header_with_replaced_bytes_can_be_written_again() -> None:
    (record,) = PartitionRecords(0, HERE, MemoryRecords(batch([(Raw(), b"7")]))).take()
    (again,) = PartitionRecords(0, HERE, MemoryRecords(batch(record.headers))).take()
    assert again.headers == record.headers


@pytest.fixture
def client() -> Iterator[TolerantConsumer]:
    """Yield a client that has two partitions and no broker."""
    with closing(
        TolerantConsumer(bootstrap_servers="127.0.0.1:9", api_version=(2, 6), isolation_level="read_committed")
    ) as consumer:
        consumer.assign([HERE, THERE])
        consumer.seek(HERE, 0)
        consumer.seek(THERE, 0)
        yield consumer


def deliver(
    client: TolerantConsumer, partition: TopicPartition, offset: int, data: bytearray, last_stable_offset: int = -1
) -> None:
    """Let the client receive the answer to a fetch."""
    answer = SimpleNamespace(
        error_code=0,
        high_watermark=100,
        last_stable_offset=last_stable_offset,
        diverging_epoch=None,
        records=bytes(data),
        aborted_transactions=[],
        preferred_read_replica=-1,
    )
    vars(vars(client)["_fetcher"])["_completed_fetches"].append(CompletedFetch(partition, offset, 11, answer, None))


def poll_offsets(client: TolerantConsumer) -> dict[TopicPartition, list[int]]:
    """Return the offsets that a poll delivers, by partition; fail if it never returns."""
    answers: list[Any] = []

    def poll() -> None:
        try:
            answers.append(client.poll(timeout_ms=0))
        except UnreadableBatch as error:
            answers.append(error)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    thread.join(10.0)
    assert not thread.is_alive(), "the poll does not return"
    if isinstance(answers[0], UnreadableBatch):
        raise answers[0]
    return {partition: [record.offset for record in records] for partition, records in answers[0].items()}


def poll_at_most(client: TolerantConsumer, most: int) -> dict[TopicPartition, list[int]]:
    """Return the offsets that a poll of at most `most` records delivers, by partition."""
    batches = client.poll(timeout_ms=0, max_records=most)
    return {partition: [record.offset for record in records] for partition, records in batches.items()}


def test_a_corrupt_batch_is_an_error_each_time_and_is_fetched_again(client: TolerantConsumer) -> None:
    good, bad = batch([], []), damaged(batch([], offset=2))
    deliver(client, HERE, 0, good + bad)
    assert poll_offsets(client) == {HERE: [0, 1]}
    for _ in range(3):
        with pytest.raises(UnreadableBatch, match=r"topic readings, partition 3, offset 2: .*crc"):
            poll_offsets(client)
        assert poll_offsets(client) == {}
        assert client.position(HERE, timeout_ms=0) == 2
        deliver(client, HERE, 2, bad)
    with pytest.raises(UnreadableBatch):
        poll_offsets(client)
    deliver(client, HERE, 2, batch([], offset=2))
    assert poll_offsets(client) == {HERE: [2]}


def test_a_corrupt_batch_does_not_hold_up_other_partitions(client: TolerantConsumer) -> None:
    deliver(client, HERE, 0, damaged(batch([])))
    deliver(client, THERE, 0, batch([], []))
    with pytest.raises(UnreadableBatch):
        poll_offsets(client)
    assert poll_offsets(client) == {THERE: [0, 1]}


def poll_until_empty(client: TolerantConsumer, most: int) -> list[dict[int, list[int]]]:
    """Return the offsets of each poll, by partition, until nothing is left."""
    polls: list[dict[int, list[int]]] = []
    while batches := client.poll(timeout_ms=0, max_records=most):
        polls.append({where.partition: [record.offset for record in records] for where, records in batches.items()})
    return polls


def test_partitions_with_a_backlog_share_every_poll(client: TolerantConsumer) -> None:
    deliver(client, HERE, 0, batch(*[[]] * 500))
    deliver(client, THERE, 0, batch(*[[]] * 400))
    polls = poll_until_empty(client, 100)
    for poll in polls[:7]:
        assert {partition: len(offsets) for partition, offsets in poll.items()} in ({3: 52, 4: 48}, {3: 48, 4: 52})
    for partition, count in ((3, 500), (4, 400)):
        assert [offset for poll in polls for offset in poll.get(partition, [])] == list(range(count))
    assert all(sum(map(len, poll.values())) == 100 for poll in polls[:9]), "a partition without records leaves no room"


def test_a_full_poll_takes_half_of_its_records_from_one_partition(client: TolerantConsumer) -> None:
    """A transaction with many records therefore touches few partitions."""
    deliver(client, HERE, 0, batch(*[[]] * 700))
    deliver(client, THERE, 0, batch(*[[]] * 700))
    first, second, *_ = poll_until_empty(client, 500)
    assert {partition: len(offsets) for partition, offsets in first.items()} == {3: 250, 4: 250}
    assert {partition: len(offsets) for partition, offsets in second.items()} == {3: 250, 4: 250}


def test_idle_partitions_do_not_hold_up_the_next_fetch(client: TolerantConsumer) -> None:
    """The client asks a broker one thing at a time: the next fetch of the others would wait for its answer."""
    options = vars(vars(client)["_fetcher"])["config"]
    assert options["fetch_max_wait_ms"] == 500
    deliver(client, HERE, 0, batch(*[[]] * 40))
    poll_at_most(client, 4)
    assert options["fetch_max_wait_ms"] == 0
    poll_offsets(client)
    assert options["fetch_max_wait_ms"] == 500


@pytest.mark.parametrize("most", [1, 15, 16, 17, 1_000])
def test_records_come_once_and_in_order_with_polls_of_any_size(client: TolerantConsumer, most: int) -> None:
    deliver(client, HERE, 0, batch(*[[]] * 40) + batch(*[[]] * 8, offset=40))
    deliver(client, THERE, 0, batch([]))
    polls = poll_until_empty(client, most)
    for partition, count in ((3, 48), (4, 1)):
        assert [offset for poll in polls for offset in poll.get(partition, [])] == list(range(count))
    assert client.next_offset(HERE) == 48


def test_records_that_were_fetched_wait_while_their_partition_is_paused(client: TolerantConsumer) -> None:
    deliver(client, HERE, 0, batch(*[[]] * 40))
    assert poll_at_most(client, 4) == {HERE: [0, 1, 2, 3]}
    client.pause(HERE)
    deliver(client, THERE, 0, batch([], []))
    assert poll_offsets(client) == {THERE: [0, 1]}
    client.resume(HERE)
    assert poll_offsets(client) == {HERE: list(range(4, 40))}


def test_records_before_a_seek_are_not_delivered_after_it(client: TolerantConsumer) -> None:
    deliver(client, HERE, 0, batch(*[[]] * 40))
    assert poll_at_most(client, 20) == {HERE: list(range(20))}
    client.seek(HERE, 7)
    assert poll_offsets(client) == {}
    deliver(client, HERE, 7, batch([], offset=7))
    assert poll_offsets(client) == {HERE: [7]}


def test_records_can_be_read_up_to_the_last_stable_offset(client: TolerantConsumer) -> None:
    assert client.readable_end(HERE) is None, "nothing was fetched yet"
    deliver(client, HERE, 0, batch([], []), last_stable_offset=2)
    deliver(client, THERE, 0, batch([]))
    poll_offsets(client)
    assert client.highwater(HERE) == 100
    assert client.readable_end(HERE) == 2
    assert client.readable_end(THERE) == 100, "a broker that does not say"
    deliver(client, HERE, 2, bytearray(), last_stable_offset=100)
    poll_offsets(client)
    assert client.readable_end(HERE) == 100
    client.unsubscribe()
    assert client.readable_end(HERE) is None


def test_the_private_names_of_the_client_are_where_they_were(client: TolerantConsumer) -> None:
    """A new version of the client that moves one of them must fail here, not in production."""
    fetcher = vars(client)["_fetcher"]
    assert isinstance(fetcher, FairFetcher)
    assert isinstance(vars(fetcher)["_completed_fetches"], deque)
    assert vars(client)["_subscription"].assignment[HERE].position.offset == 0
    assert "self.PartitionRecords(" in inspect.getsource(vars(Fetcher)["_parse_fetched_data"])
    assert "self._unpack_records(" in inspect.getsource(Fetcher.PartitionRecords.__init__)
    assert "self._read_msg()" in inspect.getsource(DefaultRecordBatch.__next__)
    assert "self._buffer" in inspect.getsource(DefaultRecordBatch.__init__)
    groups = inspect.getmodule(KafkaAdminClient.describe_groups)
    assert groups is not None
    assert "self._process_acl_operations(" in inspect.getsource(groups)


def test_no_other_module_touches_private_names_of_the_client() -> None:
    for path in Path(tolerant_clients.__file__).parent.glob("*.py"):
        assert path.name in TOLERANT or "SLF001" not in path.read_text(), path.name
