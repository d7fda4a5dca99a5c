"""Scores of the forecasts on the forecasts topic, computed from the true values, independently of the daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecaster.core.metrics import in_interval, mase
from forecaster.records import F64, I64


@dataclass(frozen=True, slots=True)
class Truths:
    """True values by series and tick.

    Attributes:
        start_ms: event time of the first tick, epoch milliseconds.
        interval_ms: time between ticks.
        values: values of each series by tick, NaN = missing; (T,) each.
        train_ticks: number of ticks at the beginning that the network was trained on; they give the scale of MASE.
    """

    start_ms: int
    interval_ms: int
    values: Mapping[str, F64]
    train_ticks: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Errors over all series and horizons.

    Attributes:
        forecasts: number of forecast records.
        scored: number of pairs of forecast and truth.
        mae: mean absolute error, by name of the forecast.
        mase: mean absolute scaled error, mean over the series, by name of the forecast.
        interval_coverage: share of truths between the outermost quantiles.
    """

    forecasts: int
    scored: int
    mae: dict[str, float]
    mase: dict[str, float]
    interval_coverage: float


class Scoreboard:
    """Collects decoded forecast records, and scores them against the truths.

    Args:
        truths: true values.
        season_ticks: ticks of a season, for the seasonal naive forecast.

    Attributes:
        latest: latest forecast record by series.
    """

    def __init__(self, truths: Truths, season_ticks: int) -> None:
        self._truths = truths
        self._season = season_ticks
        self._ticks: dict[str, list[int]] = {name: [] for name in truths.values}
        self._points: dict[str, list[Sequence[float]]] = {name: [] for name in truths.values}
        self._bounds: dict[str, list[tuple[Sequence[float], Sequence[float]]]] = {name: [] for name in truths.values}
        self.latest: dict[str, dict[str, Any]] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a forecast record; its outermost quantiles are its interval."""
        name = record["series_id"]
        quantiles = list(record["quantiles"].values())
        self._ticks[name].append((record["timestamp"] - self._truths.start_ms) // self._truths.interval_ms)
        self._points[name].append(record["point"])
        self._bounds[name].append((quantiles[0], quantiles[-1]))
        self.latest[name] = dict(record)

    def __len__(self) -> int:
        return sum(map(len, self._ticks.values()))

    def totals(self) -> Totals:
        """Return the scores of all forecasts so far."""
        errors: dict[str, list[F64]] = {"forecast": [], "last value": [], "seasonal naive": []}
        relative: dict[str, list[float]] = {name: [] for name in errors}
        covered: list[F64] = []
        for series, truth in self._truths.values.items():
            if not self._ticks[series]:
                continue
            history = truth[: self._truths.train_ticks]
            for name, error in self._errors(series, covered).items():
                errors[name].append(error)
                relative[name].append(mase(error, history))
        joined = {name: np.concatenate(parts) if parts else np.empty(0) for name, parts in errors.items()}
        is_covered = np.concatenate(covered) if covered else np.empty(0)
        return Totals(
            forecasts=len(self),
            scored=len(is_covered),
            mae={name: float(np.mean(np.abs(error))) if len(error) else np.nan for name, error in joined.items()},
            mase={name: float(np.nanmean(values)) if values else np.nan for name, values in relative.items()},
            interval_coverage=float(is_covered.mean()) if len(is_covered) else np.nan,
        )

    def _errors(self, series: str, covered: list[F64]) -> dict[str, F64]:
        """Return the errors at all targets with a truth, by name of the forecast.

        Append to `covered` whether each of these truths lies in its interval.
        """
        truth = self._truths.values[series]
        origins: I64 = np.array(self._ticks[series], np.int64)
        points = np.array(self._points[series], np.float64)
        bounds = np.array(self._bounds[series], np.float64)
        horizons = np.arange(1, points.shape[1] + 1)
        target = origins[:, None] + horizons
        actual = _at(truth, target)
        last = _at(_filled(truth), origins)[:, None]
        season = _at(_filled(truth), target - self._season * -(-horizons // self._season))
        forecasts = {"forecast": points, "last value": last, "seasonal naive": season}
        scored = np.isfinite(actual) & np.isfinite(last) & np.isfinite(season)
        covered.append(in_interval(actual, bounds[:, 0], bounds[:, 1])[scored].astype(np.float64))
        return {name: np.broadcast_to(actual - values, actual.shape)[scored] for name, values in forecasts.items()}


def _at(values: F64, ticks: I64) -> F64:
    """Return the values at these ticks; NaN outside of the series."""
    is_known = (ticks >= 0) & (ticks < len(values))
    return np.where(is_known, values[np.clip(ticks, 0, len(values) - 1)], np.nan)


def _filled(values: F64) -> F64:
    """Return the last valid value at each tick."""
    position = np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))
    return values[position]
