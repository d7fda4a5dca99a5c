"""How much of the damage by spikes, dropouts and noise the filters repair, through the serving pipeline.

    python tests/benchmarks/denoising.py --data FOLDER --set ETTh1 --json out.json

Into the readings of a clean set go spikes (2 % of them, 5 to 10 deviations), dropouts (5 %, null) and Gaussian noise
(half a deviation). Network and readouts are trained on the first 20 % of what the service would see; the forecasts
of the rest are scored against the clean values: the mean over origins, horizons of 1 to 24 ticks and channels of the
squared error, in deviations of the training part. `saved` is the share of what dirt adds to the error that a chain
takes away again; `cost` what it adds where nothing is dirty.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from forecaster.core.ensemble.experts import HEADS
from forecaster.core.ensemble.seasonal import DAY_MS
from forecaster.core.network.network import NetworkConfig
from forecaster.core.series.denoising import DenoiseConfig, FilterName
from forecaster.core.series.state import ObservationConfig
from forecaster.formats.files import read_files
from forecaster.history import SeriesHistory
from forecaster.learning.fitting.network_fit import TrainingConfig
from forecaster.learning.fitting.train import train_checkpoint
from forecaster.learning.simulation import ServingSimulation
from forecaster.pipeline import PipelineConfig

HOUR_MS = 3_600_000
LEVELS = (0.1, 0.5, 0.9)
HORIZONS = tuple(range(1, 25))
TRAINED, SCORED = 0.2, 0.25
SPIKES, DROPOUTS, NOISE = 0.02, 0.05, 0.5
CHAINS: dict[str, tuple[FilterName, ...]] = {
    "none": (),
    "range,hampel": ("range", "hampel"),
    "range,hampel,kalman": ("range", "hampel", "kalman"),
    "range,hampel,ewma": ("range", "hampel", "ewma"),
}
F64 = NDArray[np.float64]


def dirty(values: F64, deviation: F64, seed: int) -> F64:
    """Returns the values with spikes, dropouts and noise; (T, S)."""
    dice = np.random.default_rng(seed)
    found = values + NOISE * deviation * dice.normal(size=values.shape)
    spikes = dice.random(values.shape) < SPIKES
    size = dice.uniform(5.0, 10.0, values.shape) * dice.choice([-1.0, 1.0], values.shape) * deviation
    found = np.where(spikes, found + size, found)
    return np.where(dice.random(values.shape) < DROPOUTS, np.nan, found)


def error(history: SeriesHistory, clean: F64, chain: tuple[FilterName, ...], seed: int) -> float:
    """Returns the error of what is forecast from the history's readings, against the clean values."""
    ticks, series = clean.shape
    train = int(TRAINED * ticks)
    observation = ObservationConfig(HOUR_MS, 30 * DAY_MS, denoise=DenoiseConfig(chain=chain))
    network = NetworkConfig(horizons=HORIZONS, quantile_levels=LEVELS)
    pipeline = PipelineConfig(observation, HORIZONS, LEVELS, heads=len(HEADS))
    checkpoint = train_checkpoint(history.first(train * series), observation, network, TrainingConfig(seed=seed))
    deviation = clean[:train].std(axis=0)
    total, count = 0.0, 0
    for begin, outputs in ServingSimulation(pipeline, history, checkpoint, train * series).until(len(history)):
        position = begin + outputs.forecasts.reading
        tick, row = position // series, position % series
        scored = (tick >= int(SCORED * ticks)) & (tick + HORIZONS[-1] < ticks)
        targets = clean[tick[scored, None] + np.array(HORIZONS), row[scored, None]]
        errors = (outputs.forecasts.point[scored] - targets) / deviation[row[scored], None]
        total, count = total + float((errors**2).sum()), count + errors.size
    return total / count


def run(name: str, data: Path, seed: int) -> dict[str, Any]:
    """Returns the errors of every chain on clean and on dirty readings."""
    clean = read_files([data / f"{name}.csv.gz"])
    series = len(clean.series_ids)
    values = clean.values.reshape(-1, series)
    train = int(TRAINED * len(values))
    soiled = replace(clean, values=dirty(values, values[:train].std(axis=0), seed).reshape(-1))
    found = {
        chain: {"clean": error(clean, values, filters, seed), "dirty": error(soiled, values, filters, seed)}
        for chain, filters in CHAINS.items()
    }
    rise = found["none"]["dirty"] - found["none"]["clean"]
    for figures in found.values():
        figures["saved"] = (found["none"]["dirty"] - figures["dirty"]) / rise
        figures["cost"] = figures["clean"] / found["none"]["clean"] - 1.0
    return {"set": name, "seed": seed, "chains": found}


def markdown(result: dict[str, Any]) -> str:
    """Returns a table."""
    lines = [f"### {result['set']}", "", "| chain | clean | dirty | saved | cost |", "|---|---|---|---|---|"]
    for chain, one in result["chains"].items():
        share = f"{100 * one['saved']:.0f} % | {100 * one['cost']:.1f} %"
        lines.append(f"| {chain} | {one['clean']:.4f} | {one['dirty']:.4f} | {share} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """The tables were printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="+", default=["ETTh1", "ETTh2"], dest="sets", help="names of files")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets' files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for name in given.sets:
        results.append(run(name, given.data, given.seed))
        sys.stdout.write(markdown(results[-1]) + "\n")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
