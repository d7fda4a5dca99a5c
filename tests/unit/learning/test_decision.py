"""When the trainer works, and on what."""

from __future__ import annotations

import pytest

from forecaster.core.network.model import NO_CHECKPOINT
from forecaster.learning.decision import TrainerState, TrainingRules, next_run
from forecaster.learning.schedule import RunKind

RULES = TrainingRules(min_readings=100, min_new_ticks=10)
BOTH = {RunKind.TRAINING, RunKind.READOUT}


def known(readings: int, champion: str = "body", trained_at: int | None = 0, *, drifted: bool = False) -> TrainerState:
    return TrainerState(champion, readings, {} if trained_at is None else dict.fromkeys(RunKind, trained_at), drifted)


def test_the_first_training_waits_for_readings_and_for_no_schedule() -> None:
    assert next_run(RULES, known(99, NO_CHECKPOINT, None), BOTH).kind is None
    assert next_run(RULES, known(100, NO_CHECKPOINT, None), set()).kind == RunKind.TRAINING


def test_a_first_training_that_was_rejected_is_tried_again_when_the_schedule_says_so() -> None:
    assert next_run(RULES, known(150, NO_CHECKPOINT, 100), set()).kind is None
    assert next_run(RULES, known(150, NO_CHECKPOINT, 100), {RunKind.TRAINING}).kind == RunKind.TRAINING
    assert next_run(RULES, known(150, NO_CHECKPOINT, 100), {RunKind.READOUT}).kind is None, (
        "there is no body to solve for"
    )


def test_what_is_due_without_enough_that_is_new_is_skipped_and_said() -> None:
    following = next_run(RULES, known(209, trained_at=200), BOTH)
    assert following.kind is None
    assert set(following.skipped) == BOTH


@pytest.mark.parametrize(
    ("due", "kind"), [(BOTH, RunKind.TRAINING), ({RunKind.READOUT}, RunKind.READOUT), (set(), None)]
)
def test_what_is_due_is_done_a_training_first(due: set[RunKind], kind: RunKind | None) -> None:
    assert next_run(RULES, known(300), due).kind == kind


def test_what_is_off_is_never_done() -> None:
    readouts_only = TrainingRules(min_readings=100, min_new_ticks=10, kinds=frozenset([RunKind.READOUT]))
    assert next_run(readouts_only, known(500, NO_CHECKPOINT, None, drifted=True), set()).kind is None
    assert next_run(readouts_only, known(500, drifted=True), set()).kind is None
    assert next_run(readouts_only, known(500), {RunKind.READOUT}).kind == RunKind.READOUT


def test_drift_brings_the_training_forward_once_there_is_enough_that_is_new() -> None:
    assert next_run(RULES, known(209, trained_at=200, drifted=True), set()).kind is None
    assert next_run(RULES, known(209, trained_at=200, drifted=True), set()).skipped == ()
    following = next_run(RULES, known(210, trained_at=200, drifted=True), set())
    assert following.kind == RunKind.TRAINING
    assert "drift" in following.reason
