"""Runs that come to nothing: the trainer goes on, rests where that helps, and forgets nothing."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from coordinators import PROMOTED, REJECTED, World

from forecaster.errors import CheckpointError, TransientBrokerError
from forecaster.learning import coordinator
from forecaster.learning.child_process import ExitKind
from forecaster.learning.coordinator import TrainingCoordinator
from forecaster.learning.schedule import RunKind
from forecaster.records import PollResult
from forecaster.registry.registry import ModelRegistry


def test_a_transaction_that_is_refused_promotes_nothing_and_the_producer_begins_anew(
    world: World, leading: TrainingCoordinator
) -> None:
    world.children[0].finish(PROMOTED)
    world.fails = True
    leading.iterate()
    assert world.restarts == 1
    assert leading.counters["training_not_published"] == 1
    assert world.registry.serve is None


@pytest.mark.parametrize("ended", [ExitKind.KILLED, ExitKind.FAILED])
def test_a_child_that_hangs_or_dies_is_counted_and_the_next_one_is_begun_when_due(
    world: World, leading: TrainingCoordinator, ended: ExitKind
) -> None:
    world.children[0].exit = ended
    leading.iterate()
    assert leading.counters[f"training_{ended}"] == 1
    world.readings, world.due = 120, {RunKind.TRAINING}
    leading.iterate()
    assert len(world.children) == 2


def test_a_broker_that_does_not_answer_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "RETRY_SECONDS", 0.0)
    unready: list[str] = []
    world.assigned, world.readings = [0], 100
    trainer = world.coordinator()

    def poll(*, wait: bool) -> PollResult:
        unready.append(trainer.unready)
        if len(unready) < 3:
            raise TransientBrokerError("away")
        world.stop.set()
        return World.poll(world, wait=wait)

    monkeypatch.setattr(world, "poll", poll)
    trainer.run()
    assert unready == ["not a member of the trainers' group yet", *["waiting for the broker"] * 2]
    assert not trainer.unready
    assert [child.kind for child in world.children] == [RunKind.TRAINING]
    assert world.children[0].killed, "told to end, it leaves no child behind"


def test_a_first_training_that_came_to_nothing_is_begun_again_after_a_rest_that_grows(world: World) -> None:
    world.assigned, world.readings = [0], 100
    trainer = world.coordinator()
    begun = []
    for second in range(1_000):
        world.clock.advance(1.0)
        trainer.iterate()
        if world.children[-1].exit is None:
            begun.append(second)
            world.children[-1].exit = ExitKind.FAILED
    assert len(begun) == 5
    assert [round((after - one) / 60) for one, after in pairwise(begun)] == [1, 2, 4, 8]
    world.due = {RunKind.TRAINING}
    trainer.iterate()
    assert len(world.children) == 6, "what the schedule asks for does not wait"


def test_drift_waits_for_the_rest_after_a_run_that_came_to_nothing(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(PROMOTED)
    leading.iterate()
    world.report_drift()
    world.readings = 200
    leading.iterate()
    world.children[1].exit = ExitKind.KILLED
    for _ in range(5):
        leading.iterate()
    assert len(world.children) == 2
    world.clock.advance(coordinator.FIRST_BACKOFF_SECONDS + 1.0)
    leading.iterate()
    assert len(world.children) == 3


def test_what_is_due_is_not_forgotten_while_the_broker_is_away(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(PROMOTED)
    leading.iterate()
    world.readings, world.due, world.away = 200, {RunKind.READOUT}, True
    with pytest.raises(TransientBrokerError):
        leading.iterate()
    world.away = False
    leading.iterate()
    assert [child.kind for child in world.children] == [RunKind.TRAINING, RunKind.READOUT]


def test_a_decision_that_never_comes_back_from_the_topic_is_not_waited_for_for_ever(
    world: World, leading: TrainingCoordinator
) -> None:
    world.children[0].finish(REJECTED)
    leading.iterate()
    world.registry = ModelRegistry()
    world.readings, world.due = 200, {RunKind.TRAINING}
    leading.iterate()
    assert len(world.children) == 1
    world.clock.advance(coordinator.DECISION_SECONDS + 1.0)
    leading.iterate()
    assert len(world.children) == 2


def test_a_disk_that_is_full_ends_the_run_and_not_the_trainer(
    world: World, leading: TrainingCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.children[0].exit = ExitKind.OK  # and has left nothing
    leading.iterate()
    assert leading.counters["training_not_readable"] == 1

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    for _ in range(1_100):
        world.due = {RunKind.TRAINING}
        leading.iterate()
    assert leading.counters["training_not_begun"] == 1_100, "for weeks, if it must be"
    monkeypatch.undo()

    def unwritable(*_: object) -> None:
        raise CheckpointError("the checkpoint cannot be written")

    world.champion, world.due = "body", {RunKind.TRAINING}
    monkeypatch.setattr(coordinator, "write_checkpoint", unwritable)
    leading.iterate()
    assert leading.counters["training_not_begun"] == 1_101
    monkeypatch.undo()
    world.due = {RunKind.TRAINING}
    leading.iterate()
    assert len(world.children) == 2


def test_a_readout_that_comes_to_nothing_or_well_leaves_the_rest_of_trainings_as_it_is(
    world: World, leading: TrainingCoordinator
) -> None:
    world.children[0].finish(PROMOTED)
    leading.iterate()
    world.report_drift()
    world.readings = 200
    leading.iterate()
    world.children[1].exit = ExitKind.FAILED
    leading.iterate()
    for how in (ExitKind.FAILED, ExitKind.OK):
        world.readings, world.due = world.readings + 100, {RunKind.READOUT}
        leading.iterate()
        assert world.children[-1].kind == RunKind.READOUT
        if how == ExitKind.OK:
            world.children[-1].finish(REJECTED)
        world.children[-1].exit = how
        for _ in range(3):
            leading.iterate()
        assert len(world.children) == (3 if how == ExitKind.FAILED else 4), "drift waits for the rest still"
    world.clock.advance(coordinator.FIRST_BACKOFF_SECONDS + 1.0)
    leading.iterate()
    assert world.children[-1].kind == RunKind.TRAINING, (
        "one failed training, one minute: the readouts count for nothing"
    )
