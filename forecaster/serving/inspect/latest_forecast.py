"""The latest forecast of a series, read from its row; up to rounding, the last one on the forecasts topic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.core.arrays import take
from forecaster.core.ensemble.pending import PendingRing
from forecaster.core.state import SeriesState
from forecaster.formats.forecasts import level_name
from forecaster.pipeline import PipelineConfig
from forecaster.serving.state.partition import Partition


@dataclass(frozen=True, slots=True)
class LatestForecast:
    """The last readings of a series, and the forecast that was made at the last one.

    Attributes:
        series_id: id of the series.
        interval_ms: spacing of the series' grid; None = not known yet, and all that follows is empty.
        timestamp: forecast origin: event time of the last tick, epoch milliseconds.
        past_ms: event times of the last ticks, ascending.
        past: denoised values of these ticks; None = a gap, or masked.
        timestamps: event times of the forecasts, ascending.
        point: point forecasts; None = none. They are stored in 16 bits, so that their last digits differ from the
            published ones.
        quantiles: quantile forecasts by level.
    """

    series_id: str
    interval_ms: int | None
    timestamp: int | None
    past_ms: list[int]
    past: list[float | None]
    timestamps: list[int]
    point: list[float | None]
    quantiles: dict[str, list[float | None]]


def latest_forecast(config: PipelineConfig, partition: Partition, series_id: str) -> LatestForecast:
    """Return the latest forecast of a series that has a row in the partition."""
    state = take(partition.table.state, np.array([partition.table.row(series_id)]))
    times = state.timeline
    interval = int(times.interval_ms[0])
    if interval <= 0:
        return LatestForecast(series_id, None, None, [], [], [], [], {})
    tick, begin = int(times.tick[0]), int(times.start_ms[0])
    levels = config.quantile_levels
    ring = PendingRing(config.horizons, config.ensemble.kinds)
    values = ring.newest(state.pending, ring.places(times.tick))[0] + state.inputs.reference[0]
    return LatestForecast(
        series_id=series_id,
        interval_ms=interval,
        timestamp=begin + tick * interval,
        past_ms=[begin + past * interval for past in range(max(0, tick + 1 - config.observation.context), tick + 1)],
        past=_past(state, tick),
        timestamps=[begin + (tick + horizon) * interval for horizon in config.horizons],
        point=_known(values[0]),
        quantiles={level_name(level): _known(values[row]) for row, level in enumerate(levels, start=1)},
    )


def _past(state: SeriesState, tick: int) -> list[float | None]:
    """Return the values of the context, oldest first, from the first tick of the grid on."""
    return _known(state.inputs.context[0, : tick + 1][::-1].astype(np.float64) + state.inputs.reference[0])


def _known(values: np.ndarray) -> list[float | None]:
    """Return the values with None in place of NaN."""
    return [None if np.isnan(value) else float(value) for value in values.tolist()]
