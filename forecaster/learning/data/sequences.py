"""Training sequences: the very steps that serving would have made, by series and between restarts and long gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from forecaster.core.network.features import StepInputs, calendar, cross_inputs
from forecaster.core.series.observe import Observed
from forecaster.learning.data.groups import SeriesGroups
from forecaster.records import I64

F32 = NDArray[np.float32]

SHORTEST = 2
"""A sequence of one step has no target."""
LONGEST_GAP = 2
"""A gap of more contexts begins a sequence: it shows nothing of what was before, and its ticks would fill memory."""


@dataclass(frozen=True, slots=True)
class _Steps:
    """Columns of the steps of one wave, or of all; `context` only of those that begin a sequence."""

    row: I64
    tick: I64
    restarted: NDArray[np.bool_]
    reference: NDArray[np.float64]
    time_ms: I64
    interval_ms: I64
    gap: F32
    last: F32
    scale: F32
    levels: F32
    masked: F32
    group: F32
    cross: F32
    values: F32
    truth: F32


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """T steps of one series without a restart or a long gap, and what came true on its grid.

    Attributes:
        row: of its series.
        inputs: of each step, but for the context, which the grid holds; (T, ...).
        place: where in the grid each step stands; (T,).
        time_ms: event time of each step; (T,).
        interval_ms: spacing of the grid.
        grid: denoised inputs by tick; NaN where there was none; it begins a context before the first step.
        truth: raw truths by tick, minus the origin, NaN where there was none or the filters mask it: nobody learns to
            forecast a spike; the same length.
        cross: what the other series of the group did, one by one; (T, X).
    """

    row: int
    inputs: StepInputs
    place: I64
    time_ms: I64
    interval_ms: int
    grid: F32
    truth: F32
    cross: F32

    def __len__(self) -> int:
        return len(self.place)

    def before(self, time_ms: int) -> TrainingSequence:
        """Returns the steps whose stamps surely lie before `time_ms`: half an interval after their tick, at most."""
        count = int(np.searchsorted(self.time_ms, time_ms - self.interval_ms // 2, side="right"))
        names = [name for name in StepInputs.__slots__ if name != "context"]
        inputs = replace(self.inputs, **{name: getattr(self.inputs, name)[:count] for name in names})
        ticks = int(self.place[count - 1]) + 1 if count else 0
        return replace(
            self,
            inputs=inputs,
            place=self.place[:count],
            time_ms=self.time_ms[:count],
            grid=self.grid[:ticks],
            truth=self.truth[:ticks],
            cross=self.cross[:count],
        )


def before(sequences: Sequence[TrainingSequence], time_ms: int) -> list[TrainingSequence]:
    """Returns what the sequences had been at `time_ms`: every step rests on the readings up to it alone."""
    return in_order([cut for sequence in sequences if len(cut := sequence.before(time_ms)) >= SHORTEST])


def in_order(sequences: Sequence[TrainingSequence]) -> list[TrainingSequence]:
    """Returns the longest first; those of one length in the order of their series and time."""
    return sorted(sequences, key=lambda one: (-len(one), one.row, int(one.time_ms[0])))


class SequencesBuilder:
    """Collects observed waves until they are cut into sequences.

    Args:
        context: ticks of inputs that are kept.
        members: who is whose neighbour; None = no series sees another.
    """

    def __init__(self, context: int, members: SeriesGroups | None = None) -> None:
        self._context = context
        self._members = members
        self._waves: list[_Steps] = []
        self._begins: list[F32] = []
        self._seen: set[int] = set()

    def add(self, row: I64, observed: Observed) -> None:
        """The steps of the wave will be in the sequences.

        Args:
            row: of each step's series; (M,).
            observed: the wave; its context may be a view that the next wave overwrites.
        """
        inputs = observed.inputs
        first = ~np.isin(row, list(self._seen))
        self._seen.update(row[first].tolist())
        begins = observed.restarted | observed.moved | first  # a series may begin with readings that are no steps
        begins |= observed.gap > LONGEST_GAP * self._context
        self._begins.append(inputs.context[begins].copy())
        self._waves.append(
            _Steps(
                row.copy(),
                observed.tick,
                begins,
                observed.reference.copy(),
                observed.time_ms,
                observed.interval_ms,
                gap=inputs.gap.copy(),
                last=inputs.last.copy(),
                scale=inputs.scale.copy(),
                levels=inputs.levels.copy(),
                masked=inputs.masked.copy(),
                group=inputs.group.copy(),
                cross=self._cross(row, observed),
                values=observed.values.astype(np.float32),
                truth=np.where(np.isnan(observed.values), np.nan, observed.truth).astype(np.float32),
            )
        )

    def _cross(self, row: I64, observed: Observed) -> F32:
        members = self._members
        if members is None:
            return np.zeros((len(row), 0), np.float32)
        return cross_inputs(observed.inputs, observed.records, members.member[row], members.size)

    def build(self) -> list[TrainingSequence]:
        """Returns the sequences, the longest first."""
        if not self._waves:
            return []
        columns = zip(*([getattr(wave, name) for name in _Steps.__slots__] for wave in self._waves), strict=True)
        steps = _Steps(*(np.concatenate(column) for column in columns))
        begins = np.concatenate(self._begins)
        context = np.zeros(len(steps.row), np.int64)
        context[steps.restarted] = np.arange(len(begins))
        order = np.argsort(steps.row, kind="stable")
        cuts = np.flatnonzero(steps.restarted[order] | (np.diff(steps.row[order], prepend=-1) != 0))
        parts = np.split(order, cuts[1:])
        return in_order(
            [self._sequence(steps, part, begins[context[part[0]]]) for part in parts if len(part) >= SHORTEST]
        )

    def _sequence(self, steps: _Steps, part: I64, context: F32) -> TrainingSequence:
        lead = self._context - 1
        shift = steps.reference[part] - steps.reference[part[-1]]  # the origin of first readings may move
        place = steps.tick[part] - steps.tick[part[0]] + lead
        grid = np.full(place[-1] + 1, np.nan, np.float32)
        truth = grid.copy()
        grid[: lead + 1] = context[::-1] + shift[0]
        grid[place] = steps.values[part] + shift
        truth[place] = steps.truth[part] + shift
        inputs = StepInputs(
            context=None,
            last=(steps.last[part] + shift).astype(np.float32),
            scale=steps.scale[part],
            levels=(steps.levels[part] + shift[:, None]).astype(np.float32),
            calendar=calendar(steps.time_ms[part]),
            masked=steps.masked[part],
            gap=steps.gap[part],
            group=steps.group[part],
        )
        return TrainingSequence(
            row=int(steps.row[part[0]]),
            inputs=inputs,
            place=place,
            time_ms=steps.time_ms[part],
            interval_ms=int(steps.interval_ms[part[0]]),
            grid=grid,
            truth=truth,
            cross=steps.cross[part],
        )
