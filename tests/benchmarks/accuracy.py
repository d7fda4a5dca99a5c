"""Accuracy of the forecasts on sets with published leak-free results, through the serving pipeline.

    python tests/benchmarks/accuracy.py --data FOLDER --set ETTh1 --resolve-every 168 --json out.json

Protocol: every channel is divided by its standard deviation in the training part; for a horizon H the forecasts of 1..H
ticks are scored at every origin from the last row before the test part on (stride 1) whose H truths lie in it, and the
error is the mean over origins, horizons and channels. The network is trained on the training part alone; every truth
may be learned from once it has come, in service as here: matured losses at once, the readout at fixed intervals.
The table ends with the published figures and our goals. Sets are described in `SETS`: a new one needs one entry.

Published without leakage: DSOF (ICLR 2025), LSTD (AAAI 2025), ADAPT-Z (ICLR 2026, the best backbone of each).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from forecaster.core.ensemble.experts import HEADS, LAST_VALUE
from forecaster.core.ensemble.seasonal import DAY_MS
from forecaster.core.metrics import in_interval, mase_scale, pinball_loss
from forecaster.core.network.features import FeatureConfig
from forecaster.core.network.network import NetworkConfig
from forecaster.core.series.denoising import FILTERS, DenoiseConfig, FilterName
from forecaster.core.series.state import ObservationConfig
from forecaster.evaluation.retraining import RetrainingIntervals, RetrainingPlan, SimulatedRetraining
from forecaster.formats.files import read_files
from forecaster.history import SeriesHistory
from forecaster.learning.fitting.network_fit import TrainingConfig
from forecaster.learning.fitting.train import train_checkpoint
from forecaster.learning.simulation import ServingSimulation
from forecaster.pipeline import PipelineConfig
from forecaster.records import Outputs

HOUR_MS = 3_600_000
LEVELS = (0.1, 0.5, 0.9)
HORIZONS = (1, 24, 48)
LEAST_SCORED = 500
"""Matured forecasts that a series needs to be compared with the best simple forecast in hindsight."""
POINT = "forecaster"
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Set:
    """A set and how it is cut.

    Attributes:
        file: in the folder of the data; a row a tick, a column a channel.
        interval_ms: spacing of the rows.
        cuts: rows where the training part ends, where the test part begins and ends; shares of all rows where below 1.
        published: the best known, by horizon.
        first_origin: row of the first forecast that counts, from the beginning of the test part on.
        goals: ours, by horizon; below them is well.
        goal_of_last_value: our goal as a multiple of the last value's error; 0 = none.
        context: ticks that the network sees.
        seasons_ms: that the simple forecasts know.
    """

    file: str
    interval_ms: int
    cuts: tuple[float, float, float]
    published: dict[int, float] = field(default_factory=dict)
    goals: dict[int, float] = field(default_factory=dict)
    goal_of_last_value: float = 0.0
    first_origin: int = -1
    context: int = 192
    seasons_ms: tuple[int, ...] = (DAY_MS, 7 * DAY_MS)


DSOF, LONG = (2_880, 3_600, 14_400), (0.6, 0.7, 1.0)
SETS = {
    "ETTh2": Set("ETTh2.csv.gz", HOUR_MS, DSOF, {1: 0.365, 24: 1.694, 48: 2.988}, {1: 0.315, 24: 1.45, 48: 2.45}),
    "ETTh1": Set("ETTh1.csv.gz", HOUR_MS, DSOF, {}, {1: 0.200, 24: 0.605, 48: 0.725}),
    "ETTh1-late": Set("ETTh1.csv.gz", HOUR_MS, (2_880, 5_600, 14_400)),
    "WTH": Set("WTH.csv.gz", HOUR_MS, (0.2, 0.25, 1.0), {1: 0.153}, {1: 0.146, 24: 0.300, 48: 0.370}),
    "ETTh1-long": Set(
        "ETTh1.csv.gz",
        HOUR_MS,
        LONG,
        {1: 0.1107, 24: 0.2942, 48: 0.3431},
        {1: 0.1107, 24: 0.2942, 48: 0.3431},
        first_origin=95,
    ),
    "ETTh2-long": Set(
        "ETTh2.csv.gz",
        HOUR_MS,
        LONG,
        {1: 0.0628, 24: 0.1607, 48: 0.2103},
        {1: 0.0628, 24: 0.1607, 48: 0.2103},
        first_origin=95,
    ),
    "Exchange": Set(
        "exchange_rate.csv.gz",
        DAY_MS,
        (0.2, 0.25, 1.0),
        {1: 0.009, 24: 0.093, 48: 0.176},
        goal_of_last_value=1.002,
        seasons_ms=(7 * DAY_MS,),
    ),
}


@dataclass(frozen=True)
class Trial:
    """One set, forecast once.

    Attributes:
        name: of the set.
        plan: the set.
        data: folder of the files.
        horizons: H of the table.
        seed: of the network.
        resolve_every: ticks between readouts; 0 = frozen.
        retrain_every: ticks between challengers; 0 = never.
        own: series have readouts of their own.
        denoise: chain of filters.
        until_test: only the rows before the test part are scored: what choices may rest on.
    """

    name: str
    plan: Set
    data: Path
    horizons: tuple[int, ...]
    seed: int
    resolve_every: int
    retrain_every: int
    local: bool
    denoise: tuple[FilterName, ...]
    until_test: bool


class Sums:
    """Sums of what forecasts were worth, by the horizon H of the table, series and horizon 1..H."""

    def __init__(self, names: Sequence[str], horizons: Sequence[int], series: int) -> None:
        shape = (len(names), series, max(horizons))
        self.square = {horizon: np.zeros(shape) for horizon in horizons}
        self.absolute = {horizon: np.zeros(shape) for horizon in horizons}
        self.known = {horizon: np.zeros(shape) for horizon in horizons}
        self.pinball = {horizon: np.zeros(shape[1:]) for horizon in horizons}
        self.inside = {horizon: np.zeros(shape[1:]) for horizon in horizons}
        self.count = {horizon: np.zeros(shape[1:]) for horizon in horizons}


def run(trial: Trial, say: Callable[[str], object]) -> dict[str, Any]:
    """Returns the figures of a trial."""
    history, (train, test, end) = _loaded(trial)
    series, longest = len(history.series_ids), max(trial.horizons)
    pipeline = _pipeline(trial, longest)
    features = FeatureConfig(trial.plan.context)
    network = NetworkConfig(horizons=pipeline.horizons, quantile_levels=LEVELS, features=features)
    training = TrainingConfig(seed=trial.seed, local=trial.local)
    begun = time.monotonic()
    champion = train_checkpoint(history.first(train * series), pipeline.observation, network, training)
    say(f"{trial.name}: trained on {train} rows of {series} channels in {time.monotonic() - begun:.0f} s")
    first, last = (train, test - 1) if trial.until_test else (test + trial.plan.first_origin, end - 1)
    names = (POINT, *pipeline.ensemble.experts)
    sums = Sums(names, trial.horizons, series)
    plan = RetrainingPlan(pipeline, network, training, RetrainingIntervals(trial.retrain_every, trial.resolve_every))
    retraining = SimulatedRetraining(plan, history, train * series)
    replay, served = ServingSimulation(pipeline, history, champion, train * series), champion
    for point in [*retraining.points, None]:
        position = point.position if point else len(history)
        for begin, outputs in replay.until(min(position, (last + 1) * series)):
            _add(sums, history, outputs, begin, (first, last))
        if point is None or point.position > last * series:
            break
        better = retraining.retrain(point, served, lambda _: None)
        if better is not None and better is not served:
            replay.swap(better)
            served = better
    say(f"{trial.name}: forecast in {time.monotonic() - begun:.0f} s in all; {dict(retraining.counts)}")
    values = history.values.reshape(-1, series)[:train]
    return _figures(trial, names, sums, values)


def _loaded(trial: Trial) -> tuple[SeriesHistory, tuple[int, int, int]]:
    """Returns the set, its rows a tick apart, and the rows of its cuts."""
    history = read_files([trial.data / trial.plan.file])
    series = len(history.series_ids)
    rows = len(history) // series
    train, test, end = (int(cut * rows) if cut <= 1 else int(cut) for cut in trial.plan.cuts)
    history = history.first(end * series)
    stamps = np.repeat(int(history.timestamp_ms[0]) + np.arange(end) * trial.plan.interval_ms, series)
    return replace(history, timestamp_ms=stamps), (train, test, end)


def _pipeline(trial: Trial, longest: int) -> PipelineConfig:
    plan = trial.plan
    observation = ObservationConfig(
        plan.interval_ms, 30 * DAY_MS, context=plan.context, denoise=DenoiseConfig(chain=trial.denoise)
    )
    return PipelineConfig(
        observation=observation,
        horizons=tuple(range(1, longest + 1)),
        quantile_levels=LEVELS,
        heads=len(HEADS) if trial.local else 1,
        seasons_ms=plan.seasons_ms,
        with_details=True,
    )


def _add(sums: Sums, history: SeriesHistory, outputs: Outputs, begin: int, origins: tuple[int, int]) -> None:
    """The sums include the forecasts of these truths that were made at the origins."""
    matured, series = outputs.matured, len(history.series_ids)
    position = matured.reading + begin
    row, truth = history.series_index[position], matured.truth[:, None]
    horizons = np.arange(1, matured.point.shape[1] + 1)
    made = (position // series)[:, None] - horizons
    forecasts = [matured.point, *np.moveaxis(matured.experts, 1, 0)]
    losses = pinball_loss(matured.quantiles, np.broadcast_to(truth, matured.point.shape), np.array(LEVELS)).mean(axis=1)
    within = in_interval(truth, matured.quantiles[:, 0], matured.quantiles[:, -1])
    for longest in sums.count:
        counts = (made >= origins[0]) & (made <= origins[1] - longest) & (horizons <= longest)
        counts &= ~np.isnan(truth) & ~np.isnan(matured.point)
        for number, values in enumerate(forecasts):
            known = counts & ~np.isnan(values)
            error = np.where(known, values - truth, 0.0)
            np.add.at(sums.square[longest][number], row, error * error)
            np.add.at(sums.absolute[longest][number], row, np.abs(error))
            np.add.at(sums.known[longest][number], row, known)
        np.add.at(sums.pinball[longest], row, np.where(counts, losses, 0.0))
        np.add.at(sums.inside[longest], row, counts & within)
        np.add.at(sums.count[longest], row, counts)


def _figures(trial: Trial, names: Sequence[str], sums: Sums, training: F64) -> dict[str, Any]:
    deviation = np.nanstd(training, axis=0)[:, None]
    steps = np.array([mase_scale(column) for column in training.T])[:, None]
    figures: dict[str, Any] = {"trial": {**dataclasses.asdict(trial), "data": None}, "horizons": {}}
    for longest in trial.horizons:
        span = slice(0, longest)
        with np.errstate(invalid="ignore", divide="ignore"):
            mse = (sums.square[longest] / sums.known[longest])[:, :, span] / deviation**2
            mae = (sums.absolute[longest] / sums.known[longest])[:, :, span]
        count = sums.count[longest][:, span]
        coverage = (sums.inside[longest][:, span] / count).mean(axis=0)
        figures["horizons"][longest] = {
            "mse": {name: _whole(mse[number]) for number, name in enumerate(names)},
            "mae": {name: _whole(mae[number] / deviation) for number, name in enumerate(names)},
            "mase": {name: _whole(mae[number] / steps) for number, name in enumerate(names)},
            "pinball_loss": float((sums.pinball[longest][:, span] / count / deviation).mean()),
            "interval_coverage": float(coverage.mean()),
            "interval_coverage_by_horizon": [float(coverage.min()), float(coverage.max())],
            "near_the_best_simple": _near_the_best(names, sums, longest),
        }
    return figures


def _whole(values: F64) -> float | None:
    """Returns the mean; None where an expert has nothing to say of some horizon."""
    return float(values.mean()) if np.isfinite(values).all() else None


def _near_the_best(names: Sequence[str], sums: Sums, longest: int) -> float:
    """Returns the share of series whose MAE is at most 1.02 times that of the best simple forecast in hindsight."""
    span = slice(0, longest)
    total, known = sums.absolute[longest][:, :, span].sum(axis=2), sums.known[longest][:, :, span].sum(axis=2)
    simple = [number for number, name in enumerate(names) if number and name not in HEADS]
    with np.errstate(invalid="ignore", divide="ignore"):
        mae = np.where(known >= 0.95 * known[0], total / known, np.inf)
    judged = sums.count[longest][:, span].sum(axis=1) >= LEAST_SCORED
    return float((mae[0] <= 1.02 * mae[simple].min(axis=0))[judged].mean()) if judged.any() else float("nan")


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """Returns a table of each set; figures of several seeds are means."""
    lines: list[str] = []
    for name in dict.fromkeys(result["trial"]["name"] for result in results):
        mine = [result for result in results if result["trial"]["name"] == name]
        plan, horizons = SETS[name], mine[0]["trial"]["horizons"]
        seeds = [result["trial"]["seed"] for result in mine]
        lines += [f"### {name}, seeds {seeds}", "", "| MSE | " + " | ".join(f"H={one}" for one in horizons) + " |"]
        lines.append("|---" * (len(horizons) + 1) + "|")
        for expert in mine[0]["horizons"][horizons[0]]["mse"]:
            lines.append(_row(expert, [_mean(mine, one, "mse", expert) for one in horizons]))
        lines.append(_row("best published", [plan.published.get(one) for one in horizons]))
        lines.append(_row("goal", [_goal(plan, mine, one) for one in horizons]))
        for metric in ("mae", "mase"):
            lines.append(_row(f"{POINT}: {metric.upper()}", [_mean(mine, one, metric, POINT) for one in horizons]))
        for metric in ("pinball_loss", "interval_coverage", "near_the_best_simple"):
            values = [float(np.mean([result["horizons"][one][metric] for result in mine])) for one in horizons]
            lines.append(_row(f"{POINT}: {metric.replace('_', ' ')}", values))
        lines.append("")
    return "\n".join(lines)


def _goal(plan: Set, results: Sequence[dict[str, Any]], horizon: int) -> float | None:
    if plan.goal_of_last_value:
        return plan.goal_of_last_value * (_mean(results, horizon, "mse", LAST_VALUE) or 0.0)
    return plan.goals.get(horizon)


def _mean(results: Sequence[dict[str, Any]], horizon: int, metric: str, name: str) -> float | None:
    values = [result["horizons"][horizon][metric][name] for result in results]
    return None if None in values else float(np.mean(values))


def _row(name: str, values: Sequence[float | None]) -> str:
    return f"| {name} | " + " | ".join("" if value is None else f"{value:.4f}" for value in values) + " |"


def main() -> None:
    """The tables were printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="+", choices=sorted(SETS), default=list(SETS), dest="sets")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets' files")
    parser.add_argument("--horizons", nargs="+", type=int, default=list(HORIZONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--resolve-every", type=int, default=168)
    parser.add_argument("--retrain-every", type=int, default=0)
    parser.add_argument("--readouts", choices=("own", "shared"), default="own")
    parser.add_argument("--denoise", nargs="*", choices=sorted(FILTERS), default=["range", "hampel"])
    parser.add_argument("--until-test", action="store_true", help="score what lies before the test part instead")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = [
        run(
            Trial(
                name=name,
                plan=SETS[name],
                data=given.data,
                horizons=tuple(given.horizons),
                seed=seed,
                resolve_every=given.resolve_every,
                retrain_every=given.retrain_every,
                local=given.readouts == "own",
                denoise=tuple(given.denoise),
                until_test=given.until_test,
            ),
            lambda text: sys.stderr.write(text + "\n"),
        )
        for name in given.sets
        for seed in given.seeds
    ]
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))
    sys.stdout.write(markdown(results) + "\n")


if __name__ == "__main__":
    main()
