"""The newest forecast of a series, out of its row: what its forecasts topic holds of it, but for rounding."""

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
    """The last readings of a series and what was forecast at the last of them.

    Attributes:
        series_id: of the series.
        interval_ms: of its grid; None = not known yet, and all that follows is empty.
        timestamp: event time of the last tick, which it was made at.
        past_ms: event times of the last ticks, ascending.
        past: their denoised values; None = a gap, or masked.
        timestamps: event times that were forecast, ascending.
        point: the forecasts; stored in 16 bits, so that their last digits differ from what was published; None = none.
        quantiles: by level.
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
    """Returns the newest forecast of a series that has a row in the partition."""
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
        past_ms=[begin + one * interval for one in range(max(0, tick + 1 - config.observation.context), tick + 1)],
        past=_past(state, tick),
        timestamps=[begin + (tick + horizon) * interval for horizon in config.horizons],
        point=_known(values[0]),
        quantiles={level_name(level): _known(values[1 + number]) for number, level in enumerate(levels)},
    )


def _past(state: SeriesState, tick: int) -> list[float | None]:
    """Returns the values of the context, oldest first, none before the grid began."""
    return _known(state.inputs.context[0, : tick + 1][::-1].astype(np.float64) + state.inputs.reference[0])


def _known(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values.tolist()]
