"""Records that a command writes at once; the daemon writes in transactions instead."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from kafka import KafkaProducer
from kafka.errors import KafkaError

from forecaster.broker.connection import DELIVERY_TIMEOUT_MS, Connection
from forecaster.broker.retry import describe
from forecaster.errors import TransientBrokerError
from forecaster.records import Message

DEADLINE_SECONDS = DELIVERY_TIMEOUT_MS / 1000 + 3.0
CLOSE_SECONDS = 5.0


def write_records(connection: Connection, topic: str, messages: Sequence[Message]) -> None:
    """Write records in their order, and return when all replicas in sync have them.

    Args:
        connection: address of the broker.
        topic: name of an existing topic.
        messages: records; each names its partition.

    Raises:
        TransientBrokerError: not all records were written. Writing all of them again can succeed; then some may be in
            the topic twice.
    """
    try:
        client = KafkaProducer(**connection.writer_options())
    except KafkaError as error:
        raise TransientBrokerError(f"writing to topic {topic}: {describe(error)}") from error
    try:
        results = [
            client.send(topic, message.value, message.key, list(message.headers), message.partition)
            for message in messages
        ]
        client.flush(timeout=DEADLINE_SECONDS)
    except (KafkaError, ValueError) as error:
        raise TransientBrokerError(f"writing to topic {topic}: {describe(error)}") from error
    finally:
        with suppress(KafkaError):
            client.close(timeout=CLOSE_SECONDS)
    lost = [result for result in results if not result.succeeded()]
    if lost:
        raise TransientBrokerError(
            f"writing to topic {topic}: {len(lost)} of {len(results)} records were not written: {lost[0].exception}"
        )
