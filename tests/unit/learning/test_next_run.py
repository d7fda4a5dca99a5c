"""When a run starts, and of which kind."""

from __future__ import annotations

import pytest

from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.learning.kinds import RunKind
from forecaster.learning.next_run import TrainerState, TrainingRules, next_run

RULES = TrainingRules(min_readings=100, min_new_readings=10)
BOTH = {RunKind.TRAINING, RunKind.REFIT}


def state(readings: int, champion: str = "body", trained_at: int | None = 0, *, drifted: bool = False) -> TrainerState:
    return TrainerState(champion, readings, {} if trained_at is None else dict.fromkeys(RunKind, trained_at), drifted)


def test_the_first_training_waits_for_readings_not_for_the_schedule() -> None:
    assert next_run(RULES, state(99, NO_CHECKPOINT, None), BOTH).kind is None
    assert next_run(RULES, state(100, NO_CHECKPOINT, None), set()).kind == RunKind.TRAINING


def test_a_rejected_first_training_is_repeated_when_it_is_due() -> None:
    """Until then nothing serves, so that there is no body to solve a readout for."""
    assert next_run(RULES, state(150, NO_CHECKPOINT, 100), set()).kind is None
    assert next_run(RULES, state(150, NO_CHECKPOINT, 100), {RunKind.TRAINING}).kind == RunKind.TRAINING
    assert next_run(RULES, state(150, NO_CHECKPOINT, 100), {RunKind.REFIT}).kind is None, (
        "there is no body to solve a readout for"
    )


def test_a_due_run_without_enough_new_readings_is_skipped() -> None:
    upcoming = next_run(RULES, state(209, trained_at=200), BOTH)
    assert upcoming.kind is None
    assert set(upcoming.skipped) == BOTH


@pytest.mark.parametrize(("due", "kind"), [(BOTH, RunKind.TRAINING), ({RunKind.REFIT}, RunKind.REFIT), (set(), None)])
def test_of_due_runs_a_training_goes_first(due: set[RunKind], kind: RunKind | None) -> None:
    assert next_run(RULES, state(300), due).kind == kind


def test_a_kind_of_run_that_is_off_never_starts() -> None:
    readouts_only = TrainingRules(min_readings=100, min_new_readings=10, kinds=frozenset([RunKind.REFIT]))
    assert next_run(readouts_only, state(500, NO_CHECKPOINT, None, drifted=True), set()).kind is None
    assert next_run(readouts_only, state(500, drifted=True), set()).kind is None
    assert next_run(readouts_only, state(500), {RunKind.REFIT}).kind == RunKind.REFIT


def test_drift_starts_a_training_once_enough_readings_are_new() -> None:
    assert next_run(RULES, state(209, trained_at=200, drifted=True), set()).kind is None
    assert next_run(RULES, state(209, trained_at=200, drifted=True), set()).skipped == ()
    upcoming = next_run(RULES, state(210, trained_at=200, drifted=True), set())
    assert upcoming.kind == RunKind.TRAINING
    assert "drift" in upcoming.reason
