"""Sequences side by side, cut into the chunks that training, its judgement and the readout go through."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forecaster.core.network.features import FeatureConfig, StepInputs, assemble
from forecaster.core.network.network import NetworkConfig
from forecaster.core.network.tbptt import Chunk
from forecaster.learning.data.sequences import TrainingSequence

KEEP_BYTES = 512 * 1024**2
"""Chunks of up to so many bytes in all are assembled once and kept for the passes that follow."""
WIDE = 8
"""A grid of so many ticks a step takes more memory than the steps do."""
MAX_WEIGHT = 16.0
"""A step in wild times counts for at most so many ordinary ones."""


class PaddedBatch:
    """B sequences side by side, padded at the end to the longest; chunks of it are assembled when asked for.

    Args:
        sequences: at least one.
        features: what the network sees.
        horizons: ticks ahead.
        keep: chunks that were assembled once are kept.
    """

    def __init__(
        self,
        sequences: Sequence[TrainingSequence],
        features: FeatureConfig,
        horizons: Sequence[int],
        *,
        keep: bool = False,
    ) -> None:
        self._features = features
        self._horizons = torch.tensor(horizons)
        self.lengths = torch.tensor([len(sequence) for sequence in sequences])
        self.place = _pad([sequence.place for sequence in sequences])
        self.time_ms = _pad([sequence.time_ms for sequence in sequences])
        self.interval_ms = torch.tensor([sequence.interval_ms for sequence in sequences])
        self.grid = _pad([sequence.grid for sequence in sequences], fill=np.nan)
        future = max(horizons)
        self._truth = _pad([np.pad(one.truth, (0, future), constant_values=np.nan) for one in sequences], fill=np.nan)
        names = [name for name in StepInputs.__slots__ if name != "context"]
        self.series = torch.tensor([sequence.row for sequence in sequences])
        self.cross = _pad([sequence.cross for sequence in sequences])
        self.inputs = {name: _pad([getattr(one.inputs, name) for one in sequences]) for name in names}
        self._mean_scale = torch.tensor([float(one.inputs.scale.mean()) for one in sequences])
        self.kept: dict[int, Chunk] | None = {} if keep else None

    def __len__(self) -> int:
        """B."""
        return len(self.lengths)

    @property
    def steps(self) -> int:
        """T, of the longest."""
        return len(self.place)

    @property
    def scale_by_tick(self) -> Tensor:
        """The scale of the grid's ticks, the step's before where there is none; of the first one at the beginning."""
        step = torch.zeros(self.grid.shape, dtype=torch.int64)
        real = self.real(0, self.steps)
        at = torch.arange(self.steps).unsqueeze(-1).expand_as(self.place)
        series = torch.arange(len(self)).expand_as(self.place)
        step[self.place[real], series[real]] = at[real]
        return self.inputs["scale"].gather(0, step.cummax(0).values)

    def with_grid(self, grid: Tensor) -> PaddedBatch:
        """Returns the batch with other inputs by tick; the last valid values and the masks of its steps follow.

        Args:
            grid: NaN where there is no input; (G, B).
        """
        changed = copy.copy(self)
        changed.grid = grid
        changed.kept = None
        ticks = torch.arange(len(grid)).unsqueeze(-1)
        newest = torch.where(torch.isnan(grid), -1, ticks).cummax(0).values.gather(0, self.place)
        known = (newest >= 0) & self.real(0, self.steps)
        last = torch.where(known, grid.gather(0, newest.clamp(min=0)), self.inputs["last"])
        masked = torch.where(known, (newest < self.place).float(), self.inputs["masked"])
        changed.inputs = {**self.inputs, "last": last, "masked": masked}
        return changed

    def chunks(self, steps: int) -> Iterator[tuple[int, int, Chunk]]:
        """Yields begin, end and the steps between, chunk after chunk, each of so many steps."""
        for begin in range(0, self.steps, steps):
            yield begin, begin + steps, self.chunk(begin, begin + steps)

    def chunk(self, begin: int, end: int) -> Chunk:
        """Returns the steps from `begin` up to `end`, where a sequence has them; not to be modified."""
        if self.kept is None:
            return self._assembled(begin, end)
        if begin not in self.kept or len(self.kept[begin].u) != min(end, self.steps) - begin:
            self.kept[begin] = self._assembled(begin, end)
        return self.kept[begin]

    def _assembled(self, begin: int, end: int) -> Chunk:
        span = slice(begin, min(end, self.steps))
        place = self.place[span]
        series = torch.arange(len(self)).unsqueeze(-1)
        back = (place.unsqueeze(-1) - torch.arange(self._features.context)).clamp(min=0)
        context = self.grid[back, series]
        inputs = StepInputs(context=context, **{name: values[span] for name, values in self.inputs.items()})
        u, q = assemble(self._features, inputs)
        ahead = (place.unsqueeze(-1) + self._horizons).clamp(max=len(self._truth) - 1)
        target = (self._truth[ahead, series] - inputs.last.unsqueeze(-1)) / inputs.scale.unsqueeze(-1)
        target[~(self.real(begin, end) & (inputs.scale > 0))] = torch.nan
        return Chunk(u, q, target, (self.lengths - begin).clamp(0, len(place)))

    def real(self, begin: int, end: int) -> Tensor:
        """Returns where a sequence has a step, and no padding; (T, B)."""
        return torch.arange(begin, min(end, self.steps)).unsqueeze(-1) < self.lengths

    def target_ms(self, begin: int, end: int) -> Tensor:
        """Returns the event times of the targets of a chunk; (T, B, J)."""
        ahead = self.interval_ms.unsqueeze(-1) * self._horizons
        return self.time_ms[begin:end].unsqueeze(-1) + ahead

    def weight(self, begin: int, end: int) -> Tensor:
        """Returns how much the squared error of a step counts in the units of its series; (T, B)."""
        relative = self.inputs["scale"][begin:end] / self._mean_scale.clamp(min=torch.finfo(torch.float32).tiny)
        return relative.square().clamp(max=MAX_WEIGHT)


def padded(sequences: Sequence[TrainingSequence], network: NetworkConfig, size: int) -> list[PaddedBatch]:
    """Returns the sequences in batches of at most `size`; their chunks are kept where memory allows.

    Those whose grids are much longer than anybody's steps stand apart: the others would be padded to them.

    Args:
        sequences: the longest first.
        network: which features and horizons.
        size: sequences side by side, at most.
    """
    sides = [sequences[begin : begin + size] for begin in range(0, len(sequences), size)]
    parts = [part for side in sides for part in _apart(side, WIDE * (len(side[0]) + network.features.context))]
    columns = network.features.step_size + network.features.readout_size + len(network.horizons)
    needed = sum(len(part) * max(map(len, part)) for part in parts) * columns * torch.float32.itemsize
    keep = needed <= KEEP_BYTES
    return [PaddedBatch(part, network.features, network.horizons, keep=keep) for part in parts]


def _apart(sequences: Sequence[TrainingSequence], ticks: int) -> list[Sequence[TrainingSequence]]:
    """Returns those with grids of at most so many ticks, and the others; in their order, none empty."""
    wide = [sequence for sequence in sequences if len(sequence.grid) > ticks]
    narrow = [sequence for sequence in sequences if len(sequence.grid) <= ticks]
    return [part for part in (narrow, wide) if part]


def _pad(columns: Sequence[NDArray[np.generic]], fill: float = 0.0) -> Tensor:
    """Returns (longest, B, ...)."""
    longest = max(len(column) for column in columns)
    padded = np.full((longest, len(columns), *columns[0].shape[1:]), fill, columns[0].dtype)
    for series, column in enumerate(columns):
        padded[: len(column), series] = column
    return torch.from_numpy(padded)
