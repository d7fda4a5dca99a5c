"""When the trainer works, and on what: one pure decision."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from forecaster.core.network.model import NO_CHECKPOINT
from forecaster.learning.schedule import RunKind


@dataclass(frozen=True, slots=True)
class TrainingRules:
    """What is done, and how much must be there.

    Attributes:
        min_readings: before a first training.
        min_new_ticks: new readings before another run.
        works: what is done at all.
    """

    min_readings: int
    min_new_ticks: int
    works: frozenset[RunKind] = frozenset(RunKind)


@dataclass(slots=True)
class TrainerState:
    """What the decision rests on.

    Attributes:
        champion: id of the checkpoint that serves; `none` = before any training.
        readings: in the history topic so far.
        at: how many there were when each kind of work was last done; missing = never.
        has_drifted: the live loss has, since the last training.
        is_resting: a training has come to nothing not long ago: until the rest is over only what is due is done.
    """

    champion: str
    readings: int
    at: dict[RunKind, int] = field(default_factory=dict)
    has_drifted: bool = False
    is_resting: bool = False

    def new(self, work: RunKind) -> int:
        """Returns how many readings have come since the work was last done."""
        return self.readings - self.at.get(work, 0)


@dataclass(frozen=True, slots=True)
class NextRun:
    """What to do now (None = nothing), why, and what was due and is skipped for want of new readings."""

    work: RunKind | None
    why: str = ""
    skipped: tuple[RunKind, ...] = ()


def next_run(rules: TrainingRules, known: TrainerState, due: Collection[RunKind]) -> NextRun:
    """Returns what the trainer does next.

    The first training does not wait for the schedule; drift brings the next one forward. A training makes a new
    readout, too, so that it goes first.

    Args:
        rules: how much must be there.
        known: what is there.
        due: what the schedule asks for.
    """
    if known.readings < rules.min_readings:
        return NextRun(None)
    trains = RunKind.TRAINING in rules.works
    unasked = trains and not known.is_resting
    if unasked and known.champion == NO_CHECKPOINT and RunKind.TRAINING not in known.at:
        return NextRun(RunKind.TRAINING, "the first readings are there")
    wanted = [RunKind.TRAINING] if (unasked and known.has_drifted) or (trains and RunKind.TRAINING in due) else []
    if RunKind.READOUT in due and known.champion != NO_CHECKPOINT:
        wanted.append(RunKind.READOUT)
    skipped = tuple(work for work in wanted if known.new(work) < rules.min_new_ticks)
    ready = [work for work in wanted if work not in skipped]
    if not ready:
        return NextRun(None, skipped=tuple(work for work in skipped if work in due))
    why = (
        "the live loss has drifted" if ready[0] == RunKind.TRAINING and ready[0] not in due else "the schedule says so"
    )
    return NextRun(ready[0], why, tuple(work for work in skipped if work in due))
