"""The comparison of what daemons have written with what they should have written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forecaster.formats.sources import Source, source_of
from forecaster.records import Headers, Message, SourceRecord


@dataclass(frozen=True)
class Verdict:
    """Result of a comparison.

    Attributes:
        written: number of records that were written.
        lost: records that should be there and are not.
        doubled: records of an input record that has one already.
        different: records with other content, or in another partition or order, than they should have.
    """

    written: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            self.written + other.written,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.different + other.different,
        )


def compare(expected: Sequence[Message], written: Sequence[SourceRecord]) -> Verdict:
    """Compare the records of one partition of an output topic with those that are expected.

    The header `source` tells which input record an output record was made of.

    Args:
        expected: one record at most for each input record, in the order of the input.
        written: committed records of the topic, in the order of the log.
    """
    place = {_source(message.headers): number for number, message in enumerate(expected)}
    seen: set[Source | None] = set()
    doubled = different = newest = 0
    for record in written:
        source = _source(record.headers)
        if source in seen:
            doubled += 1
        elif source not in place or place[source] < newest or not _is_same(expected[place[source]], record):
            different += 1
        seen.add(source)
        newest = max(newest, place.get(source, 0))
    return Verdict(len(written), len(place.keys() - seen), doubled, different)


def longest_pause_seconds(inputs: Sequence[SourceRecord], written: Sequence[SourceRecord]) -> float:
    """Return the longest time from a record's arrival in the input to its record in the output, in seconds.

    Args:
        inputs: records of one partition of the input, from its beginning.
        written: records that were made of them.
    """
    sent = {record.offset: record.timestamp for record in inputs}
    sources = [_source(record.headers) for record in written]
    waits = [
        record.timestamp - sent[source.offset]
        for record, source in zip(written, sources, strict=True)
        if source is not None and source.offset in sent
    ]
    return max(waits, default=0) / 1000


def _is_same(expected: Message, record: SourceRecord) -> bool:
    parts = (expected.partition, expected.key, expected.value, list(expected.headers))
    return parts == (record.partition, record.key, record.value, list(record.headers or ()))


def _source(headers: Headers | None) -> Source | None:
    return source_of(headers or ())
