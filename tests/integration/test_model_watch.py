"""A follower on a broker: committed orders are served, those of an aborted transaction are not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from builders import pipeline_config, random_checkpoint
from daemons import wait_until
from kafka import KafkaProducer

from forecaster.broker.connection import Connection
from forecaster.broker.log_reader import LogReader
from forecaster.broker.needed_topics import NeededTopic
from forecaster.broker.retry import retry
from forecaster.broker.topics import TopicAdmin
from forecaster.broker.writer import write_records
from forecaster.formats.models import ServeOrder, publication, serve_message
from forecaster.registry import follower as follower_module
from forecaster.registry.cache import CheckpointCache
from forecaster.registry.follower import RegistryFollower

CHECKPOINT = random_checkpoint(pipeline_config(), hidden_size=512)
"""Large enough for several chunks."""


@pytest.fixture
def follower(broker: str, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryFollower]:
    monkeypatch.setattr(follower_module, "REFRESH_SECONDS", 0.0)
    connection = Connection(broker, "test")
    with TopicAdmin(connection) as topics:
        topics.create([NeededTopic(topic, "models", partitions=1)], 3)
        with closing(LogReader(connection, topics)) as reader:
            follower = RegistryFollower(reader, topic, CheckpointCache(tmp_path / "cache"), CHECKPOINT.network)
            retry(follower.catch_up, "reading", 30.0, threading.Event())
            yield follower


def order(name: str) -> ServeOrder:
    return ServeOrder(name, "none", "trainer", "2025-01-01T00:00:00+00:00", "better")


def test_a_checkpoint_published_while_the_follower_runs_is_served(
    follower: RegistryFollower, broker: str, topic: str
) -> None:
    messages = publication(CHECKPOINT)
    assert len(messages) > 3
    write_records(Connection(broker, "test"), topic, [*messages, serve_message(order(CHECKPOINT.id))])
    wait_until(lambda: follower.refresh() or follower.champion == CHECKPOINT.id, "the champion")
    checkpoint = follower.checkpoint(CHECKPOINT.id)
    assert checkpoint is not None
    assert torch.equal(checkpoint.readout, CHECKPOINT.readout)


def test_a_follower_without_a_cache_reads_from_the_topic_and_continues(
    follower: RegistryFollower, broker: str, topic: str
) -> None:
    follower._cache = CheckpointCache(None)  # noqa: SLF001 - as if no folder could be written
    connection = Connection(broker, "test")
    write_records(connection, topic, publication(CHECKPOINT))
    follower.catch_up()
    assert follower.model(CHECKPOINT.id) is not None
    write_records(connection, topic, [serve_message(order(CHECKPOINT.id))])
    wait_until(lambda: follower.refresh() or follower.champion == CHECKPOINT.id, "the champion")


@pytest.mark.parametrize("broker", [pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True)
def test_an_order_in_an_aborted_transaction_is_never_obeyed(
    follower: RegistryFollower, broker: str, topic: str
) -> None:
    connection = Connection(broker, "test")
    write_records(connection, topic, publication(CHECKPOINT))
    producer = KafkaProducer(**connection.producer_options(f"{topic}-trainer"))
    producer.init_transactions()
    producer.begin_transaction()
    message = serve_message(order(CHECKPOINT.id))
    producer.send(topic, message.value, message.key, partition=0).get(timeout=10)
    producer.abort_transaction()
    producer.close(timeout=10)
    follower.catch_up()
    assert follower.champion == "none"
    write_records(connection, topic, [message])
    wait_until(lambda: follower.refresh() or follower.champion == CHECKPOINT.id, "the champion")
