"""Headers that name the input record of an output record: `source` and `input-id`.

`source` is topic/partition/offset. A topic that is deleted and created again begins at offset 0 again, so `input-id`
tells the two apart: it is the beginning of the topic's id, as Kafka's own tools print it.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import NamedTuple
from uuid import UUID

from forecaster.records import Headers, SourceRecord

SOURCE = "source"
INPUT_ID = "input-id"
_ID_CHARACTERS = 8


class Source(NamedTuple):
    """The input record that an output record was made of; `input_id` None = the record does not name it."""

    topic: str
    partition: int
    offset: int
    input_id: str | None


def short_topic_id(topic_id: str) -> str:
    """Return the first 8 characters of a topic's id in the form in which Kafka's own tools print it.

    Args:
        topic_id: the id as hexadecimal digits; other text, from brokers without topic ids, is only shortened.
    """
    try:
        return urlsafe_b64encode(UUID(topic_id).bytes).decode()[:_ID_CHARACTERS]
    except ValueError:
        return topic_id[:_ID_CHARACTERS]


def source_headers(record: SourceRecord, input_id: str) -> list[tuple[str, bytes]]:
    """Return the headers `source` and `input-id` of records about an input record.

    Args:
        record: the input record.
        input_id: short id of its topic.
    """
    return [
        (SOURCE, f"{record.topic}/{record.partition}/{record.offset}".encode()),
        (INPUT_ID, input_id.encode()),
    ]


def source_of(headers: Headers) -> Source | None:
    """Return the input record that the headers name; None if they name none.

    The last header of a name counts, because a dead letter also has the headers of the record that it copies.
    """
    values = dict(headers)
    try:
        topic, partition, offset = values[SOURCE].decode().rsplit("/", 2)
        input_id = values[INPUT_ID].decode() if INPUT_ID in values else None
        return Source(topic, int(partition), int(offset), input_id)
    except (KeyError, ValueError, AttributeError):  # no such header, one of other software, or one without a value
        return None
