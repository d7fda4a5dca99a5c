"""The way of a reading, after decoding and before publishing: one pure function, `advance`.

It knows no clock and no broker. It works on the batch's own copy of the touched rows, which the table adopts only when
the transaction has committed: an aborted batch leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.core.arrays import put, take
from forecaster.core.features import StepInputs
from forecaster.core.model import GENESIS, NO_BODY, Model
from forecaster.core.observation import Observed, Wave, observe, waves
from forecaster.core.pending import Matured, PendingState, Ring
from forecaster.core.rewarm import switch
from forecaster.core.state import ObservationConfig, SeriesState, StateShape
from forecaster.records import Floats, Forecasts, Integers, Outcome, Outputs, Readings, Scores


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """What a pipeline forecasts, from what.

    Attributes:
        observation: what shapes the inputs.
        horizons: ticks ahead, ascending.
        quantile_levels: ascending, in (0, 1).
    """

    observation: ObservationConfig
    horizons: tuple[int, ...]
    quantile_levels: tuple[float, ...]

    def shape(self, hidden: int) -> StateShape:
        """Returns what the rows look like that this pipeline keeps, with hidden states of so many columns."""
        return StateShape(self.observation, self.horizons, len(self.quantile_levels), hidden)


@dataclass(frozen=True, slots=True)
class Batch:
    """N readings and what they meet.

    Attributes:
        readings: in the order of the log.
        row: where in the batch's copy each one's series stands, -1 = it has none; (N,).
        model: which of the models forecasts at each; (N,).
    """

    readings: Readings
    row: Integers
    model: Integers

    @classmethod
    def of_one_model(cls, readings: Readings, row: Integers) -> Batch:
        """Returns a batch whose readings all meet the only model."""
        return cls(readings, row, np.zeros(len(readings), np.int64))


Models = Sequence[Model | None]
"""Those that serve in a batch: one, or several while checkpoints change. None = before any training."""


def advance(config: PipelineConfig, models: Models, state: SeriesState, batch: Batch) -> Outputs:
    """The rows include the readings, and every reading that is a step of its series has its forecast.

    The k-th reading of each series goes in wave k: a series' readings stay in order, and all series step at once. The
    result of a row is the same, bit by bit, whatever else is in the batch. A row whose hidden state belongs to another
    body than the one that forecasts is re-warmed from its context first.

    Args:
        config: what to forecast.
        models: what forecasts; None before any training: the last value, its spread from the differences seen.
        state: the batch's own copy of the rows, changed in place.
        batch: the readings in the order of the log.

    Returns:
        Outcomes of all N readings; forecasts and scores of the M that are steps, in the order of the log.
    """
    outcomes = np.full(len(batch.row), Outcome.STATELESS, np.int8)
    masked = np.zeros(len(batch.row), np.bool_)
    ring = Ring(config.horizons, len(config.quantile_levels))
    parts: list[tuple[Forecasts, Scores]] = []
    kept = np.flatnonzero(batch.row >= 0)
    for wave_positions in waves(batch.row[kept], batch.readings.records[kept]):
        positions = kept[wave_positions]
        wave = Wave(
            batch.readings.timestamp_ms[positions],
            batch.readings.values[positions],
            batch.readings.records[positions],
        )
        rows = batch.row[positions]
        whole = len(rows) == len(state) and bool((rows == np.arange(len(rows))).all())
        part = state if whole else take(state, rows)
        which = batch.model[positions]
        _switch(models, which, part)
        observed = observe(config.observation, part.timeline, part.inputs, wave)
        if observed.expired.any():
            _forget_expired(config, part, np.flatnonzero(observed.expired))
        outcomes[positions], masked[positions] = observed.outcome, observed.masked
        made_by = which[observed.position]
        matured, values = _step(ring, config, _Cast(models, made_by), part, observed)
        if not whole:
            put(state, rows, part)
        names = np.array([GENESIS if model is None else model.id for model in models], object)[made_by]
        where = _Where(positions[observed.position], wave.timestamp_ms[observed.position], names)
        parts.append((_forecasts(config, observed, where, values), _scores(observed, where, matured)))
    if len(kept) < len(batch.row):
        parts.append(_stateless(config, batch))
    forecasts, scores = _in_order_of_the_log(config, parts)
    return Outputs(outcomes, masked, forecasts, scores)


def _switch(models: Models, which: Integers, part: SeriesState) -> None:
    """The hidden states of all rows belong to the bodies of the models that forecast there."""
    bodies = np.array([NO_BODY if model is None else model.body_code for model in models], np.int64)
    others = part.body != bodies[which]
    if others.any():
        for number in np.unique(which[others]):
            switch(models[number], part, np.flatnonzero(others & (which == number)))


def _forget_expired(config: PipelineConfig, part: SeriesState, rows: Integers) -> None:
    """Nothing is pending or remembered in the rows of series that began anew."""
    put(part.pending, rows, PendingState.empty(len(rows), config.horizons, len(config.quantile_levels)))
    part.hidden[rows] = 0.0


def _stateless(config: PipelineConfig, batch: Batch) -> tuple[Forecasts, Scores]:
    """Returns the last value as the forecast of series without a row, where there is a value and a fixed interval."""
    interval = config.observation.interval_ms
    usable = (batch.row < 0) & ~np.isnan(batch.readings.values) & (interval > 0)
    reading = np.flatnonzero(usable)
    stamps, values = batch.readings.timestamp_ms[reading], batch.readings.values[reading]
    horizons, levels = len(config.horizons), len(config.quantile_levels)
    none = np.full((len(reading), horizons), np.nan)
    forecasts = Forecasts(
        reading=reading,
        timestamp_ms=stamps,
        target_ms=stamps[:, None] + np.array(config.horizons, np.int64) * interval,
        point=np.repeat(values[:, None], horizons, axis=1),
        quantiles=np.broadcast_to(values[:, None, None], (len(reading), levels, horizons)),
        spread_known=np.zeros(len(reading), np.bool_),
        checkpoint=np.full(len(reading), GENESIS, object),
    )
    quantiles = np.broadcast_to(none[:, None], (len(reading), levels, horizons))
    return forecasts, Scores(reading, values, none, quantiles, none)


@dataclass(frozen=True, slots=True)
class _Cast:
    """The models, and which of them forecasts at each step of a wave; (M,)."""

    models: Models
    which: Integers


def _step(
    ring: Ring, config: PipelineConfig, cast: _Cast, part: SeriesState, observed: Observed
) -> tuple[Matured, Floats]:
    """The steps' hidden states and pending forecasts include this tick.

    Returns:
        What matured, and the forecasts as (forecast - last) / scale: the point, then the quantiles; (M, K, J).
    """
    whole = len(observed.position) == len(part)
    pending = part.pending if whole else take(part.pending, observed.position)
    hidden = part.hidden if whole else part.hidden[observed.position]
    ring.clear(pending, observed.restarted)
    hidden[observed.restarted] = 0.0
    matured = ring.mature(pending, observed.tick, observed.gap)
    ring.learn_drift(pending, observed.truth, matured, observed.count)
    values = np.empty((len(hidden), 1 + len(config.quantile_levels), len(config.horizons)))
    for number, model in enumerate(cast.models):
        rows = np.flatnonzero(cast.which == number)
        if model is None and len(rows):
            values[rows] = _genesis(ring, config, pending, observed)[rows]
        elif model is not None and len(rows):
            values[rows] = _of_network(model, observed.inputs, hidden, rows)
    ring.store(pending, observed.tick, observed.inputs.last, observed.inputs.scale, values)
    if not whole:
        put(part.pending, observed.position, pending)
        part.hidden[observed.position] = hidden
    return matured, values


def _of_network(model: Model, inputs: StepInputs, hidden: NDArray[np.float32], rows: Integers) -> Floats:
    """Returns the network's forecasts at the rows, whose hidden states include the step then; (len(rows), K, J)."""
    whole = len(rows) == len(hidden)
    own = slice(None), slice(model.state_size)
    step = model.forecast(inputs, hidden[own]) if whole else model.forecast(take(inputs, rows), hidden[rows][own])
    if whole:
        hidden[own] = step.state
    else:
        hidden[rows, : model.state_size] = step.state
    centre = step.centre[:, None, :].astype(np.float64)
    return np.concatenate([centre, centre + step.offsets], axis=1)


