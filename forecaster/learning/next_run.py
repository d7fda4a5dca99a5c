"""The next run of the trainer: a pure decision by rules, state and schedule."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.learning.kinds import RunKind


@dataclass(frozen=True, slots=True)
class TrainingRules:
    """Conditions of a run.

    Attributes:
        min_readings: least number of readings in the history topic.
        min_new_readings: least number of readings since the last run of the same kind.
        kinds: kinds of runs that are not switched off.
    """

    min_readings: int
    min_new_readings: int
    kinds: frozenset[RunKind] = frozenset(RunKind)


@dataclass(slots=True)
class TrainerState:
    """Knowledge of the trainer when it decides about its next run.

    Attributes:
        champion: id of the champion; `none` before any training.
        readings: number of readings in the history topic so far.
        readings_at: that number when a run of each kind last started; a missing kind has never run.
        has_drifted: True if a worker has reported drift since the last training.
        is_backing_off: True for a while after a failed training: only scheduled runs start.
    """

    champion: str
    readings: int
    readings_at: dict[RunKind, int] = field(default_factory=dict)
    has_drifted: bool = False
    is_backing_off: bool = False

    def new_readings(self, kind: RunKind) -> int:
        """Return how many readings have come since a run of this kind last started."""
        return self.readings - self.readings_at.get(kind, 0)

    def mark_started(self, kind: RunKind) -> dict[RunKind, int]:
        """Record that a run starts now; return the `readings_at` of before, which a failed run restores."""
        before = dict(self.readings_at)
        self.readings_at[kind] = self.readings
        if kind == RunKind.TRAINING:  # a training fits a new readout, too
            self.readings_at[RunKind.REFIT] = self.readings
        return before


@dataclass(frozen=True, slots=True)
class NextRun:
    """Decision about the run to start now.

    Attributes:
        kind: kind of the run; None = no run.
        reason: explanation for people.
        skipped: kinds that were due, and are skipped because too few readings are new.
    """

    kind: RunKind | None
    reason: str = ""
    skipped: tuple[RunKind, ...] = ()


def next_run(rules: TrainingRules, state: TrainerState, due: Collection[RunKind]) -> NextRun:
    """Return the run that the trainer starts next.

    The first training does not wait for the schedule, and drift brings the next training forward. A training goes
    before a refit, because it fits a new readout as well.

    Args:
        rules: conditions of a run.
        state: knowledge of the trainer.
        due: kinds that the schedule asks for.
    """
    if state.readings < rules.min_readings:
        return NextRun(None)
    trains = RunKind.TRAINING in rules.kinds
    may_start_unscheduled = trains and not state.is_backing_off
    if may_start_unscheduled and state.champion == NO_CHECKPOINT and RunKind.TRAINING not in state.readings_at:
        return NextRun(RunKind.TRAINING, "there are enough readings for a first training")
    has_drifted = may_start_unscheduled and state.has_drifted
    wanted = [RunKind.TRAINING] if has_drifted or (trains and RunKind.TRAINING in due) else []
    if RunKind.REFIT in due and state.champion != NO_CHECKPOINT:
        wanted.append(RunKind.REFIT)
    ready = [kind for kind in wanted if state.new_readings(kind) >= rules.min_new_readings]
    skipped = tuple(kind for kind in wanted if kind in due and kind not in ready)
    if not ready:
        return NextRun(None, skipped=skipped)
    return NextRun(ready[0], "it is scheduled" if ready[0] in due else "the live loss has drifted", skipped)
