"""The chaos report finds what it is there to find: records that are lost, doubled or different."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import Lineup, pipeline_config
from chaos_report.checker import Verdict, compare, longest_pause_seconds
from chaos_report.payloads import in_process
from chaos_report.readings import record_of
from chaos_report.table import Row, append, joined, markdown, read
from faults import POINTS
from reference_run import uninterrupted_forecasts

from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.formats.state import Swap
from forecaster.records import InputRecord, Message

HOURS = 20
CONFIG = pipeline_config()


def inputs() -> list[InputRecord]:
    """A reading of two series for each hour, one a second."""
    records = [record_of(seed, hour) for hour in range(HOURS) for seed in (1, 2)]
    return [InputRecord("readings", 0, number, number * 1_000, *record) for number, record in enumerate(records)]


def expected() -> list[Message]:
    return list(uninterrupted_forecasts(CONFIG, inputs(), [Swap(0, NO_CHECKPOINT)], Lineup(), "topic-id"))


def written(messages: list[Message], delay_ms: int = 0) -> list[InputRecord]:
    """The messages as records of the forecasts topic."""
    offsets = [int(dict(message.headers)["source"].rpartition(b"/")[2]) for message in messages]
    return [
        InputRecord("forecasts", message.partition, number, offset * 1_000 + delay_ms, *message[1:])
        for number, (offset, message) in enumerate(zip(offsets, messages, strict=True))
    ]


def test_the_output_of_the_reference_itself_is_right() -> None:
    messages = expected()
    assert len(messages) > HOURS
    assert compare(messages, written(messages)) == Verdict(written=len(messages))


def test_a_lost_record_is_counted() -> None:
    messages = expected()
    assert compare(messages, written(messages[:7] + messages[9:])) == Verdict(len(messages) - 2, lost=2)


def test_a_doubled_record_is_counted_wherever_it_is() -> None:
    messages = expected()
    for doubled in (messages[:6] + messages[5:], [*messages, messages[3]]):
        assert compare(messages, written(doubled)) == Verdict(len(messages) + 1, doubled=1)


@pytest.mark.parametrize(
    "change",
    [
        {"value": b"{}"},
        {"key": b"pump-9"},
        {"partition": 1},
        {"headers": [("source", b"readings/0/4")]},
    ],
    ids=["value", "key", "partition", "headers"],
)
def test_a_record_with_one_different_part_is_counted(change: dict[str, object]) -> None:
    messages = expected()
    place = next(
        number for number, message in enumerate(messages) if dict(message.headers)["source"] == b"readings/0/4"
    )
    different = [*messages[:place], messages[place]._replace(**change), *messages[place + 1 :]]  # type: ignore[arg-type]
    verdict = compare(messages, written(different))
    assert (verdict.doubled, verdict.different) == (0, 1)


def test_a_record_of_an_unknown_reading_is_different() -> None:
    messages = expected()
    stranger = messages[-1]._replace(headers=[("source", b"readings/0/9999"), ("input-id", b"topic-id")])
    assert compare(messages, written([*messages, stranger])) == Verdict(len(messages) + 1, different=1)


def test_a_record_before_its_predecessor_is_different() -> None:
    messages = expected()
    swapped = [*messages[:4], messages[5], messages[4], *messages[6:]]
    assert compare(messages, written(swapped)) == Verdict(len(messages), different=1)


def test_the_longest_pause_is_that_of_the_latest_forecast() -> None:
    records = written(expected(), delay_ms=200)
    records[5] = records[5]._replace(timestamp=records[5].timestamp + 7_000)
    assert longest_pause_seconds(inputs(), records) == pytest.approx(7.2)


def row(what: str = "kill -9", **values: object) -> Row:
    return Row(**{"what": what, "times": 1, "readings": 10, "forecasts": 9, "memory_mib": (1.0, 2.0), **values})  # type: ignore[arg-type]


def test_parts_of_a_report_add_up_through_their_file(tmp_path: Path) -> None:
    file = tmp_path / "parts.jsonl"
    for part in (
        row(pause_seconds=2.0, lost=1),
        row("another"),
        row(pause_seconds=3.0, memory_mib=(1.0, 9.0), faults=["code 7"]),
    ):
        append(file, part)
    rows = joined(read(file))
    assert rows == [
        row(times=2, readings=20, forecasts=18, lost=1, pause_seconds=3.0, memory_mib=(1.0, 9.0), faults=["code 7"]),
        row("another"),
    ]
    assert [part.failures for part in rows] == [["1 lost", "code 7"], []]
    assert markdown(rows).splitlines()[2] == "| kill -9 | 2 | 20 | 18 | 0 | 0 | 1 | 0 | 0 | 3.0 | 1 / 9 |"


@pytest.mark.parametrize("point", POINTS)
def test_every_point_of_a_fault_exists(point: str) -> None:
    assert all(callable(getattr(owner, name)) for owner, name in POINTS[point])


def test_no_odd_payload_ends_a_worker_or_goes_missing() -> None:
    """Each becomes a forecast, a dead letter, or a reading without a forecast."""
    with np.errstate(all="ignore"):
        found = in_process(10_000, seed=3)
    assert found.failures == []
    assert found.readings == 10_000 == found.forecasts + found.dead_letters + found.ignored
    assert min(found.forecasts, found.dead_letters, found.ignored) > 500
