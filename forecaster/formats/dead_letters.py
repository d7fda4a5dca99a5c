"""Records of the dead-letter topic."""

from __future__ import annotations

from forecaster.formats.readings import MAX_VALUE_BYTES
from forecaster.formats.sources import source_headers
from forecaster.records import DeadLetter, Message


def encode_dead_letter(letter: DeadLetter, input_id: str) -> Message:
    """Return the record as it came, key and value cut at 64 KiB, with headers that say why and where it came from.

    Args:
        letter: the record, and what is wrong with it.
        input_id: short id of the record's topic.
    """
    record = letter.record
    value, detail = record.value, letter.detail
    if value is not None and len(value) > MAX_VALUE_BYTES:
        detail = f"{detail} (value cut at {MAX_VALUE_BYTES} bytes)"
        value = value[:MAX_VALUE_BYTES]
    key = record.key
    if key is not None and len(key) > MAX_VALUE_BYTES:
        detail = f"{detail} (key cut at {MAX_VALUE_BYTES} bytes)"
        key = key[:MAX_VALUE_BYTES]
    headers = [(name, content or b"") for name, content in record.headers]  # the client cannot send null headers
    if sum(len(name) + len(content) for name, content in headers) > MAX_VALUE_BYTES:
        detail = f"{detail} (headers of more than {MAX_VALUE_BYTES} bytes left out)"
        headers = []
    headers += [
        ("reason", letter.reason.encode()),
        ("detail", detail.encode()),
        *source_headers(record, input_id),
    ]
    return Message(record.partition, key, value, headers)
