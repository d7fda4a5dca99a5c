"""A request that reaches the broker too late, in the middle of the next transaction, does not tear that transaction.

The client has repeated it by then, because its connection ended. This is promised on Apache Kafka, and therefore tested
there only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from daemons import Daemon, wait_until
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import ConsumerGroupMetadata
from late_requests import ADD_OFFSETS, ADD_PARTITIONS, END_TXN, PRODUCE, TXN_OFFSET_COMMIT, LateRequests
from reference_run import ReferenceRun

from forecaster.broker.connection import Connection
from forecaster.broker.plain_clients import RecordReader, create_topic
from forecaster.broker.producer import ProducerConfig, TransactionalProducer
from forecaster.records import Message, Transaction

pytestmark = pytest.mark.kafka
PARTITIONS, TRANSACTIONS, LATE_IN = 2, 6, 2
LATE = {
    "commit-among-records": (END_TXN, PRODUCE),
    "commit-before-offsets": (END_TXN, ADD_OFFSETS),
    "commit-among-offsets": (END_TXN, TXN_OFFSET_COMMIT),
    "offsets-before-commit": (TXN_OFFSET_COMMIT, END_TXN),
    "offsets-before-offsets": (TXN_OFFSET_COMMIT, TXN_OFFSET_COMMIT),
    "group-among-records": (ADD_OFFSETS, PRODUCE),
    "partitions-among-records": (ADD_PARTITIONS, PRODUCE),
}


class Group:
    """A consumer group that reads one partition, and the producer that commits its offsets with its output.

    Args:
        broker: address of the broker.
        proxy: proxy that the producer uses.
        topic: topic that the group reads.
    """

    def __init__(self, broker: str, proxy: LateRequests, topic: str) -> None:
        self._broker, self._topic = broker, topic
        self._name = f"{topic}-group"
        connection = Connection(proxy.address, self._name)
        self.producer = TransactionalProducer(
            connection,
            ProducerConfig(f"{topic}-worker", topic, unique=True, outage_deadline_seconds=60.0),
            threading.Event(),
        )

    def committed(self) -> int:
        client = KafkaConsumer(
            bootstrap_servers=self._broker,
            group_id=self._name,
            isolation_level="read_committed",
            enable_auto_commit=False,
        )
        with closing(client):
            return client.committed(TopicPartition(self._topic, 0)) or 0

    def transact(self, number: int) -> None:
        """Commit one record for each partition, and the offset after it; if that fails, as far as the offset says."""
        records = [Message(partition, b"key", b"%d" % number, []) for partition in range(PARTITIONS)]
        member = ConsumerGroupMetadata(group_id=self._name)
        while self.committed() <= number:
            if not self.producer.commit(Transaction({f"{self._topic}.out": records}, {0: number + 1}, member)):
                self.producer.restart()


@pytest.fixture
def proxy(kafka: str) -> Iterator[LateRequests]:
    with closing(LateRequests(kafka)) as proxy:
        yield proxy


@pytest.mark.parametrize("case", LATE)
def test_a_late_request_changes_neither_records_nor_offsets_of_the_next_transaction(
    kafka: str, proxy: LateRequests, topic: str, case: str
) -> None:
    create_topic(kafka, topic, 1)
    create_topic(kafka, f"{topic}.out", PARTITIONS)
    group = Group(kafka, proxy, topic)
    request, before = LATE[case]
    with closing(group.producer), closing(RecordReader(kafka, f"{topic}.out", PARTITIONS)) as reader:
        for number in range(TRANSACTIONS):
            if number == LATE_IN:
                proxy.hold(request, before=before)
            group.transact(number)
            assert group.committed() == number + 1
        assert proxy.delivered == 1
        records: list[tuple[int, int]] = []

        def all_read() -> bool:
            records.extend((record.partition, int(record.value or b"")) for record in reader.poll())
            return len(records) >= TRANSACTIONS * PARTITIONS

        wait_until(all_read, "all records")
    assert sorted(records) == [(partition, n) for partition in range(PARTITIONS) for n in range(TRANSACTIONS)]


def test_commits_that_come_late_lose_and_double_nothing(
    kafka: str, proxy: LateRequests, topic: str, tmp_path: Path
) -> None:
    create_topic(kafka, topic, PARTITIONS)
    with (
        closing(ReferenceRun(kafka, topic, PARTITIONS, tmp_path)) as reference,
        Daemon(tmp_path, proxy.address, topic, NETWORK__CHECKPOINT=reference.checkpoint) as daemon,
    ):
        daemon.serving()
        for _ in range(4):
            proxy.hold(END_TXN, before=TXN_OFFSET_COMMIT)
            reference.send_hours(10)
            wait_until(lambda: proxy.is_holding, "a commit to hold")
            reference.send_hours(10)
            wait_until(lambda: not proxy.is_holding, "its delivery")
            reference.assert_equal(120)
        assert proxy.delivered == 4
        assert daemon.process.poll() is None, daemon.log
