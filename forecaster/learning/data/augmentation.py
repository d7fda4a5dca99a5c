"""Inputs made worse on purpose, so that the network learns to see through noise, spikes and dropouts.

A disturbed grid has its causal consequences: the last valid value and the mask of every step follow from it. Truths
stay what they are; targets are counted from the disturbed last value, as a forecast in service would be.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forecaster.learning.data.batches import PaddedBatch


@dataclass(frozen=True, slots=True)
class AugmentationConfig:
    """How inputs are disturbed; all rates 0 = not at all.

    Attributes:
        share: of the sequences that are disturbed in a pass, each at its own strength between 0 and the full rates.
        noise: deviation of the noise on each value, in scales.
        spikes: share of the ticks whose value is moved by a spike.
        spike_size: deviation of a spike, in scales.
        dropouts: share of the ticks whose value is missing.
    """

    share: float = 0.5
    noise: float = 0.5
    spikes: float = 0.02
    spike_size: float = 3.0
    dropouts: float = 0.05

    @property
    def is_off(self) -> bool:
        """True where nothing would be disturbed."""
        return self.share == 0.0 or (self.noise == 0.0 and self.spikes == 0.0 and self.dropouts == 0.0)


def augmented(config: AugmentationConfig, batch: PaddedBatch, generator: torch.Generator) -> PaddedBatch:
    """Returns the batch with a disturbed grid; the batch itself where nothing is disturbed.

    Scale, levels and what the group did stay those of the clean inputs: they hardly move in service either.

    Args:
        config: how much.
        batch: not modified.
        generator: where the disturbances come from.
    """
    if config.is_off:
        return batch
    return batch.with_grid(disturbed(config, batch.grid, batch.scale_by_tick, generator))


def disturbed(config: AugmentationConfig, grid: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """Returns inputs by tick with noise, spikes and dropouts; a series keeps its first value, to have a last one.

    Args:
        config: how much.
        grid: NaN where there is no input; (G, B).
        scale: of each tick; (G, B).
        generator: where the disturbances come from.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    ticks, series = grid.shape
    strength = uniform(series) * (uniform(series) < config.share)
    moved = config.noise * torch.randn(ticks, series, generator=generator)
    spiked = uniform(ticks, series) < config.spikes * strength
    jump = config.spike_size * torch.randn(ticks, series, generator=generator)
    changed = grid + scale * (strength * moved + torch.where(spiked, jump, 0.0))
    first = (~torch.isnan(grid)).cumsum(0) <= 1
    dropped = (uniform(ticks, series) < config.dropouts * strength) & ~first
    return torch.where(dropped, torch.nan, torch.where(first, grid, changed))
