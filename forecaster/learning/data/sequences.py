"""Training sequences: the steps that serving would have made, for each series between restarts and long gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from forecaster.core.network.features import cross_inputs
from forecaster.core.series.observe import Observed
from forecaster.core.series.step_inputs import StepInputs, calendar
from forecaster.learning.data.groups import SeriesGroups
from forecaster.records import F32, F64, I64, Bools

MIN_STEPS = 2
"""A sequence of one step has no target."""
MAX_GAP_CONTEXTS = 2
"""A gap of more contexts than this ends a sequence: the next step sees nothing from before, and ticks take memory."""


@dataclass(frozen=True, slots=True)
class _StepColumns:
    """Columns of the steps of one wave, or of all waves; the contexts are kept apart, for first steps alone.

    Attributes:
        series_index: index of each step's series.
        tick: tick on the grid of the series.
        begins: True if the step begins a sequence.
        reference: reference value of the series; `last`, `levels`, `values` and `truth` are differences to it.
        values: denoised inputs; NaN where there is none.
        truth: raw values; NaN where there is none, or if the filters mask it.
    """

    series_index: I64
    tick: I64
    begins: Bools
    reference: F64
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
    """T steps of one series without a restart or a long gap, and the truths on its grid of G ticks.

    Attributes:
        series_index: index of the series.
        inputs: inputs of each step but for the context, which the grid holds; (T, ...).
        grid_index: index of each step in the grid; (T,).
        time_ms: event time of each step, epoch ms; (T,).
        interval_ms: spacing of the grid.
        grid: denoised inputs by tick, minus the reference; NaN where there is none; begins a context before the first
            step; (G,).
        truth: raw values by tick, minus the reference; NaN where there is none, or if the filters mask it, since
            spikes are not to be forecast; (G,).
        cross: inputs from the other series of the group, one by one; (T, X).
    """

    series_index: int
    inputs: StepInputs
    grid_index: I64
    time_ms: I64
    interval_ms: int
    grid: F32
    truth: F32
    cross: F32

    def __len__(self) -> int:
        return len(self.grid_index)

    def before(self, time_ms: int) -> TrainingSequence:
        """Return the steps whose stamps lie before `time_ms`; a stamp is at most half an interval after its tick."""
        count = int(np.searchsorted(self.time_ms, time_ms - self.interval_ms // 2, side="right"))
        names = [name for name in StepInputs.__slots__ if name != "context"]
        inputs = replace(self.inputs, **{name: getattr(self.inputs, name)[:count] for name in names})
        ticks = int(self.grid_index[count - 1]) + 1 if count else 0
        return replace(
            self,
            inputs=inputs,
            grid_index=self.grid_index[:count],
            time_ms=self.time_ms[:count],
            grid=self.grid[:ticks],
            truth=self.truth[:ticks],
            cross=self.cross[:count],
        )


def sequences_before(sequences: Sequence[TrainingSequence], time_ms: int) -> list[TrainingSequence]:
    """Return the sequences as they were at `time_ms`, in the order of `sort_sequences`.

    A step depends on earlier readings alone, so that a cut sequence equals one that is built from a cut history.
    """
    return sort_sequences([cut for sequence in sequences if len(cut := sequence.before(time_ms)) >= MIN_STEPS])


def sort_sequences(sequences: Sequence[TrainingSequence]) -> list[TrainingSequence]:
    """Return the longest sequences first; those of the same length in the order of their series and time."""
    return sorted(sequences, key=lambda sequence: (-len(sequence), sequence.series_index, int(sequence.time_ms[0])))


class SequencesBuilder:
    """Collects observed waves, and cuts them into sequences.

    Args:
        context: number of ticks that the network sees.
        groups: groups of the series; None = no series sees another.
    """

    def __init__(self, context: int, groups: SeriesGroups | None = None) -> None:
        self._context = context
        self._groups = groups
        self._waves: list[_StepColumns] = []
        self._contexts: list[F32] = []
        self._seen: set[int] = set()

    def add(self, row: I64, observed: Observed) -> None:
        """Add the steps of a wave.

        Args:
            row: number of each step's series; (M,).
            observed: steps of the wave; the context may be a view that the next wave overwrites.
        """
        inputs = observed.step_inputs
        begins = self._begins(row, observed)
        self._contexts.append(inputs.context[begins].copy())
        self._waves.append(
            _StepColumns(
                series_index=row.copy(),
                tick=observed.tick,
                begins=begins,
                reference=observed.reference.copy(),
                time_ms=observed.time_ms,
                interval_ms=observed.interval_ms,
                gap=inputs.gap.copy(),
                last=inputs.last.copy(),
                scale=inputs.scale.copy(),
                levels=inputs.levels.copy(),
                masked=inputs.masked.copy(),
                group=inputs.group.copy(),
                cross=self._cross(row, observed),
                values=observed.relative_input.astype(np.float32),
                truth=np.where(np.isnan(observed.relative_input), np.nan, observed.relative_truth).astype(np.float32),
            )
        )

    def _begins(self, row: I64, observed: Observed) -> Bools:
        """Return which steps begin a sequence; (M,)."""
        first = ~np.isin(row, list(self._seen))  # not always a restart: the first readings of a series may be no steps
        self._seen.update(row[first].tolist())
        return (
            observed.restarted | observed.has_new_reference | first | (observed.gap > MAX_GAP_CONTEXTS * self._context)
        )

    def _cross(self, row: I64, observed: Observed) -> F32:
        groups = self._groups
        if groups is None:
            return np.zeros((len(row), 0), np.float32)
        return cross_inputs(observed.step_inputs, observed.record_of_step, groups.member[row], groups.size)

    def build(self) -> list[TrainingSequence]:
        """Return the sequences, the longest first."""
        if not self._waves:
            return []
        columns = zip(*([getattr(wave, name) for name in _StepColumns.__slots__] for wave in self._waves), strict=True)
        steps = _StepColumns(*(np.concatenate(column) for column in columns))
        contexts = np.concatenate(self._contexts)
        context = np.zeros(len(steps.series_index), np.int64)
        context[steps.begins] = np.arange(len(contexts))
        order = np.argsort(steps.series_index, kind="stable")
        cuts = np.flatnonzero(steps.begins[order] | (np.diff(steps.series_index[order], prepend=-1) != 0))
        parts = np.split(order, cuts[1:])
        return sort_sequences(
            [self._sequence(steps, part, contexts[context[part[0]]]) for part in parts if len(part) >= MIN_STEPS]
        )

    def _sequence(self, steps: _StepColumns, part: I64, context: F32) -> TrainingSequence:
        """Return the steps at the positions `part` as a sequence; `context` is that of the first one, newest first."""
        lead = self._context - 1
        shift = steps.reference[part] - steps.reference[part[-1]]  # the reference can move within the first readings
        grid_index = steps.tick[part] - steps.tick[part[0]] + lead
        grid = np.full(grid_index[-1] + 1, np.nan, np.float32)
        truth = grid.copy()
        grid[: lead + 1] = context[::-1] + shift[0]
        grid[grid_index] = steps.values[part] + shift
        truth[grid_index] = steps.truth[part] + shift
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
            series_index=int(steps.series_index[part[0]]),
            inputs=inputs,
            grid_index=grid_index,
            time_ms=steps.time_ms[part],
            interval_ms=int(steps.interval_ms[part[0]]),
            grid=grid,
            truth=truth,
            cross=steps.cross[part],
        )
