"""Failed runs: the coordinator continues, backs off where that helps, and forgets no due run."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from coordinators import PROMOTED, REJECTED, World
from structlog.testing import capture_logs

from forecaster.errors import CheckpointError, TransientBrokerError
from forecaster.learning import coordinator as coordinator_module
from forecaster.learning.child_process import ExitKind
from forecaster.learning.coordinator import TrainingCoordinator
from forecaster.learning.kinds import RunKind
from forecaster.records import PollResult
from forecaster.registry.registry import ModelRegistry


def test_a_refused_transaction_promotes_nothing_and_restarts_the_producer(
    world: World, leading: TrainingCoordinator
) -> None:
    world.children[0].finish(PROMOTED)
    world.fails = True
    with capture_logs() as logs:
        leading.iterate()
    levels = {log["event"]: (log["log_level"], log.get("outcome")) for log in logs}
    assert levels["training_run_decided"] == ("warning", "not_published")
    assert world.restarts == 1
    assert leading.counters["training_not_published"] == 1
    assert world.registry.serve is None


@pytest.mark.parametrize("ended", [ExitKind.KILLED, ExitKind.FAILED])
def test_a_child_that_hangs_or_dies_is_counted_and_followed_by_another(
    world: World, leading: TrainingCoordinator, ended: ExitKind
) -> None:
    """The next run starts when it is due."""
    world.children[0].exit = ended
    leading.iterate()
    assert leading.counters[f"training_{ended}"] == 1
    world.readings, world.due = 120, {RunKind.TRAINING}
    leading.iterate()
    assert len(world.children) == 2


def test_a_broker_that_does_not_answer_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_module, "RETRY_SECONDS", 0.0)
    unready: list[str] = []
    world.assigned, world.readings = [0], 100
    coordinator = world.coordinator()

    def poll(*, wait: bool) -> PollResult:
        unready.append(coordinator.unready)
        if len(unready) < 3:
            raise TransientBrokerError("away")
        world.stop.set()
        return World.poll(world, wait=wait)

    monkeypatch.setattr(world, "poll", poll)
    coordinator.run()
    assert unready == ["not a member of the trainers' group yet", *["waiting for the broker"] * 2]
    assert not coordinator.unready
    assert [child.kind for child in world.children] == [RunKind.TRAINING]
    assert world.children[0].killed, "a coordinator that ends leaves no child behind"


def test_a_process_outside_the_trainers_group_is_not_ready_and_starts_nothing(world: World) -> None:
    world.assigned, world.readings = [0], 100
    world.is_stable = False
    coordinator = world.coordinator()
    for is_stable, reason in ((False, "not a member"), (True, ""), (False, "not a member")):
        world.is_stable = is_stable
        coordinator.iterate()
        assert coordinator.unready.startswith(reason)
        assert bool(coordinator.unready) != is_stable
    assert len(world.children) == 1


def test_a_trainer_whose_brokers_have_other_addresses_makes_its_producer_anew(world: World) -> None:
    coordinator = world.coordinator()
    world.reconnected = True
    coordinator.iterate()
    coordinator.iterate()
    assert world.restarts == 1


def test_a_failed_first_training_is_repeated_after_growing_pauses(world: World) -> None:
    """A run that the schedule asks for does not wait."""
    world.assigned, world.readings = [0], 100
    coordinator = world.coordinator()
    started = []
    for second in range(1_000):
        world.clock.advance(1.0)
        coordinator.iterate()
        if world.children[-1].exit is None:
            started.append(second)
            world.children[-1].exit = ExitKind.FAILED
    assert len(started) == 5
    assert [round((after - before) / 60) for before, after in pairwise(started)] == [1, 2, 4, 8]
    world.due = {RunKind.TRAINING}
    coordinator.iterate()
    assert len(world.children) == 6, "a scheduled run does not wait"


def test_drift_waits_for_the_pause_after_a_failed_training(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(PROMOTED)
    leading.iterate()
    world.report_drift()
    world.readings = 200
    leading.iterate()
    world.children[1].exit = ExitKind.KILLED
    for _ in range(5):
        leading.iterate()
    assert len(world.children) == 2
    world.clock.advance(coordinator_module.FIRST_BACKOFF_SECONDS + 1.0)
    leading.iterate()
    assert len(world.children) == 3


def test_a_due_run_stays_due_while_the_broker_is_away(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(PROMOTED)
    leading.iterate()
    world.readings, world.due, world.away = 200, {RunKind.REFIT}, True
    with pytest.raises(TransientBrokerError):
        leading.iterate()
    world.away = False
    leading.iterate()
    assert [child.kind for child in world.children] == [RunKind.TRAINING, RunKind.REFIT]


def test_the_wait_for_a_decision_to_be_read_back_has_an_end(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(REJECTED)
    leading.iterate()
    world.registry = ModelRegistry()
    world.readings, world.due = 200, {RunKind.TRAINING}
    leading.iterate()
    assert len(world.children) == 1
    world.clock.advance(coordinator_module.DECISION_SECONDS + 1.0)
    leading.iterate()
    assert len(world.children) == 2


def test_a_full_disk_fails_the_run_and_not_the_coordinator(
    world: World, leading: TrainingCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.children[0].exit = ExitKind.OK  # without a result
    leading.iterate()
    assert leading.counters["training_not_readable"] == 1

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    for _ in range(1_100):
        world.due = {RunKind.TRAINING}
        leading.iterate()
    assert leading.counters["training_not_begun"] == 1_100, "however often it fails"
    monkeypatch.undo()

    def unwritable(*_: object) -> None:
        raise CheckpointError("the checkpoint cannot be written")

    world.champion, world.due = "body", {RunKind.TRAINING}
    monkeypatch.setattr(coordinator_module, "write_checkpoint", unwritable)
    leading.iterate()
    assert leading.counters["training_not_begun"] == 1_101
    monkeypatch.undo()
    world.due = {RunKind.TRAINING}
    leading.iterate()
    assert len(world.children) == 2


def test_runs_of_the_readout_do_not_change_the_pause_of_trainings(world: World, leading: TrainingCoordinator) -> None:
    """Neither a failed nor a successful one does."""
    world.children[0].finish(PROMOTED)
    leading.iterate()
    world.report_drift()
    world.readings = 200
    leading.iterate()
    world.children[1].exit = ExitKind.FAILED
    leading.iterate()
    for exit_kind in (ExitKind.FAILED, ExitKind.OK):
        world.readings, world.due = world.readings + 100, {RunKind.REFIT}
        leading.iterate()
        assert world.children[-1].kind == RunKind.REFIT
        if exit_kind == ExitKind.OK:
            world.children[-1].finish(REJECTED)
        world.children[-1].exit = exit_kind
        for _ in range(3):
            leading.iterate()
        assert len(world.children) == (3 if exit_kind == ExitKind.FAILED else 4), "drift still waits for the pause"
    world.clock.advance(coordinator_module.FIRST_BACKOFF_SECONDS + 1.0)
    leading.iterate()
    assert world.children[-1].kind == RunKind.TRAINING, "one failed training, one minute: the readouts do not count"