def _genesis(ring: Ring, config: PipelineConfig, pending: PendingState, observed: Observed) -> Floats:
    """Returns the last value, with normal quantiles of the last value's errors so far; (M, K, J)."""
    scale = observed.inputs.scale
    drift = ring.drift(pending, scale) / np.where(scale > 0, scale, np.inf)[:, None]
    drift[observed.count < 2] = 0.0
    normal = np.array([0.0, *(NormalDist().inv_cdf(level) for level in config.quantile_levels)])
    return np.asarray(normal[:, None] * drift[:, None, :])


@dataclass(frozen=True, slots=True)
class _Where:
    """The steps of a wave: their positions in the readings, their stamps, the checkpoints that forecast; (M,)."""

    reading: Integers
    timestamp_ms: Integers
    checkpoint: NDArray[np.object_]


def _forecasts(config: PipelineConfig, observed: Observed, where: _Where, values: Floats) -> Forecasts:
    scale = observed.inputs.scale.astype(np.float64)[:, None, None]
    last = (observed.origin + observed.inputs.last)[:, None, None]
    absolute = values * scale + last
    horizons = np.array(config.horizons, np.int64)
    return Forecasts(
        reading=where.reading,
        timestamp_ms=where.timestamp_ms,
        target_ms=observed.time_ms[:, None] + horizons * observed.interval_ms[:, None],
        point=absolute[:, 0],
        quantiles=absolute[:, 1:],
        spread_known=observed.count >= 2,
        checkpoint=where.checkpoint,
    )


