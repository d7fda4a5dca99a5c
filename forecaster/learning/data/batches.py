"""Batches of padded sequences, cut into the chunks for training, early stopping and the readout."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forecaster.core.network.features import FeatureConfig, assemble
from forecaster.core.network.network import NetworkConfig
from forecaster.core.network.tbptt import Chunk
from forecaster.core.series.step_inputs import StepInputs
from forecaster.learning.data.sequences import TrainingSequence

CACHE_BYTES = 512 * 1024**2
"""If all chunks take no more memory than this, they are assembled once and kept for later passes."""
WIDE = 8
"""A grid of more ticks than this for each step takes more memory than the steps do."""
MAX_WEIGHT = 16.0
"""Largest weight of a step whose scale is far above the mean of its sequence."""


class PaddedBatch:
    """B sequences, padded at the end to T steps, the length of the longest; chunks are assembled on demand.

    Args:
        sequences: the sequences, at least one.
        features: inputs of the network.
        horizons: ticks ahead.
        cache_chunks: True to keep chunks once they are assembled.

    Attributes:
        lengths: number of steps of each sequence; (B,).
        grid_index: index of each step in the grid; (T, B).
        time_ms: event time of each step, epoch ms; (T, B).
        interval_ms: spacing of the grids; (B,).
        grid: denoised inputs by tick, NaN where there is none; (G, B).
        series: number of each sequence's series; (B,).
        cross: inputs from the other series of the group; (T, B, X).
        inputs: columns of `StepInputs` but for the context, by name; (T, B, ...).
        cached: chunks by their first step; None = they are assembled each time.
    """

    def __init__(
        self,
        sequences: Sequence[TrainingSequence],
        features: FeatureConfig,
        horizons: Sequence[int],
        *,
        cache_chunks: bool = False,
    ) -> None:
        self._features = features
        self._horizons = torch.tensor(horizons)
        self.lengths = torch.tensor([len(sequence) for sequence in sequences])
        self.grid_index = _pad([sequence.grid_index for sequence in sequences])
        self.time_ms = _pad([sequence.time_ms for sequence in sequences])
        self.interval_ms = torch.tensor([sequence.interval_ms for sequence in sequences])
        self.grid = _pad([sequence.grid for sequence in sequences], fill=np.nan)
        future = max(horizons)
        truths = [np.pad(sequence.truth, (0, future), constant_values=np.nan) for sequence in sequences]
        self._truth = _pad(truths, fill=np.nan)
        names = [name for name in StepInputs.__slots__ if name != "context"]
        self.series = torch.tensor([sequence.series_index for sequence in sequences])
        self.cross = _pad([sequence.cross for sequence in sequences])
        self.inputs = {name: _pad([getattr(sequence.inputs, name) for sequence in sequences]) for name in names}
        self._mean_scale = torch.tensor([float(sequence.inputs.scale.mean()) for sequence in sequences])
        self.cached: dict[int, Chunk] | None = {} if cache_chunks else None

    def __len__(self) -> int:
        """Return B."""
        return len(self.lengths)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.grid_index)

    @property
    def scale_by_tick(self) -> Tensor:
        """Scale at each tick of the grid: that of its step, else of the step before, else of the first one; (G, B)."""
        step = torch.zeros(self.grid.shape, dtype=torch.int64)
        is_step = self.is_step(0, self.steps)
        number = torch.arange(self.steps).unsqueeze(-1).expand_as(self.grid_index)
        sequence = torch.arange(len(self)).expand_as(self.grid_index)
        step[self.grid_index[is_step], sequence[is_step]] = number[is_step]
        return self.inputs["scale"].gather(0, step.cummax(0).values)

    def with_grid(self, grid: Tensor) -> PaddedBatch:
        """Return the batch with another grid, and with the last valid value and mask of each step that follow from it.

        Args:
            grid: NaN where there is no input; (G, B).
        """
        changed = copy.copy(self)
        changed.grid = grid
        changed.cached = None
        ticks = torch.arange(len(grid)).unsqueeze(-1)
        newest = torch.where(torch.isnan(grid), -1, ticks).cummax(0).values.gather(0, self.grid_index)
        has_value = (newest >= 0) & self.is_step(0, self.steps)
        last = torch.where(has_value, grid.gather(0, newest.clamp(min=0)), self.inputs["last"])
        masked = torch.where(has_value, (newest < self.grid_index).float(), self.inputs["masked"])
        changed.inputs = {**self.inputs, "last": last, "masked": masked}
        return changed

    def chunks(self, steps: int) -> Iterator[tuple[int, int, Chunk]]:
        """Yield begin, end and content of chunk after chunk, each of `steps` steps."""
        for begin in range(0, self.steps, steps):
            yield begin, begin + steps, self.chunk(begin, begin + steps)

    def chunk(self, begin: int, end: int) -> Chunk:
        """Return the steps from `begin` up to `end`, as far as a sequence has them; the caller must not modify them."""
        if self.cached is None:
            return self._assemble(begin, end)
        if begin not in self.cached or len(self.cached[begin].u) != min(end, self.steps) - begin:
            self.cached[begin] = self._assemble(begin, end)
        return self.cached[begin]

    def _assemble(self, begin: int, end: int) -> Chunk:
        span = slice(begin, min(end, self.steps))
        grid_index = self.grid_index[span]
        sequence = torch.arange(len(self)).unsqueeze(-1)
        back = (grid_index.unsqueeze(-1) - torch.arange(self._features.context)).clamp(min=0)
        context = self.grid[back, sequence]
        inputs = StepInputs(context=context, **{name: values[span] for name, values in self.inputs.items()})
        u, q = assemble(self._features, inputs)
        ahead = (grid_index.unsqueeze(-1) + self._horizons).clamp(max=len(self._truth) - 1)
        target = (self._truth[ahead, sequence] - inputs.last.unsqueeze(-1)) / inputs.scale.unsqueeze(-1)
        target[~(self.is_step(begin, end) & (inputs.scale > 0))] = torch.nan
        return Chunk(u, q, target, (self.lengths - begin).clamp(0, len(grid_index)))

    def is_step(self, begin: int, end: int) -> Tensor:
        """Return True for steps of the sequences, False for padding; (T, B)."""
        return torch.arange(begin, min(end, self.steps)).unsqueeze(-1) < self.lengths

    def target_ms(self, begin: int, end: int) -> Tensor:
        """Return the event times of a chunk's targets, epoch ms; (T, B, J)."""
        ahead = self.interval_ms.unsqueeze(-1) * self._horizons
        return self.time_ms[begin:end].unsqueeze(-1) + ahead

    def weight(self, begin: int, end: int) -> Tensor:
        """Return the weights of the steps' squared errors, which make them count in the units of the series; (T, B)."""
        relative = self.inputs["scale"][begin:end] / self._mean_scale.clamp(min=torch.finfo(torch.float32).tiny)
        return relative.square().clamp(max=MAX_WEIGHT)


