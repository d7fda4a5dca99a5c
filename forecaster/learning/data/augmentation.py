"""Augmentation of inputs, so that the network learns to forecast through noise, spikes and dropouts.

A disturbed grid keeps its causal consequences: the last valid value and the mask of every step follow from it. Truths
stay; targets are differences to the disturbed last value, as those of a forecast in service would be.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forecaster.learning.data.batches import PaddedBatch


@dataclass(frozen=True, slots=True)
class AugmentationConfig:
    """Rates and sizes of the disturbances; all 0 = none.

    Attributes:
        share: share of the sequences that are disturbed in a pass, each at a strength of its own, up to the full rates.
        noise: standard deviation of the noise on each value, in scales.
        spikes: share of the ticks that get a spike.
        spike_size: standard deviation of a spike, in scales.
        dropouts: share of the ticks whose value is removed.
    """

    share: float = 0.5
    noise: float = 0.5
    spikes: float = 0.02
    spike_size: float = 3.0
    dropouts: float = 0.05

    @property
    def is_off(self) -> bool:
        """Whether nothing is disturbed."""
        return self.share == 0.0 or (self.noise == 0.0 and self.spikes == 0.0 and self.dropouts == 0.0)


def augment(config: AugmentationConfig, batch: PaddedBatch, generator: torch.Generator) -> PaddedBatch:
    """Return the batch with a disturbed grid; the batch itself if augmentation is off.

    Scales, levels and the inputs from the group stay those of the clean inputs: in service, too, disturbances hardly
    move them.

    Args:
        config: rates and sizes of the disturbances.
        batch: clean batch, not modified.
        generator: source of randomness.
    """
    if config.is_off:
        return batch
    return batch.with_grid(disturb(config, batch.grid, batch.scale_by_tick, generator))


def disturb(config: AugmentationConfig, grid: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """Return a grid with noise, spikes and dropouts, (G, B).

    The first value of a sequence stays, so that every step has a last valid value.

    Args:
        config: rates and sizes of the disturbances.
        grid: inputs by tick; NaN where there is none; (G, B).
        scale: scale at each tick; (G, B).
        generator: source of randomness.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    ticks, sequences = grid.shape
    strength = uniform(sequences) * (uniform(sequences) < config.share)
    noise = config.noise * torch.randn(ticks, sequences, generator=generator)
    has_spike = uniform(ticks, sequences) < config.spikes * strength
    spike = config.spike_size * torch.randn(ticks, sequences, generator=generator)
    noisy = grid + scale * (strength * noise + torch.where(has_spike, spike, 0.0))
    is_first = (~torch.isnan(grid)).cumsum(0) <= 1
    is_dropped = (uniform(ticks, sequences) < config.dropouts * strength) & ~is_first
    return torch.where(is_dropped, torch.nan, torch.where(is_first, grid, noisy))
