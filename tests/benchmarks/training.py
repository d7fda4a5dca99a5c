"""Training steps per second of the trainer against a bare torch loop of the same shape.

    python tests/benchmarks/training.py

Both make the same updates of the same network by truncated BPTT over the same chunks: unroll, loss, backward, clip,
AdamW. The bare loop finds its inputs and targets assembled; the trainer assembles, disturbs and masks them, keeps the
mean of the weights and reports its progress. They take turns, on one thread; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from forecaster.core.network.network import Dropout, Network, NetworkConfig
from forecaster.core.network.tbptt import Chunk, losses, unroll
from forecaster.core.series.state import ObservationConfig
from forecaster.history import SeriesHistory
from forecaster.learning.data.augmentation import AugmentationConfig
from forecaster.learning.data.batches import PaddedBatch
from forecaster.learning.data.sequences import TrainingSequence
from forecaster.learning.data.training_data import training_sequences
from forecaster.learning.fitting.network_fit import NetworkFit, TrainingConfig

HOUR_MS, START_MS = 3_600_000, 1_735_689_600_000
NETWORK = NetworkConfig(horizons=tuple(range(1, 25)), quantile_levels=(0.1, 0.5, 0.9))
CLEAN = AugmentationConfig(share=0.0)


def history(series: int, ticks: int) -> SeriesHistory:
    """A daily pattern with noise."""
    time_of_day = np.arange(ticks)[:, None] + np.arange(series)
    values = np.sin(2 * np.pi * time_of_day / 24) + np.random.default_rng(0).normal(0, 0.2, (ticks, series))
    return SeriesHistory(
        series_ids=[f"series-{one}" for one in range(series)],
        series_index=np.tile(np.arange(series), ticks),
        timestamp_ms=START_MS + np.repeat(np.arange(ticks), series) * HOUR_MS,
        values=values.reshape(-1),
        record_of_reading=np.arange(ticks * series),
    )


def trainer_seconds(sequences: list[TrainingSequence], config: TrainingConfig) -> float:
    """Seconds of an update by the trainer, its judgement on the held-out stretch left out."""
    trainer = NetworkFit(NETWORK, config, sequences, int(sequences[0].time_ms[-1]) + 1)
    vars(trainer)["_held_out_loss"] = lambda _: 0.0
    vars(trainer)["_solve"] = lambda: torch.empty(0)
    moments: list[float] = []
    begin = time.perf_counter()
    trainer.fit(lambda _: moments.append(time.perf_counter()))
    return (moments[-1] - begin) / len(moments)


def bare_seconds(chunks: list[Chunk], config: TrainingConfig) -> float:
    """Seconds of an update by a loop that does nothing else."""
    torch.manual_seed(0)
    network = Network(NETWORK)
    readout = nn.Parameter(torch.zeros(NETWORK.readout_size, len(NETWORK.horizons)))
    parameters = [*network.parameters(), readout]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.l2)
    dropout, levels = Dropout(torch.Generator().manual_seed(0), config.dropout), torch.tensor(NETWORK.quantile_levels)
    begin = time.perf_counter()
    for _ in range(config.passes):
        state = torch.zeros(len(chunks[0].lengths), network.state_size)
        for chunk in chunks:
            unrolled = unroll(network, readout, chunk, state, dropout)
            state = unrolled.state
            loss = losses(network, unrolled, chunk.target, levels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            optimizer.step()
    return (time.perf_counter() - begin) / (config.passes * len(chunks))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--series", type=int, default=64)
    arguments.add_argument("--ticks", type=int, default=960)
    arguments.add_argument("--passes", type=int, default=3)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    sequences = training_sequences(history(given.series, given.ticks), ObservationConfig(interval_ms=HOUR_MS))
    config = TrainingConfig(passes=given.passes, patience=given.passes, batch=given.series)
    batch = PaddedBatch(sequences, NETWORK.features, NETWORK.horizons)
    chunks = [chunk for _, _, chunk in batch.chunks(config.tbptt_steps)]
    bare_seconds(chunks, config)
    bare, clean, disturbed = list[float](), list[float](), list[float]()
    for _ in range(given.rounds):
        bare.append(bare_seconds(chunks, config))
        disturbed.append(trainer_seconds(sequences, config))
        clean.append(trainer_seconds(sequences, replace(config, augmentation=CLEAN)))
    middle = statistics.median(bare)
    sys.stdout.write(
        f"{given.series} series, chunks of {config.tbptt_steps} steps: bare loop {1.0 / middle:.1f} updates a second\n"
        f"trainer / bare loop, inputs disturbed:     {middle / statistics.median(disturbed):.3f}\n"
        f"trainer / bare loop, inputs as they are:   {middle / statistics.median(clean):.3f}\n"
    )


if __name__ == "__main__":
    main()
