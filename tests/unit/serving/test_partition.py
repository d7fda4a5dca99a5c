"""What a partition writes of its state, where its floor stands, and whose rows are freed."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from builders import HOUR_MS, pipeline_config, random_model
from fake_kafka import STATE, FakeClient, FakeKafka, setup

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
