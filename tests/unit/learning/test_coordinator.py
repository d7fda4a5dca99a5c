"""One of all processes trains, and who is deposed publishes nothing."""

from __future__ import annotations

from builders import random_checkpoint
from coordinators import CHALLENGER, CONFIG, PROMOTED, REJECTED, World

from forecaster.core.network.model import NO_CHECKPOINT
from forecaster.learning.coordinator import TrainingCoordinator
from forecaster.learning.schedule import RunKind


def test_who_is_not_elected_does_nothing(world: World) -> None:
    world.readings = 10_000
    world.coordinator().iterate()
    assert not world.children


def test_what_is_promoted_is_published_and_served_in_one_transaction(
    world: World, leading: TrainingCoordinator
) -> None:
    world.children[0].finish(PROMOTED)
    leading.iterate()
    assert len(world.transactions) == 1
    assert world.transactions[0].offsets == {0: 0}, "with it goes our membership, which fences who is deposed"
    assert world.registry.serve is not None
    assert world.registry.serve.checkpoint == CHALLENGER.id
    assert world.registry.serve.previous == NO_CHECKPOINT
    assert set(world.registry.checkpoints) == {CHALLENGER.id}
    assert world.registry.decisions[CHALLENGER.id].challenger_loss == 0.5
    assert leading.counters["training_promoted"] == 1


def test_what_is_rejected_leaves_both_scores_and_nothing_else(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(REJECTED)
    leading.iterate()
    assert world.registry.serve is None
    assert not world.registry.checkpoints
    decision = world.registry.decisions[CHALLENGER.id]
    assert (decision.promoted, decision.challenger_loss, decision.champion_loss) == (False, 0.95, 0.9)


def test_who_is_deposed_ends_its_child_and_publishes_nothing(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(PROMOTED)
    world.revoked = [0]
    leading.iterate()
    leading.iterate()
    assert world.children[0].killed
    assert not world.transactions


def test_what_was_learned_against_another_champion_is_dropped(world: World, leading: TrainingCoordinator) -> None:
    world.champion = "promoted-by-hand"
    world.children[0].finish(PROMOTED)
    leading.iterate()
    assert not world.transactions
    assert leading.counters["training_overtaken"] == 1


def test_drift_that_a_worker_reports_brings_the_next_training_forward_once(
    world: World, leading: TrainingCoordinator
) -> None:
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


def test_the_champion_lies_in_the_childs_folder(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(PROMOTED)
    leading.iterate()
    world.readings, world.due = 200, {RunKind.READOUT}
    leading.iterate()
    assert world.children[1].kind == RunKind.READOUT
    assert [place.name for place in (world.children[1].folder / "champion").iterdir()] == [random_checkpoint(CONFIG).id]


def test_who_is_elected_again_begins_what_it_had_to_drop(world: World, leading: TrainingCoordinator) -> None:
    world.revoked = [0]
    leading.iterate()
    world.assigned = [0]
    leading.iterate()
    assert len(world.children) == 2


def test_the_backlog_of_a_new_leader_is_nothing_new(world: World, leading: TrainingCoordinator) -> None:
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


def test_who_is_elected_again_counts_what_came_meanwhile_as_a_backlog(
    world: World, leading: TrainingCoordinator
) -> None:
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


def test_a_new_leader_does_not_train_again_what_another_one_has_just_trained(
    world: World, leading: TrainingCoordinator
) -> None:
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
