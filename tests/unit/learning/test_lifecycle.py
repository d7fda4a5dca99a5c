"""The phases of the training coordinator change only as its life cycle allows."""

from __future__ import annotations

import itertools

import pytest
from coordinators import PROMOTED, REJECTED, World

from forecaster.learning.child_process import ExitKind
from forecaster.learning.coordinator import FIRST_BACKOFF_SECONDS, TrainingCoordinator
from forecaster.learning.kinds import RunKind
from forecaster.learning.lifecycle import ALLOWED, CoordinatorPhase
from forecaster.lifecycle import InvalidTransition


@pytest.mark.parametrize(("phase", "next_phase"), list(itertools.product(CoordinatorPhase, repeat=2)))
def test_a_phase_changes_only_to_those_it_leads_to(phase: CoordinatorPhase, next_phase: CoordinatorPhase) -> None:
    if next_phase in ALLOWED[phase]:
        assert phase.to(next_phase) is next_phase
    else:
        with pytest.raises(InvalidTransition, match=f"is {phase}: it cannot become {next_phase}"):
            phase.to(next_phase)


def test_a_decision_leads_from_a_run_to_the_next_one(world: World, leading: TrainingCoordinator) -> None:
    assert phase_of(leading) is CoordinatorPhase.RUNNING
    world.children[0].finish(PROMOTED)
    leading.iterate()
    assert phase_of(leading) is CoordinatorPhase.AWAITING_DECISION
    leading.iterate()
    assert phase_of(leading) is CoordinatorPhase.IDLE
    world.readings, world.due = 200, {RunKind.TRAINING}
    leading.iterate()
    assert phase_of(leading) is CoordinatorPhase.RUNNING


def test_a_failed_training_backs_off_until_its_pause_is_over(world: World, leading: TrainingCoordinator) -> None:
    world.children[0].finish(REJECTED)
    leading.iterate()
    world.readings, world.due = 200, {RunKind.TRAINING}
    leading.iterate()
    world.children[1].exit = ExitKind.FAILED
    leading.iterate()
    assert phase_of(leading) is CoordinatorPhase.BACKING_OFF
    leading.iterate()
    assert phase_of(leading) is CoordinatorPhase.BACKING_OFF
    world.clock.advance(FIRST_BACKOFF_SECONDS)
    leading.iterate()
    assert phase_of(leading) is CoordinatorPhase.IDLE


def test_a_deposed_coordinator_still_backs_off_when_it_is_elected_again(
    world: World, leading: TrainingCoordinator
) -> None:
    world.children[0].exit = ExitKind.FAILED
    leading.iterate()
    world.revoked = [0]
    leading.iterate()
    assert phase_of(leading) is CoordinatorPhase.NOT_ELECTED
    world.assigned = [0]
    leading.iterate()
    assert phase_of(leading) is CoordinatorPhase.BACKING_OFF


def phase_of(coordinator: TrainingCoordinator) -> CoordinatorPhase:
    return coordinator._phase  # noqa: SLF001 - the law is about it
