"""Exactly once while workers are killed, stopped, or have a twin.

This is promised on Apache Kafka, and therefore tested there only.
"""

from __future__ import annotations

import signal
from contextlib import closing
from pathlib import Path

import pytest
from daemons import START_MS, Daemon, Stream, wait_until

from forecaster.broker.plain_clients import RecordWriter, create_topic

pytestmark = pytest.mark.kafka
PARTITIONS = 2
THINKING = Path(__file__).with_name("thinking_worker.py")


@pytest.mark.parametrize("instances", [("", ""), ("worker-0", "worker-1")], ids=["dynamic", "static"])
def test_a_zombie_in_the_middle_of_a_batch_commits_nothing(
    kafka: str, topic: str, tmp_path: Path, instances: tuple[str, str]
) -> None:
    create_topic(kafka, topic, PARTITIONS)
    zombie = Daemon(tmp_path, kafka, topic, script=THINKING, KAFKA__INSTANCE_ID=instances[0])
    heir = Daemon(tmp_path, kafka, topic, KAFKA__INSTANCE_ID=instances[1])
    with closing(Stream(kafka, topic, PARTITIONS)) as stream, closing(RecordWriter(kafka, topic)) as writer, zombie:
        zombie.serving()
        stream.send_hours(5)
        stream.assert_exactly_once()
        for partition in range(PARTITIONS):
            writer.send(b"think", b'{"timestamp": %d, "value": 1}' % START_MS, partition=partition)
            stream.sent += 1
        stream.send_hours(20)
        wait_until(lambda: "thinking" in zombie.log, "the zombie at work")
        zombie.send(signal.SIGSTOP)
        with heir:
            heir.serving()
            stream.send_hours(5)
            stream.assert_exactly_once()
            zombie.send(signal.SIGCONT)
            wait_until(lambda: zombie.events("transaction_failed") or zombie.process.poll() is not None, "fencing")
            stream.send_hours(5)
            stream.assert_exactly_once()


def test_of_two_workers_with_one_instance_id_one_exits_with_8(kafka: str, topic: str, tmp_path: Path) -> None:
    """The other one serves."""
    create_topic(kafka, topic, PARTITIONS)
    twins = [Daemon(tmp_path, kafka, topic, KAFKA__INSTANCE_ID="worker-0") for _ in range(2)]
    with closing(Stream(kafka, topic, PARTITIONS)) as stream, twins[0], twins[1]:
        pairs = [(twins[0], twins[1]), (twins[1], twins[0])]

        def one_gone() -> bool:
            stream.send_hours(1)
            return any(twin.process.poll() is not None for twin in twins)

        wait_until(one_gone, "one of the twins gone", 90)
        gone, other = next(pair for pair in pairs if pair[0].process.poll() is not None)
        assert gone.exit_code() == 8, gone.log
        stream.send_hours(3)
        stream.assert_exactly_once()
        assert other.process.poll() is None, other.log


def test_kill_9_in_mid_stream_loses_and_doubles_nothing(kafka: str, topic: str, tmp_path: Path) -> None:
    create_topic(kafka, topic, PARTITIONS)
    with closing(Stream(kafka, topic, PARTITIONS)) as stream:
        with Daemon(tmp_path, kafka, topic) as first:
            first.serving()
            stream.send_hours(2_000)
            wait_until(lambda: stream.receive() > 500, "some forecasts")
            first.send(signal.SIGKILL)
            first.exit_code()
            assert stream.receive() < stream.sent
        with Daemon(tmp_path, kafka, topic) as second:
            second.serving()
            stream.assert_exactly_once()


def test_a_rebalance_loses_and_doubles_nothing(kafka: str, topic: str, tmp_path: Path) -> None:
    create_topic(kafka, topic, PARTITIONS)
    first, second = (Daemon(tmp_path, kafka, topic) for _ in range(2))
    with closing(Stream(kafka, topic, PARTITIONS)) as stream, first:
        first.serving()
        stream.send_hours(50)
        with second:
            second.serving()
            stream.send_hours(50)
            stream.assert_exactly_once()
            second.send(signal.SIGTERM)
            assert second.exit_code() == 0
        stream.send_hours(10)
        stream.assert_exactly_once()
