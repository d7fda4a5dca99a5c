"""Padded batches of training sequences."""

from __future__ import annotations

import numpy as np
import torch
from trainings import NETWORK, OBSERVATION, seasonal_history

from forecaster.learning.data.batches import PaddedBatch, padded_batches
from forecaster.learning.data.training_data import training_sequences


def test_cached_chunks_equal_chunks_that_are_assembled_each_time() -> None:
    readings = seasonal_history(80)
    readings.values[30:33] = np.nan
    sequences = training_sequences(readings, OBSERVATION)
    (kept,) = padded_batches(sequences, NETWORK, 256)
    assert kept.chunk(0, 20) is kept.chunk(0, 20)
    fresh = PaddedBatch(sequences, NETWORK.features, NETWORK.horizons)
    for begin, end, chunk in fresh.chunks(20):
        assert torch.equal(chunk.u, kept.chunk(begin, end).u)
    assert len(kept.chunk(0, 30).u) == 30
