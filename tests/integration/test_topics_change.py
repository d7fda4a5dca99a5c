"""Somebody changes the topics under a running worker, or has made them so that they do not fit."""

from __future__ import annotations

import signal
from contextlib import closing
from pathlib import Path

import pytest
from commands import run_command
from daemons import Daemon, Http, Stream, wait_until
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import NewPartitions, NewTopic, OffsetSpec

from forecaster.broker.plain_clients import create_topic

pytestmark = pytest.mark.kafka
WATCHFUL = Path(__file__).parent / "watchful_worker.py"


def delete_records(address: str, topic: str) -> None:
    """Delete all records of a topic with two partitions."""
    with closing(KafkaAdminClient(bootstrap_servers=address)) as admin:
        latest = {TopicPartition(topic, partition): OffsetSpec.LATEST for partition in range(2)}
        ends = admin.list_partition_offsets(latest)
        admin.delete_records({place: end.offset for place, end in ends.items()})


def test_a_deleted_state_topic_is_written_again_and_added_partitions_end_the_worker(
    kafka: str, topic: str, tmp_path: Path
) -> None:
    """After the rewrite and a kill, everything is restored, although the input can rebuild nothing."""
    create_topic(kafka, topic, 2)
    with closing(Stream(kafka, topic, 2)) as stream, closing(KafkaAdminClient(bootstrap_servers=kafka)) as admin:
        with Daemon(tmp_path, kafka, topic, script=WATCHFUL) as first:
            first.serving()
            stream.send_hours(20)
            stream.assert_exactly_once()
            admin.delete_topics([f"{topic}.state"])
            stream.send_hours(1)
            wait_until(lambda: len(first.events("state_rewrite_finished")) == 2, "two rewritten partitions", 60)
            stream.assert_exactly_once()
            wait_until(lambda: Http(first).get("readyz")[0] == 200, "a daemon that is ready")
            first.send(signal.SIGKILL)
            first.process.wait(30)
        delete_records(kafka, topic)
        with Daemon(tmp_path, kafka, topic, script=WATCHFUL) as second:
            second.serving()
            restored = second.events("partition_restored")
            assert {entry["recovery"] for entry in restored} == {"restored"}
            assert sum(entry["series"] for entry in restored) == 10
            stream.send_hours(2)
            stream.assert_exactly_once()
            admin.create_partitions({topic: NewPartitions(3)})
            assert second.exit_code(60) == 4
            assert "Add partitions" in second.log


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("state", {"cleanup.policy": "compact", "max.message.bytes": "50000"}, "max.message.bytes is 50000"),
        ("forecasts", {"max.message.bytes": "100000"}, "max.message.bytes is 100000"),
        ("history", {"min.insync.replicas": "2"}, "min.insync.replicas is 2"),
    ],
)
def test_check_refuses_a_topic_that_cannot_take_what_is_written(
    kafka: str, topic: str, name: str, settings: dict[str, str], named: str
) -> None:
    create_topic(kafka, topic, 2)
    with closing(KafkaAdminClient(bootstrap_servers=kafka)) as admin:
        admin.create_topics([NewTopic(f"{topic}.{name}", 2, 1, topic_configs=settings)])
        admin.wait_for_topics([f"{topic}.{name}"])
    checked = run_command("check", KAFKA__BOOTSTRAP_SERVERS=kafka, TOPICS__INPUT=topic)
    assert checked.returncode == 4
    assert named in checked.stderr
    assert f"--entity-name {topic}.{name}" in checked.stderr


def test_check_warns_of_a_compacted_input_and_refuses_a_session_that_the_broker_does_not_allow(
    kafka: str, topic: str
) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=kafka)) as admin:
        admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"cleanup.policy": "compact"})])
        admin.wait_for_topics([topic])
    settings = {"KAFKA__BOOTSTRAP_SERVERS": kafka, "TOPICS__INPUT": topic}
    checked = run_command("check", **settings)
    assert checked.returncode == 0
    assert "cleanup.policy is compact" in checked.stdout
    refused = run_command("check", KAFKA__SESSION_TIMEOUT="2s", **settings)
    assert refused.returncode == 4
    assert "FORECASTER_KAFKA__SESSION_TIMEOUT is 2000 ms" in refused.stderr
