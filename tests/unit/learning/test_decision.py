"""When the trainer works, and on what."""

from __future__ import annotations

import pytest

from forecaster.core.network.model import GENESIS
from forecaster.learning.decision import Known, Rules, next_work
from forecaster.learning.schedule import Work

RULES = Rules(min_readings=100, min_new_ticks=10)
BOTH = {Work.TRAINING, Work.READOUT}


def known(readings: int, champion: str = "body", trained_at: int | None = 0, *, drifted: bool = False) -> Known:
    return Known(champion, readings, {} if trained_at is None else dict.fromkeys(Work, trained_at), drifted)


def test_the_first_training_waits_for_readings_and_for_no_schedule() -> None:
    assert next_work(RULES, known(99, GENESIS, None), BOTH).work is None
    assert next_work(RULES, known(100, GENESIS, None), set()).work == Work.TRAINING


def test_a_first_training_that_was_rejected_is_tried_again_when_the_schedule_says_so() -> None:
    assert next_work(RULES, known(150, GENESIS, 100), set()).work is None
    assert next_work(RULES, known(150, GENESIS, 100), {Work.TRAINING}).work == Work.TRAINING
    assert next_work(RULES, known(150, GENESIS, 100), {Work.READOUT}).work is None, "there is no body to solve for"


def test_what_is_due_without_enough_that_is_new_is_skipped_and_said() -> None:
    following = next_work(RULES, known(209, trained_at=200), BOTH)
    assert following.work is None
    assert set(following.skipped) == BOTH


@pytest.mark.parametrize(("due", "work"), [(BOTH, Work.TRAINING), ({Work.READOUT}, Work.READOUT), (set(), None)])
def test_what_is_due_is_done_a_training_first(due: set[Work], work: Work | None) -> None:
    assert next_work(RULES, known(300), due).work == work


def test_what_is_off_is_never_done() -> None:
    readouts_only = Rules(min_readings=100, min_new_ticks=10, works=frozenset([Work.READOUT]))
    assert next_work(readouts_only, known(500, GENESIS, None, drifted=True), set()).work is None
    assert next_work(readouts_only, known(500, drifted=True), set()).work is None
    assert next_work(readouts_only, known(500), {Work.READOUT}).work == Work.READOUT


def test_drift_brings_the_training_forward_once_there_is_enough_that_is_new() -> None:
    assert next_work(RULES, known(209, trained_at=200, drifted=True), set()).work is None
    assert next_work(RULES, known(209, trained_at=200, drifted=True), set()).skipped == ()
    following = next_work(RULES, known(210, trained_at=200, drifted=True), set())
    assert following.work == Work.TRAINING
    assert "drift" in following.why
