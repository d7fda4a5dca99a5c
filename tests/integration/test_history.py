"""History that is written to the topic is read back through a broker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import pytest
from builders import HOUR_MS, START_MS, readings
from daemons import wait_until

from forecaster.broker.connection import Connection
from forecaster.broker.log_reader import LogReader
from forecaster.broker.plain_clients import RecordWriter, create_topic
from forecaster.broker.tail_reader import TailReader
from forecaster.broker.topics import TopicAdmin
from forecaster.formats.history import encode_history
from forecaster.learning.data.history_reader import HistoryConfig, HistoryCounter, HistoryReader

PARTITIONS, HOURS, SERIES = 3, 20, 4


def write(broker: str, topic: str, *, timestamp_ms: int | None = None, hours: range = range(HOURS)) -> None:
    """Write a record for each partition and hour."""
    with closing(RecordWriter(broker, topic)) as writer:
        for hour in hours:
            for partition in range(PARTITIONS):
                rows = [(f"pump-{partition}-{k}", START_MS + hour * HOUR_MS, k + hour) for k in range(SERIES)]
                batch = readings(rows)
                for message in encode_history(partition, batch, np.arange(SERIES), np.zeros(SERIES, bool)):
                    options = {"headers": message.headers, "timestamp_ms": timestamp_ms}
                    writer.send(message.key, message.value, partition=partition, **options)
            writer.flush()  # the embedded broker takes the first of several records written at once for the last


@contextmanager
def reading(broker: str, topic: str, window_ms: int) -> Iterator[HistoryReader]:
    connection = Connection(broker, "forecaster-trainer")
    with TopicAdmin(connection) as topics, closing(LogReader(connection, topics)) as reader:
        yield HistoryReader(HistoryConfig(topic, PARTITIONS, window_ms, max_series=100), reader)


def test_history_is_read_in_the_order_of_time(broker: str, topic: str) -> None:
    create_topic(broker, topic, PARTITIONS)
    write(broker, topic)
    with reading(broker, topic, window_ms=HOUR_MS) as source:
        history = source.read(int(time.time() * 1_000))
    hours = np.repeat(np.arange(HOURS), PARTITIONS * SERIES)
    assert history.timestamp_ms.tolist() == (START_MS + hours * HOUR_MS).tolist()
    expected = {f"pump-{partition}-{k}" for partition in range(PARTITIONS) for k in range(SERIES)}
    assert set(history.series_ids) == expected
    numbers = [int(history.series_ids[row].rsplit("-", 1)[1]) for row in history.series_index]
    assert history.values.tolist() == (hours + numbers).tolist()


def test_an_empty_topic_gives_an_empty_history(broker: str, topic: str) -> None:
    create_topic(broker, topic, PARTITIONS)
    with reading(broker, topic, window_ms=HOUR_MS) as source:
        assert len(source.read(int(time.time() * 1_000))) == 0


def test_the_counter_counts_old_and_new_records(broker: str, topic: str) -> None:
    create_topic(broker, topic, PARTITIONS)
    write(broker, topic)
    with closing(TailReader(Connection(broker, "forecaster-trainer"), topic, PARTITIONS)) as tail:
        counter = HistoryCounter(tail)
        once = PARTITIONS * HOURS * SERIES
        wait_until(lambda: counter.count() == once, "the old records")
        write(broker, topic)
        wait_until(lambda: counter.count() == 2 * once, "the new records")
        write(broker, topic)
        counter.restart()
        assert not counter.is_current, "a restarted counter has a backlog"
        wait_until(lambda: counter.count() == 3 * once and counter.is_current, "the new backlog")


@pytest.mark.kafka
def test_records_from_before_the_window_are_not_read(kafka: str, topic: str) -> None:
    create_topic(kafka, topic, PARTITIONS)
    now_ms = int(time.time() * 1_000)
    write(kafka, topic, timestamp_ms=now_ms - 2 * HOUR_MS, hours=range(10))
    write(kafka, topic, timestamp_ms=now_ms, hours=range(10, 15))
    with reading(kafka, topic, window_ms=HOUR_MS) as source:
        assert len(source.read(now_ms)) == 5 * PARTITIONS * SERIES
        assert len(source.read(now_ms + 3 * HOUR_MS)) == 0
