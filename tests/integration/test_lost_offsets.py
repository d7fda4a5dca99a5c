"""Kafka loses what a group has read: its offsets, or the input topic."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import orjson
import pytest
from commands import run_command
from daemons import HOUR_MS, START_MS, Daemon, wait_until
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError
from reference_run import ReferenceRun

from forecaster.broker.plain_clients import RecordReader, RecordWriter, create_topic

SERIES = 5


@contextmanager
def administering(address: str) -> Iterator[KafkaAdminClient]:
    with closing(KafkaAdminClient(bootstrap_servers=address)) as admin:
        yield admin


def create_topic_again(address: str, topic: str) -> None:
    """Delete a topic, and create it again with one partition."""
    with administering(address) as admin:
        admin.delete_topics([topic])

        def is_created() -> bool:
            try:
                admin.create_topics([NewTopic(topic, 1, 1)])
            except KafkaError:
                return False  # the broker is still deleting the former one
            return True

        wait_until(is_created, "a topic created again")
        admin.wait_for_topics([topic])


def send_hours(address: str, topic: str, hours: range) -> None:
    with closing(RecordWriter(address, topic)) as writer:
        for hour in hours:
            for series in range(SERIES):
                body = {"timestamp": START_MS + hour * HOUR_MS, "value": (hour * series) % 13}
                writer.send(b"pump-%d" % series, orjson.dumps(body))


def check(address: str, topic: str, **variables: str) -> str:
    """Return what `forecaster check` prints."""
    settings = {"KAFKA__BOOTSTRAP_SERVERS": address, "KAFKA__GROUP_ID": f"{topic}-group", "TOPICS__INPUT": topic}
    return run_command("check", **settings, SERIES__INTERVAL="1h", FORECAST__HORIZON="4", **variables).stdout


@pytest.mark.kafka
@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_group_that_kafka_forgot_goes_on_where_it_was(
    kafka: str, topic: str, tmp_path: Path, ended_by: signal.Signals
) -> None:
    create_topic(kafka, topic, 2)
    with closing(ReferenceRun(kafka, topic, 2, tmp_path)) as reference:
        served = {"NETWORK__CHECKPOINT": reference.checkpoint, "STATE__REPLAY_LIMIT": "300"}
        with Daemon(tmp_path, kafka, topic, **served) as daemon:
            daemon.serving()
            reference.send_hours(40)
            reference.assert_equal()
            daemon.send(ended_by)
            daemon.exit_code()

        def is_deleted() -> bool:
            with administering(kafka) as admin:
                group = f"{topic}-group"
                return bool(admin.delete_groups([group])[group] == "OK")  # not while it still counts a killed member

        wait_until(is_deleted, "a deleted group")
        assert "2 of 2 partitions: restored, although Kafka has forgotten the committed offset" in check(
            kafka, topic, **served
        )
        reference.send_hours(3)
        with Daemon(tmp_path, kafka, topic, **served) as daemon:
            daemon.serving()
            reference.assert_equal()
            assert [entry["recovery"] for entry in daemon.events("partition_restored")] == ["forgotten"] * 2
        reference.assert_all_right()


@pytest.mark.kafka
def test_an_input_created_again_is_read_from_its_start_by_the_running_daemon(
    kafka: str, topic: str, tmp_path: Path
) -> None:
    """The new log soon is longer than the old one, so that its offsets alone would tell nothing."""
    create_topic(kafka, topic, 1)
    sources: Counter[tuple[bytes, bytes]] = Counter()
    with (
        Daemon(tmp_path, kafka, topic, STATE__ON_LOST_INPUT="resume-cold") as daemon,
        closing(RecordReader(kafka, f"{topic}.forecasts", 1)) as reader,
    ):

        def outputs() -> int:
            sources.update((record.headers["source"], record.headers["input-id"]) for record in reader.poll())
            return sources.total()

        daemon.serving()
        send_hours(kafka, topic, range(4))
        wait_until(lambda: outputs() == 4 * SERIES, "forecasts of the first topic")
        create_topic_again(kafka, topic)
        send_hours(kafka, topic, range(4, 16))
        wait_until(lambda: outputs() >= 16 * SERIES, "forecasts of the second topic")
        assert [entry["recovery"] for entry in daemon.events("partition_restored")] == ["new", "cold"]
        daemon.send(signal.SIGTERM)
        assert daemon.exit_code() == 0
        outputs()
    assert set(sources.values()) == {1}
    assert sorted(Counter(input_id for _, input_id in sources).values()) == [4 * SERIES, 12 * SERIES]
    assert "1 of 1 partitions: restored" in check(kafka, topic)


@pytest.mark.kafka
def test_an_input_that_stays_deleted_ends_the_daemon_with_exit_code_4(kafka: str, topic: str, tmp_path: Path) -> None:
    create_topic(kafka, topic, 1)
    with Daemon(tmp_path, kafka, topic, KAFKA__OUTAGE_DEADLINE="6s") as daemon:
        daemon.serving()
        send_hours(kafka, topic, range(2))
        with administering(kafka) as admin:
            admin.delete_topics([topic])
        assert daemon.exit_code() == 4
        assert daemon.events("input_missing")
        assert f"topic {topic}: was deleted, and has been missing for" in daemon.log
