"""A watch on a broker: what is written while it looks becomes the champion, what a dead trainer began does not."""

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
from forecaster.broker.retry import retry
from forecaster.broker.topics import NeededTopic, TopicAdmin
from forecaster.broker.writer import write_records
from forecaster.formats.models import Serve, publication, serve_message
from forecaster.registry import follower as follower_module
from forecaster.registry.cache import CheckpointCache
from forecaster.registry.follower import RegistryFollower

CHECKPOINT = random_checkpoint(pipeline_config(), hidden_size=512)
"""Of several chunks."""


@pytest.fixture
def follower(broker: str, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryFollower]:
    monkeypatch.setattr(follower_module, "REFRESH_SECONDS", 0.0)
    connection = Connection(broker, "test")
    with TopicAdmin(connection) as topics:
        topics.create([NeededTopic(topic, "models", partitions=1)], 3)
        with closing(LogReader(connection, topics)) as reader:
            one = RegistryFollower(reader, topic, CheckpointCache(tmp_path / "cache"), CHECKPOINT.network)
            retry(one.catch_up, "reading", 30.0, threading.Event())
            yield one


def order(name: str) -> Serve:
    return Serve(name, "none", "trainer", "2025-01-01T00:00:00+00:00", "better")


def test_what_is_published_and_ordered_while_it_looks_is_served(
    follower: RegistryFollower, broker: str, topic: str
) -> None:
    messages = publication(CHECKPOINT)
    assert len(messages) > 3
    write_records(Connection(broker, "test"), topic, [*messages, serve_message(order(CHECKPOINT.id))])
    wait_until(lambda: follower.refresh() or follower.champion == CHECKPOINT.id, "the champion")
    found = follower.checkpoint(CHECKPOINT.id)
    assert found is not None
    assert torch.equal(found.readout, CHECKPOINT.readout)


def test_a_watch_without_a_cache_reads_it_from_the_topic_and_goes_on(
    follower: RegistryFollower, broker: str, topic: str
) -> None:
    follower._cache = CheckpointCache(None)  # noqa: SLF001 - as where no folder can be written
    connection = Connection(broker, "test")
    write_records(connection, topic, publication(CHECKPOINT))
    follower.catch_up()
    assert follower.model(CHECKPOINT.id) is not None
    write_records(connection, topic, [serve_message(order(CHECKPOINT.id))])
    wait_until(lambda: follower.refresh() or follower.champion == CHECKPOINT.id, "the champion")


@pytest.mark.parametrize("broker", [pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True)
def test_an_order_of_a_transaction_that_was_aborted_is_never_obeyed(
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
