"""Training sequences: the very steps that serving would have made, by series and between restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forecaster.core.features import FeatureConfig, StepInputs, assemble, calendar
from forecaster.core.observation import Observed
from forecaster.core.tbptt import Chunk
from forecaster.records import Integers

Singles = NDArray[np.float32]

SHORTEST = 2
"""A sequence of one step has no target."""


@dataclass(frozen=True, slots=True)
class _Steps:
    """Columns of the steps of one wave, or of all; `context` only of those that begin a sequence."""

    row: Integers
    tick: Integers
    restarted: NDArray[np.bool_]
    time_ms: Integers
    interval_ms: Integers
    gap: Singles
    last: Singles
    scale: Singles
    levels: Singles
    masked: Singles
    group: Singles
    values: Singles
    truth: Singles


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """T steps of one series without a restart, and what came true on its grid.

    Attributes:
        inputs: of each step, but for the context, which the grid holds; (T, ...).
        place: where in the grid each step stands; (T,).
        time_ms: event time of each step; (T,).
        interval_ms: spacing of the grid.
        grid: denoised inputs by tick; NaN where there was none; it begins a context before the first step.
        truth: raw truths by tick, minus the origin; the same length.
    """

    inputs: StepInputs
    place: Integers
    time_ms: Integers
    interval_ms: int
    grid: Singles
    truth: Singles

    def __len__(self) -> int:
        return len(self.place)


class SequencesBuilder:
    """Collects observed waves until they are cut into sequences."""

    def __init__(self, context: int) -> None:
        self._context = context
        self._waves: list[_Steps] = []
        self._begins: list[Singles] = []
        self._seen: set[int] = set()

    def add(self, row: Integers, observed: Observed) -> None:
        """The steps of the wave will be in the sequences.

        Args:
            row: of each step's series; (M,).
            observed: the wave; its context may be a view that the next wave overwrites.
        """
        inputs = observed.inputs
        first = ~np.isin(row, list(self._seen))
        self._seen.update(row[first].tolist())
        begins = observed.restarted | first  # a series may begin with readings that are no steps
        self._begins.append(inputs.context[begins].copy())
        self._waves.append(
            _Steps(
                row.copy(),
                observed.tick,
                begins,
                observed.time_ms,
                observed.interval_ms,
                gap=inputs.gap.copy(),
                last=inputs.last.copy(),
                scale=inputs.scale.copy(),
                levels=inputs.levels.copy(),
                masked=inputs.masked.copy(),
                group=inputs.group.copy(),
                values=observed.values.astype(np.float32),
                truth=observed.truth.astype(np.float32),
            )
        )

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
        sequences = [self._sequence(steps, part, begins[context[part[0]]]) for part in parts if len(part) >= SHORTEST]
        return sorted(sequences, key=len, reverse=True)

    def _sequence(self, steps: _Steps, part: Integers, context: Singles) -> TrainingSequence:
        lead = self._context - 1
        place = steps.tick[part] - steps.tick[part[0]] + lead
        grid = np.full(place[-1] + 1, np.nan, np.float32)
        truth = grid.copy()
        grid[: lead + 1] = context[::-1]
        grid[place] = steps.values[part]
        truth[place] = steps.truth[part]
        inputs = StepInputs(
            context=None,
            last=steps.last[part],
            scale=steps.scale[part],
            levels=steps.levels[part],
            calendar=calendar(steps.time_ms[part]),
            masked=steps.masked[part],
            gap=steps.gap[part],
            group=steps.group[part],
        )
        return TrainingSequence(inputs, place, steps.time_ms[part], int(steps.interval_ms[part[0]]), grid, truth)


class PaddedBatch:
    """B sequences side by side, padded at the end to the longest; chunks of it are assembled when asked for.

    Args:
        sequences: at least one.
        features: what the network sees.
        horizons: ticks ahead.
    """

    def __init__(self, sequences: Sequence[TrainingSequence], features: FeatureConfig, horizons: Sequence[int]) -> None:
        self._features = features
        self._horizons = torch.tensor(horizons)
        self.lengths = torch.tensor([len(sequence) for sequence in sequences])
        self.place = _pad([sequence.place for sequence in sequences])
        self.time_ms = _pad([sequence.time_ms for sequence in sequences])
        self.interval_ms = torch.tensor([sequence.interval_ms for sequence in sequences])
        self._grid = _pad([sequence.grid for sequence in sequences], fill=np.nan)
        future = max(horizons)
        self._truth = _pad([np.pad(one.truth, (0, future), constant_values=np.nan) for one in sequences], fill=np.nan)
        names = [name for name in StepInputs.__slots__ if name != "context"]
        self._inputs = {name: _pad([getattr(one.inputs, name) for one in sequences]) for name in names}
        mean = [float(one.inputs.scale.mean()) for one in sequences]
        self._mean_scale = torch.tensor(mean)

    def __len__(self) -> int:
        """B."""
        return len(self.lengths)

    @property
    def steps(self) -> int:
        """T, of the longest."""
        return len(self.place)

    def chunk(self, begin: int, end: int) -> Chunk:
        """Returns the steps from `begin` up to `end`, where a sequence has them."""
        span = slice(begin, min(end, self.steps))
        place = self.place[span]
        series = torch.arange(len(self)).unsqueeze(-1)
        back = (place.unsqueeze(-1) - torch.arange(self._features.context)).clamp(min=0)
        context = self._grid[back, series]
        inputs = StepInputs(context=context, **{name: values[span] for name, values in self._inputs.items()})
        u, q = assemble(self._features, inputs)
        ahead = (place.unsqueeze(-1) + self._horizons).clamp(max=len(self._truth) - 1)
        target = (self._truth[ahead, series] - inputs.last.unsqueeze(-1)) / inputs.scale.unsqueeze(-1)
        real = torch.arange(span.start, span.stop).unsqueeze(-1) < self.lengths
        target[~(real & (inputs.scale > 0))] = torch.nan
        return Chunk(u, q, target, (self.lengths - begin).clamp(0, len(place)))

    def target_ms(self, begin: int, end: int) -> Tensor:
        """Returns the event times of the targets of a chunk; (T, B, J)."""
        ahead = self.interval_ms.unsqueeze(-1) * self._horizons
        return self.time_ms[begin:end].unsqueeze(-1) + ahead

    def weight(self, begin: int, end: int) -> Tensor:
        """Returns how much the squared error of a step counts in the units of its series; (T, B)."""
        relative = self._inputs["scale"][begin:end] / self._mean_scale.clamp(min=torch.finfo(torch.float32).tiny)
        return relative.square().clamp(max=MAX_WEIGHT)


MAX_WEIGHT = 16.0


def _pad(columns: Sequence[NDArray[np.generic]], fill: float = 0.0) -> Tensor:
    """Returns (longest, B, ...)."""
    longest = max(len(column) for column in columns)
    padded = np.full((longest, len(columns), *columns[0].shape[1:]), fill, columns[0].dtype)
    for series, column in enumerate(columns):
        padded[: len(column), series] = column
    return torch.from_numpy(padded)
