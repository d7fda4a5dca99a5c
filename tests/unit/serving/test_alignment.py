"""Alignment: markers are passed, and a partition whose input is not where it should be is restored."""

from __future__ import annotations

import pytest
from fakes import INPUT, FakeKafka
from setups import iterate, serving

from forecaster.errors import StateError


def test_deleted_unread_input_restores_the_partition() -> None:
    """The partition is restored as the policy for lost input says; readings are never skipped silently."""
    kafka = FakeKafka()
    client, worker = serving(kafka, policy="resume-stale")
    kafka.hours(0, range(4))
    iterate(worker)
    kafka.hours(0, range(4, 12))
    kafka.retain(INPUT, 0, 8)
    client.position[0] = 8  # the client continues here if its offset is gone
    iterate(worker)
    assert kafka.sources()[-1] == "readings/0/3"
    iterate(worker, 3)
    assert kafka.sources()[-4:] == [f"readings/0/{n}" for n in range(8, 12)]
    assert b'"point":[6' not in kafka.published[-4][2], "the row is from before the gap"


def test_a_single_deleted_reading_is_not_taken_for_a_marker() -> None:
    kafka = FakeKafka()
    client, worker = serving(kafka)
    kafka.hours(0, range(4))
    iterate(worker)
    kafka.hours(0, range(4, 8))
    kafka.retain(INPUT, 0, 5)
    client.position[0] = 5
    with pytest.raises(StateError, match="is no longer in the input"):
        iterate(worker, 3)


@pytest.mark.parametrize("when", ["with the records", "later"])
def test_markers_at_the_end_of_the_input_are_not_lost_readings(when: str) -> None:
    """Markers and aborted records are passed, also when retention has emptied the input before the next start."""
    kafka = FakeKafka(2)
    _, worker = serving(kafka)
    kafka.hours(0, range(6))
    kafka.hours(1, range(6))
    if when == "later":
        iterate(worker)
    kafka.mark(0)
    kafka.mark(1, 40)
    iterate(worker, 2)
    worker.flush()
    assert kafka.offsets == {0: 7, 1: 46}
    for number in (0, 1):
        kafka.retain(INPUT, number, kafka.offsets[number])
    assert serving(kafka)[1]._store.series == 2  # noqa: SLF001 - the law is about the rows that it holds
    assert len(kafka.sources()) == 12


def test_markers_between_records_lose_no_reading() -> None:
    kafka = FakeKafka()
    client, worker = serving(kafka)
    for hour in range(12):
        kafka.hours(0, range(hour, hour + 1))
        kafka.mark(0, 1 + hour % 3)
    client._batch = 2  # noqa: SLF001 - the markers come with the next batch
    iterate(worker, 8)
    assert len(kafka.sources()) == 12
    iterate(worker)
    worker.flush()
    assert kafka.offsets[0] == kafka.ends[INPUT, 0]


def test_an_offset_that_jumps_back_forecasts_nothing_twice() -> None:
    kafka = FakeKafka()
    client, worker = serving(kafka)
    kafka.hours(0, range(6))
    iterate(worker)
    client.position[0] = 0
    vars(client)["_batch"] = 2
    iterate(worker)
    assert kafka.offsets == {0: 6}, "the committed offset does not jump back"
    iterate(worker, 5)
    kafka.hours(0, range(6, 8))
    iterate(worker, 5)
    assert kafka.sources() == [f"readings/0/{n}" for n in range(8)]