def padded_batches(sequences: Sequence[TrainingSequence], network: NetworkConfig, size: int) -> list[PaddedBatch]:
    """Return the sequences in batches of at most `size`, which cache their chunks if memory allows.

    Sequences whose grids are much longer than the steps of the longest sequence get batches of their own: the grids of
    the others would be padded to that length.

    Args:
        sequences: sequences, the longest first.
        network: configuration of the features and horizons.
        size: largest number of sequences in a batch.
    """
    parts = [sequences[begin : begin + size] for begin in range(0, len(sequences), size)]
    parts = [piece for part in parts for piece in _split_wide(part, WIDE * (len(part[0]) + network.features.context))]
    columns = network.features.step_size + network.features.readout_size + len(network.horizons)
    needed = sum(len(part) * max(map(len, part)) for part in parts) * columns * torch.float32.itemsize
    cache_chunks = needed <= CACHE_BYTES
    return [PaddedBatch(part, network.features, network.horizons, cache_chunks=cache_chunks) for part in parts]


def _split_wide(sequences: Sequence[TrainingSequence], ticks: int) -> list[Sequence[TrainingSequence]]:
    """Return the sequences with grids of at most `ticks` ticks, and the others, in their order, without empty parts."""
    wide = [sequence for sequence in sequences if len(sequence.grid) > ticks]
    narrow = [sequence for sequence in sequences if len(sequence.grid) <= ticks]
    return [part for part in (narrow, wide) if part]


def _pad(columns: Sequence[NDArray[np.generic]], fill: float = 0.0) -> Tensor:
    """Return the columns next to one another, filled up at the end; (longest, B, ...)."""
    longest = max(len(column) for column in columns)
    padded = np.full((longest, len(columns), *columns[0].shape[1:]), fill, columns[0].dtype)
    for number, column in enumerate(columns):
        padded[: len(column), number] = column
    return torch.from_numpy(padded)
