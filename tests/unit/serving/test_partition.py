"""What a partition writes of its state, where its floor stands, and whose rows are freed."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from builders import HOUR_MS, pipeline_config, random_model
from fake_kafka import INPUT, STATE, FakeClient, FakeKafka, setup

from forecaster.serving import keeping
from forecaster.serving.snapshots import Floor, decode_floor
from forecaster.serving.worker import Worker

CONFIG = pipeline_config()
MODEL = random_model(CONFIG)
SHORT_LIVED = replace(CONFIG, observation=replace(CONFIG.observation, ttl_ms=48 * HOUR_MS))


def turn(one: Worker, times: int = 1) -> None:
    for _ in range(times):
        one.iterate(threading.Event(), lambda: None)


def serving(kafka: FakeKafka, **options: object) -> Worker:
    """A worker that has all partitions."""
    client = FakeClient(kafka)
    one = setup(**{"pipeline": CONFIG, "model": MODEL} | options).worker(client)
    while client.held:
        turn(one)
    return one


def names(one: Worker) -> set[str]:
    return {name for name in one._keeper.partitions[0].table.names if name}  # noqa: SLF001 - the law is about its rows


def sweep(one: Worker) -> None:
    """A turn that looks for idle series, which is rare."""
    one._keeper.partitions[0]._since_sweep = 1_000_000  # noqa: SLF001
    turn(one)


def floor(kafka: FakeKafka) -> Floor:
    """The newest one in the topic."""
    return decode_floor([one.value for one in kafka.logs[STATE, 0] if one.key.endswith(b"/floor")][-1])


def test_a_series_that_was_freed_exactly_at_the_floor_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = FakeKafka()
    monkeypatch.setattr(keeping, "BLOCK_BYTES", 3 * setup(pipeline=CONFIG, model=MODEL).keep_config().row_bytes)
    one = serving(kafka, pipeline=SHORT_LIVED, replay_limit=1)
    for name in (b"idle", b"steady", b"busy"):
        kafka.hours(0, range(1), name)
    for name in (b"steady", b"busy"):
        kafka.hours(0, range(1, 200), name)
    turn(one)
    one.flush(threading.Event())
    kafka.hours(0, range(200, 201), b"busy")
    sweep(one)
    assert names(one) == {"steady", "busy"}
    kafka.hours(0, range(201, 202), b"busy")
    turn(one)
    assert [event.offset for event in floor(kafka).events if event.freed] == [floor(kafka).offset]
    assert names(serving(kafka, pipeline=SHORT_LIVED)) == {"steady", "busy"}


def test_where_all_is_written_records_that_touch_no_row_take_the_floor_with_them_at_the_end() -> None:
    kafka = FakeKafka()
    one = serving(kafka)
    kafka.hours(0, range(6))
    turn(one)
    one.flush(threading.Event())
    assert floor(kafka).offset == 6
    kafka.append(0, b"no json")
    turn(one)
    one.flush(threading.Event())
    assert floor(kafka).offset == kafka.offsets[0] == 7
    written = len(kafka.logs[STATE, 0])
    one.flush(threading.Event())
    assert len(kafka.logs[STATE, 0]) == written, "once is enough"
    kafka.retain(INPUT, 0, 7)
    assert names(serving(kafka)) == {"pump"}


def test_records_that_touch_no_row_move_the_floor_once_in_a_snapshot_interval_and_not_in_every_batch() -> None:
    kafka = FakeKafka()
    one = serving(kafka, max_series=1, snapshot_seconds=3_600.0)
    kafka.hours(0, range(6))
    turn(one)
    one.flush(threading.Event())
    written = len(kafka.logs[STATE, 0])
    for hour in range(3):
        kafka.hours(0, range(hour, hour + 1), b"one too many")
        turn(one)
    assert floor(kafka).offset == 6
    assert len(kafka.logs[STATE, 0]) <= written + 1, "that there is no more room is said once"
    one._keeper.partitions[0]._floor_at -= 3_600.0  # noqa: SLF001 - an hour goes by
    turn(one, 3)
    assert floor(kafka).offset == kafka.offsets[0] == 9
    assert len(kafka.logs[STATE, 0]) <= written + 2
    kafka.retain(INPUT, 0, 9)
    assert names(serving(kafka, max_series=1)) == {"pump"}