def _scores(observed: Observed, where: _Where, matured: Matured) -> Scores:
    origin = observed.origin[:, None]
    return Scores(
        reading=where.reading,
        truth=observed.truth + observed.origin,
        point=matured.values[:, 0] + origin,
        quantiles=matured.values[:, 1:] + origin[:, None],
        last_value=matured.last + origin,
    )


def _in_order_of_the_log(config: PipelineConfig, parts: Sequence[tuple[Forecasts, Scores]]) -> tuple[Forecasts, Scores]:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return _nothing(config)
    forecasts, scores = [part[0] for part in parts], [part[1] for part in parts]
    order = np.argsort(np.concatenate([part.reading for part in forecasts]), kind="stable")

    def joined(columns: Iterable[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate(list(columns))[order]

    return (
        Forecasts(
            reading=joined(part.reading for part in forecasts),
            timestamp_ms=joined(part.timestamp_ms for part in forecasts),
            target_ms=joined(part.target_ms for part in forecasts),
            point=joined(part.point for part in forecasts),
            quantiles=joined(part.quantiles for part in forecasts),
            spread_known=joined(part.spread_known for part in forecasts),
            checkpoint=joined(part.checkpoint for part in forecasts),
        ),
        Scores(
            reading=joined(part.reading for part in scores),
            truth=joined(part.truth for part in scores),
            point=joined(part.point for part in scores),
            quantiles=joined(part.quantiles for part in scores),
            last_value=joined(part.last_value for part in scores),
        ),
    )


def _nothing(config: PipelineConfig) -> tuple[Forecasts, Scores]:
    horizons, levels = len(config.horizons), len(config.quantile_levels)
    none = np.empty(0, np.int64)
    point, quantiles = np.empty((0, horizons)), np.empty((0, levels, horizons))
    targets = np.empty((0, horizons), np.int64)
    return (
        Forecasts(none, none, targets, point, quantiles, np.empty(0, np.bool_), np.empty(0, object)),
        Scores(none, np.empty(0), point, quantiles, point),
    )
