"""Input written in transactions, with markers, aborted records and transactions that stay open."""

from __future__ import annotations

import signal
from contextlib import closing
from pathlib import Path

import pytest
from daemons import HOUR_MS, START_MS, Daemon, wait_until
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from forecaster.broker.connection import Connection
from forecaster.broker.consumer import GroupConsumer
from forecaster.broker.plain_clients import RecordReader, create_topic


class Upstream:
    """Writes each hour in a transaction of its own, so that a record and its marker take one offset each."""

    def __init__(self, address: str, topic: str) -> None:
        self._topic = topic
        self._client = KafkaProducer(bootstrap_servers=address, transactional_id=f"{topic}-upstream")
        self._client.init_transactions()

    def send(self, hours: range, *, aborted: bool = False) -> None:
        for hour in hours:
            self.begin(hour)
            if aborted:
                self._client.abort_transaction()
            else:
                self.commit()

    def begin(self, hour: int) -> None:
        """Write an hour in a transaction that stays open."""
        value = b'{"timestamp": %d, "value": %d}' % (START_MS + hour * HOUR_MS, hour % 7)
        self._client.begin_transaction()
        self._client.send(self._topic, value, b"pump", partition=0)
        self._client.flush()

    def commit(self) -> None:
        self._client.commit_transaction()

    def close(self) -> None:
        self._client.close()


def test_records_of_an_open_transaction_count_as_the_end_but_cannot_be_read(broker: str, topic: str) -> None:
    create_topic(broker, topic, 1)
    consumer = GroupConsumer(Connection(broker, f"{topic}-group", session_timeout_ms=6_000), topic, 60.0)
    with closing(consumer), closing(Upstream(broker, topic)) as upstream:

        def ends() -> tuple[int | None, int | None]:
            consumer.resume(consumer.poll().assigned)
            return consumer.ends().get(0), consumer.readable_ends().get(0)

        upstream.send(range(1))
        wait_until(lambda: ends() == (2, 2), "both ends after the marker of a finished transaction")
        upstream.begin(1)
        wait_until(lambda: ends()[0] == 3, "the end after the record of an open transaction")
        assert ends() == (3, 2)
        assert consumer.next_offset(0) == 2
        upstream.commit()
        wait_until(lambda: ends() == (4, 4), "both ends after the marker of the transaction that was open")


@pytest.mark.kafka
def test_retention_that_empties_a_transactional_input_is_no_loss(kafka: str, topic: str, tmp_path: Path) -> None:
    create_topic(kafka, topic, 1)
    group = KafkaConsumer(bootstrap_servers=kafka, group_id=f"{topic}-group", enable_auto_commit=False)
    admin, partition = KafkaAdminClient(bootstrap_servers=kafka), TopicPartition(topic, 0)
    with closing(group), closing(admin), closing(Upstream(kafka, topic)) as upstream:
        with Daemon(tmp_path, kafka, topic, STATE__SNAPSHOT_INTERVAL="1s") as daemon:
            daemon.serving()
            upstream.send(range(6))
            wait_until(lambda: group.committed(partition) == 12, "a commit past the marker behind the last record")
            upstream.send(range(6, 9), aborted=True)
            wait_until(lambda: group.committed(partition) == 18, "a commit past the aborted records")
            daemon.send(signal.SIGTERM)
            assert daemon.exit_code() == 0
        admin.delete_records({partition: 18})
        with Daemon(tmp_path, kafka, topic) as daemon, closing(RecordReader(kafka, f"{topic}.forecasts", 1)) as reader:
            daemon.serving()
            upstream.send(range(6, 8))
            sources: list[str] = []

            def received() -> bool:
                sources.extend(record.headers["source"].decode() for record in reader.poll())
                return len(sources) == 8

            wait_until(received, "a forecast for each reading")
            assert sources[-2:] == [f"{topic}/0/18", f"{topic}/0/20"]
            assert [entry["recovery"] for entry in daemon.events("partition_restored")] == ["restored"]
