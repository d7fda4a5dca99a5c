"""Disturbances of training data: what they change, and what they leave as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from trainings import NETWORK, OBSERVATION, seasonal_history

from forecaster.learning.data.augmentation import AugmentationConfig, augment, disturb
from forecaster.learning.data.batches import PaddedBatch
from forecaster.learning.data.training_data import training_sequences

DISTURBED = AugmentationConfig(share=1.0, noise=0.5, spikes=0.1, spike_size=5.0, dropouts=0.3)


def batch() -> PaddedBatch:
    readings = seasonal_history(80)
    readings.values[30:33] = np.nan
    sequences = training_sequences(readings, OBSERVATION)
    return PaddedBatch(sequences, NETWORK.features, NETWORK.horizons)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def columns(batch: PaddedBatch) -> list[Tensor]:
    chunk = batch.chunk(0, batch.steps)
    return [chunk.u, chunk.q, chunk.target, chunk.lengths]


def test_augmentation_with_zero_rates_changes_no_bit() -> None:
    clean = batch()
    off = AugmentationConfig(share=1.0, noise=0.0, spikes=0.0, dropouts=0.0)
    assert augment(off, clean, seeded()) is clean
    rebuilt = clean.with_grid(disturb(off, clean.grid, clean.scale_by_tick, seeded()))
    for left, right in zip(columns(clean), columns(rebuilt), strict=True):
        assert torch.equal(left.nan_to_num(nan=99.0), right.nan_to_num(nan=99.0))


def test_the_seed_decides_about_the_disturbances() -> None:
    clean = batch()
    first, again, other = (augment(DISTURBED, clean, seeded(seed)).grid.nan_to_num() for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_dropped_tick_is_masked_and_its_last_value_is_the_one_before() -> None:
    clean = batch()
    noisy = augment(replace(DISTURBED, noise=0.0, spikes=0.0), clean, seeded())
    dropped = torch.isnan(noisy.grid) & ~torch.isnan(clean.grid)
    assert dropped.any()
    tick, series = dropped.nonzero()[0].tolist()
    step = int((clean.grid_index[:, series] == tick).nonzero()[0])
    assert float(noisy.inputs["masked"][step, series]) == 1.0
    before = noisy.grid[:tick, series]
    assert float(noisy.inputs["last"][step, series]) == float(before[~torch.isnan(before)][-1])
    masked = noisy.inputs["masked"].bool()
    ticks = noisy.grid.gather(0, noisy.grid_index)
    assert torch.equal(masked, torch.isnan(ticks))


def test_disturbances_do_not_change_the_truths() -> None:
    clean = batch()
    noisy = augment(DISTURBED, clean, seeded())
    before, after = clean.chunk(0, clean.steps).target, noisy.chunk(0, noisy.steps).target
    scale = clean.inputs["scale"].unsqueeze(-1)
    known = ~torch.isnan(before)
    truths = [
        (target * scale + version.inputs["last"].unsqueeze(-1))[known]
        for target, version in ((before, clean), (after, noisy))
    ]
    assert torch.equal(known, ~torch.isnan(after))
    assert not torch.equal(before[known], after[known])
    torch.testing.assert_close(*truths, rtol=1e-4, atol=1e-4)


def test_a_disturbance_changes_no_step_before_it() -> None:
    clean = batch()
    grid = clean.grid.clone()
    grid[50] += 3.0
    late = clean.with_grid(grid)
    step = int((clean.grid_index[:, 0] == 50).nonzero()[0])
    for left, right in zip(columns(clean)[:2], columns(late)[:2], strict=True):
        assert torch.equal(left[:step], right[:step])
        assert not torch.equal(left[step], right[step])
