"""Prequential evaluation: every forecast is scored when its truth comes, and so are simple forecasts of the same time.

Scores are sums by series and horizon. The seasonal naive forecast is looked up in the history.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.core.metrics import mase_scale
from forecaster.core.scoring import score
from forecaster.history import SeriesHistory
from forecaster.records import F64, I64, Bools, Outputs

DAY_MS = 86_400_000
COMPARED_FORECASTS = ("forecast", "last value", "seasonal naive")
"""Names of the compared forecasts; the first one is the forecast of the service."""


@dataclass(frozen=True, slots=True)
class BacktestMetrics:
    """Metrics by series and horizon; (S, J) if not stated otherwise, NaN = nothing was scored.

    Attributes:
        series_ids: ids of the series; S.
        horizons: forecast horizons, ticks; J.
        scored: number of truths that met a forecast.
        mae: mean absolute error, by name of `COMPARED_FORECASTS`, in the units of the series.
        mse: mean squared error of standardised values, by name: the series' standard deviation before the evaluation is
            1.
        mase: mean absolute scaled error, by name: mae over the mean absolute step of the series before the evaluation.
        pinball: mean pinball loss of the forecast over the quantile levels.
        coverage: share of truths in the interval between the outermost quantiles.
        below: share of truths below each quantile, over all series; (Q, J).
        outcomes: number of readings by outcome.
        checkpoint: id of the checkpoint that served at the end.
        retrainings: number of trainings on the way, by result.
    """

    series_ids: list[str]
    horizons: tuple[int, ...]
    scored: F64
    mae: dict[str, F64]
    mse: dict[str, F64]
    mase: dict[str, F64]
    pinball: F64
    coverage: F64
    below: F64
    outcomes: dict[str, int]
    checkpoint: str
    retrainings: dict[str, int]


def mean_of_known(values: F64) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    known = np.asarray(values)[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


class PrequentialEvaluator:
    """Collects the scores of a pipeline while it serves a history.

    Args:
        history: all readings that the pipeline serves, in the same order.
        horizons: forecast horizons, ticks.
        levels: quantile levels, ascending.
        begin: position of the first reading whose forecasts are scored; the readings before it give the scales of mase
            and mse. 0 = all forecasts are scored, and all readings give the scales.
        interval_ms: spacing of the series' grids; 0 = the median spacing of each series.
    """

    def __init__(
        self, history: SeriesHistory, horizons: tuple[int, ...], levels: tuple[float, ...], begin: int, interval_ms: int
    ) -> None:
        series = len(history.series_ids)
        self._history = history
        self._horizons = np.array(horizons, np.int64)
        self._levels = levels
        self._begin = begin
        self._begin_ms = int(history.timestamp_ms[begin])
        self._grid = _Grid(history, interval_ms)
        self._truth = np.full(len(history), np.nan)
        shape = (series, len(horizons))
        self._count = np.zeros(shape)
        self._absolute = {name: np.zeros(shape) for name in COMPARED_FORECASTS}
        self._square = {name: np.zeros(shape) for name in COMPARED_FORECASTS}
        self._pinball, self._inside = np.zeros(shape), np.zeros(shape)
        self._below = np.zeros((len(levels), len(horizons)))

    def add(self, first: int, outputs: Outputs) -> None:
        """Add the scores of a batch.

        Args:
            first: position of the batch's first reading in the history.
            outputs: outputs of the batch.
        """
        matured = outputs.matured
        position = matured.reading + first
        self._truth[position] = matured.truth
        made_ms = (
            self._history.timestamp_ms[position, None] - self._horizons * self._grid.interval_of(position)[:, None]
        )
        scores = score(matured, self._levels)
        truth, counted = scores.truth, scores.met & (made_ms >= self._begin_ms)
        if not counted.any():
            return
        seasonal = self._grid.seasonal(position, self._horizons, self._truth)
        seasonal = np.where(np.isnan(seasonal), matured.last_value, seasonal)
        for name, values in zip(COMPARED_FORECASTS, (matured.point, matured.last_value, seasonal), strict=True):
            self._sum(self._absolute[name], position, np.abs(truth - values), counted)
            self._sum(self._square[name], position, (truth - values) ** 2, counted)
        self._sum(self._pinball, position, scores.pinball_loss, counted)
        self._sum(self._inside, position, scores.in_interval.astype(np.float64), counted)
        self._below += (counted[:, None] & (truth[:, None] <= matured.quantiles)).sum(axis=0)
        self._sum(self._count, position, np.ones_like(truth), counted)

    def report(self, outcomes: dict[str, int], checkpoint: str, retrainings: dict[str, int]) -> BacktestMetrics:
        """Return the metrics of everything added; the arguments are fields of the report."""
        known = slice(None) if self._begin == 0 else slice(0, self._begin)
        rows, truths = self._history.series_index[known], self._truth[known]
        parts = [truths[rows == row] for row in range(len(self._history.series_ids))]
        scale = np.array([mase_scale(part[~np.isnan(part)]) for part in parts])[:, None]
        deviation = np.array([np.nanstd(part) if np.isfinite(part).any() else np.nan for part in parts])[:, None]
        deviation[deviation == 0] = np.nan
        count = np.where(self._count > 0, self._count, np.nan)
        mae = {name: total / count for name, total in self._absolute.items()}
        return BacktestMetrics(
            series_ids=self._history.series_ids,
            horizons=tuple(int(horizon) for horizon in self._horizons),
            scored=self._count,
            mae=mae,
            mse={name: total / count / deviation**2 for name, total in self._square.items()},
            mase={name: values / scale for name, values in mae.items()},
            pinball=self._pinball / count,
            coverage=self._inside / count,
            below=self._below / np.nansum(count, axis=0),
            outcomes=outcomes,
            checkpoint=checkpoint,
            retrainings=retrainings,
        )

    def _sum(self, total: F64, position: I64, values: F64, scored: Bools) -> None:
        """Add the scored values to the totals of their series."""
        np.add.at(total, self._history.series_index[position], np.where(scored, values, 0.0))


class _Grid:
    """The tick of every reading of a history on the grid of its series."""

    def __init__(self, history: SeriesHistory, interval_ms: int) -> None:
        series = len(history.series_ids)
        order = np.lexsort((history.timestamp_ms, history.series_index))
        rows, stamps = history.series_index[order], history.timestamp_ms[order]
        begins = np.searchsorted(rows, np.arange(series))
        step = np.diff(stamps, prepend=stamps[:1])
        step[begins] = 0
        self._series_index = history.series_index
        self._interval = np.full(series, max(interval_ms, 1), np.int64)
        if interval_ms == 0:
            for row in range(series):
                steps = step[(rows == row) & (step > 0)]
                self._interval[row] = int(np.median(steps)) if len(steps) else 1
        per_day = np.maximum(np.rint(DAY_MS / self._interval).astype(np.int64), 1)
        self._season = np.where(per_day > 1, per_day, 7)
        tick = (history.timestamp_ms - stamps[begins][history.series_index]) / self._interval[history.series_index]
        self._span = int(tick.max()) + 2 if len(tick) else 1
        self._key = self._series_index * self._span + np.rint(tick).astype(np.int64)
        self._order = np.argsort(self._key, kind="stable")
        self._sorted = self._key[self._order]

    def interval_of(self, position: I64) -> I64:
        """Return the spacing of the grid of each reading's series, ms."""
        return np.asarray(self._interval[self._series_index[position]])

    def seasonal(self, position: I64, horizons: I64, truth: F64) -> F64:
        """Return the seasonal naive forecasts of these readings, one for each horizon; (M, J), NaN = unknown.

        The forecast of tick t, made at t - h, is the truth at t - m ceil(h / m), with m ticks in a day (in a week, if a
        tick is a day or longer).

        Args:
            position: positions of the readings in the history; (M,).
            horizons: ticks; (J,).
            truth: truths known so far, by position in the history.
        """
        season = self._season[self._series_index[position]][:, None]
        back = season * -(-horizons // season)
        tick = self._key[position] % self._span
        wanted = self._key[position][:, None] - back
        place = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        exists = (self._sorted[place] == wanted) & (tick[:, None] >= back)
        return np.where(exists, truth[self._order[place]], np.nan)
