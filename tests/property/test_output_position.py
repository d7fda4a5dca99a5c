"""The position that outputs show is that of the newest output of the partition, whatever else lies on the topics."""

from __future__ import annotations

from collections.abc import Generator

from fakes import FakeClient, FakeKafka, FakeReader
from hypothesis import given
from hypothesis import strategies as st

from forecaster.formats.sources import Source, source_headers
from forecaster.interfaces import PartitionReader
from forecaster.records import InputRecord
from forecaster.serving.state import outputs
from forecaster.serving.state.outputs import InputPartition, OutputPosition, read_output_position
from forecaster.serving.state.progress import RestoreProgress

OURS = InputPartition("readings", 1, "3q2-7wAA")
TOPICS = ("forecasts", "dead")
SOURCES = st.builds(
    Source,
    topic=st.sampled_from(["readings", "other/readings"]),
    partition=st.sampled_from([1, 2]),
    offset=st.integers(0, 10_000),
    input_id=st.sampled_from([OURS.input_id, "former-1", None]),
)
GAPS = st.integers(1, 700)
"""Offsets that markers, aborted transactions or compacted records take."""
LOGS = st.lists(st.one_of(SOURCES, GAPS, st.just(b"no place")), max_size=40)


def reader_of(kafka: FakeKafka) -> PartitionReader:
    return FakeReader(FakeClient(kafka))  # type: ignore[return-value]


def headers(source: Source | bytes) -> list[tuple[str, bytes]]:
    if isinstance(source, bytes):
        return [("source", source)]
    record = InputRecord(source.topic, source.partition, source.offset, 0, None, None)
    named = source_headers(record, source.input_id or "")
    return named if source.input_id is not None else named[:1]


def write(kafka: FakeKafka, topic: str, log: list[Source | int | bytes]) -> None:
    for item in log:
        if isinstance(item, int):
            kafka.ends[topic, 1] = kafka.ends.get((topic, 1), 0) + item
        else:
            kafka.append(1, b"{}", topic=topic, headers=headers(item))


def expected(logs: list[list[Source | int | bytes]]) -> OutputPosition:
    """Return what the last record of the partition on each topic shows."""
    of_partition = [
        [source for source in log if isinstance(source, Source) and source[:2] == ("readings", 1)] for log in logs
    ]
    newest = [sources[-1] for sources in of_partition if sources]
    ours = [source.offset + 1 for source in newest if source.input_id in (None, OURS.input_id)]
    return OutputPosition(max(ours, default=None), len(ours) < len(newest))


def result_of(steps: Generator[RestoreProgress, None, OutputPosition]) -> OutputPosition:
    """Take all steps; return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            position: OutputPosition = done.value
            return position


@given(logs=st.tuples(LOGS, LOGS), start=st.integers(0, 500))
def test_the_newest_output_of_the_partition_is_found(logs: tuple[list[Source | int | bytes], ...], start: int) -> None:
    kafka = FakeKafka(3)
    for topic, log in zip(TOPICS, logs, strict=True):
        kafka.starts[topic, 1] = kafka.ends[topic, 1] = start
        write(kafka, topic, log)
    steps = read_output_position(reader_of(kafka), TOPICS, OURS)
    assert result_of(steps) == expected(list(logs))


def test_only_the_end_of_a_long_topic_is_read() -> None:
    kafka = FakeKafka(3)
    write(kafka, "forecasts", [Source("readings", 1, offset, OURS.input_id) for offset in range(5_000)])
    steps = list(read_output_position(reader_of(kafka), ["forecasts"], OURS))
    assert {step.offset for step in steps} == {5_000 - outputs.FIRST_STEP}
