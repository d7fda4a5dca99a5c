"""The queue of restores: an interrupted restore begins again, and delays no other partition."""

from __future__ import annotations

import pytest
from builders import pipeline_config, random_model
from clock import FakeClock
from fakes import INPUT, FakeClient, FakeKafka
from setups import serving, setup

from forecaster.errors import TransientBrokerError
from forecaster.serving.state import restore_queue
from forecaster.serving.state.lifecycle import PartitionPhase, PartitionPhases
from forecaster.serving.state.restore_queue import RestoreQueue

CONFIG = pipeline_config()
MODEL = random_model(CONFIG)


def serve(kafka: FakeKafka) -> None:
    """Let a worker serve five readings of one series in each partition."""
    _, worker = serving(kafka, pipeline=CONFIG, model=MODEL, replay_limit=1_000_000)
    for partition in kafka.partitions:
        kafka.hours(partition, range(5), b"%d" % partition)
    worker.iterate()


def test_a_restore_that_the_broker_interrupts_begins_again() -> None:
    kafka = FakeKafka()
    serve(kafka)
    client, clock = FakeClient(kafka), FakeClock()
    client.silent = 1
    store = setup(pipeline=CONFIG, model=MODEL, clock=clock).store(client)
    store.follow((), [0])
    assert store.restore() is None
    assert store.phases[0] is PartitionPhase.WAITING
    assert not store.can_restore, "during the pause"
    clock.advance(restore_queue.RETRY_SECONDS)
    assert store.can_restore
    restored = store.restore()
    assert restored is not None
    assert len(restored.partition.table) == 1


def test_a_partition_that_cannot_be_read_delays_no_other_restore(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restore_queue, "RETRY_SECONDS", 0.0)
    kafka = FakeKafka(2)
    serve(kafka)
    restorer = setup(pipeline=CONFIG, model=MODEL, replay_limit=1_000_000).restorer(client := FakeClient(kafka))
    reader, read = restorer._reader, restorer._reader.read  # noqa: SLF001

    def corrupt() -> object:
        if client._reads == (INPUT, 0):  # noqa: SLF001
            raise TransientBrokerError("a batch is corrupt")
        return read()

    monkeypatch.setattr(reader, "read", corrupt)
    phases = PartitionPhases()
    phases.move(0, PartitionPhase.WAITING)
    phases.move(1, PartitionPhase.WAITING)
    queue = RestoreQueue(restorer, phases)
    numbers = [restored.partition.number for _ in range(50) if (restored := queue.work(0.01))]
    assert numbers == [1]
    assert phases[0] is PartitionPhase.WAITING
