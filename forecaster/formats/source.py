"""Where a record came from."""

from __future__ import annotations

from forecaster.records import SourceRecord


def source_of(record: SourceRecord) -> bytes:
    return f"{record.topic}/{record.partition}/{record.offset}".encode()
