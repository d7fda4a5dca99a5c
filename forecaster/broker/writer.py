"""Records written at once by a command; the daemon writes in transactions."""

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
    """The topic holds the records, in their order, on all replicas in sync.

    Args:
        connection: how the broker is reached.
        topic: it exists.
        messages: each names its partition; several in the same one keep their order.

    Raises:
        TransientBrokerError: some of them may not be there; writing all of them again can help.
    """
    try:
        client = KafkaProducer(**connection.writer_options())
    except KafkaError as error:
        raise TransientBrokerError(f"writing to {topic}: {describe(error)}") from error
    try:
        sent = [client.send(topic, one.value, one.key, list(one.headers), one.partition) for one in messages]
        client.flush(timeout=DEADLINE_SECONDS)
    except (KafkaError, ValueError) as error:
        raise TransientBrokerError(f"writing to {topic}: {describe(error)}") from error
    finally:
        with suppress(KafkaError):
            client.close(timeout=CLOSE_SECONDS)
    lost = [future for future in sent if not future.succeeded()]
    if lost:
        raise TransientBrokerError(f"{topic}: {len(lost)} of {len(sent)} records were not written: {lost[0].exception}")
