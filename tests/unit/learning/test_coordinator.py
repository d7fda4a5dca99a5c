"""Only the elected coordinator trains, and a deposed one publishes nothing."""

from __future__ import annotations

from builders import random_checkpoint
from coordinators import CHALLENGER, CONFIG, PROMOTED, REJECTED, World

from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.learning.coordinator import TrainingCoordinator
from forecaster.learning.kinds import RunKind


def test_a_coordinator_that_is_not_elected_starts_no_run(world: World) -> None:
    world.readings = 10_000
    world.coordinator().iterate()
    assert not world.children


def test_a_promotion_is_published_and_served_in_one_transaction(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(PROMOTED)
    leading.iterate()
    assert len(world.transactions) == 1
    assert world.transactions[0].offsets == {0: 0}, (
        "the offset carries the membership, which fences a deposed coordinator"
    )
    assert world.registry.serve is not None
    assert world.registry.serve.checkpoint == CHALLENGER.id
    assert world.registry.serve.previous == NO_CHECKPOINT
    assert set(world.registry.checkpoints) == {CHALLENGER.id}
    assert world.registry.decisions[CHALLENGER.id].challenger_loss == 0.5
    assert leading.counters["training_promoted"] == 1


def test_a_rejection_leaves_both_losses_and_nothing_else(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(REJECTED)
    leading.iterate()
    assert world.registry.serve is None
    assert not world.registry.checkpoints
    decision = world.registry.decisions[CHALLENGER.id]
    assert (decision.promoted, decision.challenger_loss, decision.champion_loss) == (False, 0.95, 0.9)


def test_a_deposed_coordinator_kills_its_child_and_publishes_nothing(
    world: World, leading: TrainingCoordinator
) -> None:
    world.children[0].finish(PROMOTED)
    world.revoked = [0]
    leading.iterate()
    leading.iterate()
    assert world.children[0].killed
    assert not world.transactions


def test_a_result_is_dropped_when_another_champion_serves_meanwhile(world: World, leading: TrainingCoordinator) -> None:
    world.champion = "promoted-by-hand"
    world.children[0].finish(PROMOTED)
    leading.iterate()
    assert not world.transactions
    assert leading.counters["training_overtaken"] == 1


def test_reported_drift_brings_the_next_training_forward_once(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(PROMOTED)
    leading.iterate()
    leading.iterate()
    assert len(world.children) == 1
    world.report_drift()
    world.readings = 200
    leading.iterate()
    assert len(world.children) == 2
    world.children[1].finish(REJECTED)
    leading.iterate()
    world.readings = 300
    leading.iterate()
    assert len(world.children) == 2


def test_the_child_finds_the_champion_in_its_folder(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(PROMOTED)
    leading.iterate()
    world.readings, world.due = 200, {RunKind.REFIT}
    leading.iterate()
    assert world.children[1].kind == RunKind.REFIT
    assert [path.name for path in (world.children[1].folder / "champion").iterdir()] == [random_checkpoint(CONFIG).id]


def test_a_coordinator_that_is_elected_again_repeats_its_dropped_run(
    world: World, leading: TrainingCoordinator
) -> None:
    world.revoked = [0]
    leading.iterate()
    world.assigned = [0]
    leading.iterate()
    assert len(world.children) == 2


def test_the_backlog_of_a_new_leader_counts_as_old_readings(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(REJECTED)
    leading.iterate()
    world.assigned, world.is_current = [0], False
    heir = world.coordinator()
    for readings in (0, 5_000, 10_000):
        world.readings, world.due = readings, {RunKind.TRAINING}
        heir.iterate()
    world.is_current = True
    heir.iterate()
    world.due = {RunKind.TRAINING}
    heir.iterate()
    assert len(world.children) == 1
    world.readings, world.due = 10_010, {RunKind.TRAINING}
    heir.iterate()
    assert len(world.children) == 2


def test_readings_between_two_elections_count_as_a_backlog(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(REJECTED)
    leading.iterate()
    world.revoked = [0]
    leading.iterate()
    world.assigned, world.is_current, world.readings, world.due = [0], False, 5_000, {RunKind.TRAINING}
    leading.iterate()
    assert world.counted_from == 5_000
    world.is_current, world.readings = True, 6_000
    leading.iterate()
    world.due = {RunKind.TRAINING}
    leading.iterate()
    assert len(world.children) == 1
    world.readings, world.due = 6_010, {RunKind.TRAINING}
    leading.iterate()
    assert len(world.children) == 2


def test_a_new_leader_does_not_repeat_the_training_of_the_old_one(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(REJECTED)
    leading.iterate()
    world.assigned = [0]
    heir = world.coordinator()
    heir.iterate()
    assert len(world.children) == 1
    world.due = {RunKind.TRAINING}
    heir.iterate()
    assert len(world.children) == 1
    world.readings, world.due = 110, {RunKind.TRAINING}
    heir.iterate()
    assert len(world.children) == 2
