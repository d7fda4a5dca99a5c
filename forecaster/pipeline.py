"""The way of a reading, after decoding and before publishing: one pure function, `advance`.

It knows no clock and no broker. It works on the batch's own copy of the touched rows, which the table adopts only when
the transaction has committed: an aborted batch leaves no trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.core.arrays import concatenate, put, take
from forecaster.core.ensemble.conformal import normal_quantiles
from forecaster.core.ensemble.ensemble import Ensemble, EnsembleConfig, ExpertState, Forecast, NetworkForecast
from forecaster.core.ensemble.experts import HEADS, TickContext
from forecaster.core.ensemble.pending import Anchors, Matured, PendingRing, PendingState, rebase
from forecaster.core.ensemble.seasonal import DAY_AND_WEEK, Seasons
from forecaster.core.network.model import NO_CHECKPOINT, NO_NETWORK, Model, ReadoutIndex, StepForecast
from forecaster.core.rewarm import rewarm
from forecaster.core.series.observe import Observed, Wave, observe, waves
from forecaster.core.series.scaling import MIDDLE_LEVEL
from forecaster.core.series.state import ObservationConfig
from forecaster.core.series.step_inputs import StepInputs
from forecaster.core.state import SeriesState, StateShape
from forecaster.records import F32, F64, I64, Forecasts, Outcome, Outputs, Readings, Scores


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """What a pipeline forecasts, from what.

    Attributes:
        observation: what shapes the inputs.
        horizons: ticks ahead, ascending.
        quantile_levels: ascending, in (0, 1).
        heads: of the network that are kept apart: the shared readout, then the series' own.
        seasons_ms: lengths of the seasons that the simple experts know.
        tells: outputs hold every expert's forecasts and weights as well.
    """

    observation: ObservationConfig
    horizons: tuple[int, ...]
    quantile_levels: tuple[float, ...]
    heads: int = 1
    seasons_ms: tuple[int, ...] = DAY_AND_WEEK
    with_details: bool = False

    @property
    def ensemble(self) -> EnsembleConfig:
        """What is forecast, by whom."""
        seasons = Seasons(self.seasons_ms, self.observation.interval_ms, self.observation.context)
        return EnsembleConfig(self.horizons, self.quantile_levels, self.heads, seasons)

    def shape(self, hidden: int) -> StateShape:
        """Returns what the rows look like that this pipeline keeps, with hidden states of so many columns."""
        return StateShape(self.observation, self.ensemble, hidden)


@dataclass(frozen=True, slots=True)
class Batch:
    """N readings and what they meet.

    Attributes:
        readings: in the order of the log.
        row: where in the batch's copy each one's series stands, -1 = it has none; (N,).
        model: which of the models forecasts at each; (N,).
    """

    readings: Readings
    row: I64
    model: I64

    @classmethod
    def of_one_model(cls, readings: Readings, row: I64) -> Batch:
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
    masked, denoised = np.zeros(len(batch.row), np.bool_), np.full(len(batch.row), np.nan)
    ring = PendingRing(config.horizons, config.ensemble.kinds)
    parts: list[tuple[Forecasts, Scores]] = []
    local = [_local(config, model, batch.readings) for model in models]
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
        anew = np.flatnonzero(observed.expired | observed.renewed)
        if len(anew):
            _forget(config, part, anew)
        outcomes[positions], masked[positions] = observed.outcome, observed.masked
        made_by = which[observed.position]
        steps = positions[observed.position]
        denoised[steps] = observed.denoised
        readout_index = [None if one is None else ReadoutIndex(one[steps], observed.records) for one in local]
        step = _step(ring, config, _WaveModels(models, made_by, readout_index), part, observed)
        if not whole:
            put(state, rows, part)
        names = np.array([NO_CHECKPOINT if model is None else model.id for model in models], object)[made_by]
        where = _Where(steps, wave.timestamp_ms[observed.position], names)
        parts.append((_forecasts(config, observed, where, step), _scores(config, observed, where, step)))
    if len(kept) < len(batch.row):
        parts.append(_stateless(config, batch))
    forecasts, scores = _in_order_of_the_log(config, parts)
    return Outputs(outcomes, masked, denoised, forecasts, scores)


def _local(config: PipelineConfig, model: Model | None, readings: Readings) -> I64 | None:
    """Returns which of a model's series each reading is of; None where there is no place for their own readouts."""
    if model is None or not model.has_local or config.heads < len(HEADS):
        return None
    return model.readout_index(readings.series_ids)


def _switch(models: Models, which: I64, part: SeriesState) -> None:
    """The hidden states of all rows belong to the bodies of the models that forecast there."""
    bodies = np.array([NO_NETWORK if model is None else model.body_code for model in models], np.int64)
    others = part.body != bodies[which]
    if others.any():
        for number in np.unique(which[others]):
            rewarm(models[number], part, np.flatnonzero(others & (which == number)))


def _forget(config: PipelineConfig, part: SeriesState, rows: I64) -> None:
    """Nothing is pending or remembered in the rows of series that began anew."""
    put(part.pending, rows, config.ensemble.nothing_pending(len(rows)))
    put(part.experts, rows, ExpertState.empty(len(rows), config.ensemble))
    part.hidden[rows] = 0.0


def _stateless(config: PipelineConfig, batch: Batch) -> tuple[Forecasts, Scores]:
    """Returns the last value as the forecast of series without a row, where there is a value and a fixed interval."""
    interval = config.observation.interval_ms
    usable = (batch.row < 0) & ~np.isnan(batch.readings.values) & (interval > 0)
    reading = np.flatnonzero(usable)
    stamps, values = batch.readings.timestamp_ms[reading], batch.readings.values[reading]
    horizons, levels = len(config.horizons), len(config.quantile_levels)
    experts = len(config.ensemble.experts) if config.with_details else 0
    none = np.full((len(reading), horizons), np.nan)
    forecasts = Forecasts(
        reading=reading,
        timestamp_ms=stamps,
        target_ms=stamps[:, None] + np.array(config.horizons, np.int64) * interval,
        point=np.repeat(values[:, None], horizons, axis=1),
        quantiles=np.broadcast_to(values[:, None, None], (len(reading), levels, horizons)),
        spread_known=np.zeros(len(reading), np.bool_),
        checkpoint=np.full(len(reading), NO_CHECKPOINT, object),
        tick=stamps // max(interval, 1),
        gap=np.ones(len(reading), np.int64),
        weights=np.zeros((len(reading), experts + config.with_details, horizons), np.float32),
    )
    quantiles = np.broadcast_to(none[:, None], (len(reading), levels, horizons))
    unknown = np.broadcast_to(none[:, None], (len(reading), experts, horizons))
    return forecasts, Scores(reading, values, none, quantiles, none, np.zeros(len(values)), unknown)


@dataclass(frozen=True, slots=True)
class _WaveModels:
    """The models, which of them forecasts at each step of a wave, and who the series are to each; (M,)."""

    models: Models
    which: I64
    readout_index: Sequence[ReadoutIndex | None]


@dataclass(frozen=True, slots=True)
class _Step:
    """What the steps of a wave gave.

    Attributes:
        matured: what was forecast for now.
        experts: what each expert had forecast for now; (M, E, J).
        forecast: from now on.
    """

    matured: Matured
    experts: F32
    forecast: Forecast


def _step(
    ring: PendingRing, config: PipelineConfig, wave_models: _WaveModels, part: SeriesState, observed: Observed
) -> _Step:
    """The steps' hidden states, experts and pending forecasts include this tick."""
    whole = len(observed.position) == len(part)
    mine = part if whole else take(part, observed.position)
    pending, hidden = mine.pending, mine.hidden
    ring.clear(pending, observed.restarted)
    hidden[observed.restarted] = 0.0
    rebase(pending, mine.experts.profile.reference, observed.reference)
    places = ring.places(observed.tick)
    matured = ring.mature(pending, places, observed.gap)
    ring.learn_drift(pending, observed.truth, matured, observed.count)
    now = _tick_context(observed)
    ensemble = Ensemble(config.ensemble, mine.experts, now, mine.inputs.scaler.first_deviation().astype(np.float32))
    experts = ensemble.learn(matured.relative(observed.truth), matured)
    network_forecast = _network_forecast(ring, config, wave_models, mine, observed)
    forecast = ensemble.forecast(network_forecast, observed.records)
    ring.store(pending, places, Anchors(now.last, now.scale, now.level, forecast.usual), forecast.values)
    if not whole:
        put(part, observed.position, mine)
    return _Step(matured, experts, forecast)


def _tick_context(observed: Observed) -> TickContext:
    inputs = observed.inputs
    return TickContext(
        time_ms=observed.time_ms,
        interval_ms=observed.interval_ms,
        context=inputs.context,
        last=inputs.last,
        scale=inputs.scale,
        level=np.ascontiguousarray(inputs.levels[:, MIDDLE_LEVEL]),
        reference=observed.reference,
        value=observed.values,
    )


def _network_forecast(
    ring: PendingRing, config: PipelineConfig, wave_models: _WaveModels, mine: SeriesState, observed: Observed
) -> NetworkForecast:
    """Returns what the models say; their rows' hidden states include the step then."""
    steps, horizons = len(observed.position), len(config.horizons)
    heads = np.full((steps, config.heads, horizons), np.nan, np.float32)
    offsets = np.empty((steps, len(config.quantile_levels), horizons), np.float32)
    for number, model in enumerate(wave_models.models):
        rows = np.flatnonzero(wave_models.which == number)
        if model is None and len(rows):
            offsets[rows] = _no_checkpoint_offsets(ring, config, mine.pending, observed)[rows]
        elif model is not None and len(rows):
            said = _of_network(model, observed.inputs, mine.hidden, rows, wave_models.readout_index[number])
            heads[rows, : said.heads.shape[1]], offsets[rows] = said.heads, said.offsets
    offsets[observed.count < 2] = 0.0
    return NetworkForecast(heads, offsets)


def _of_network(
    model: Model, inputs: StepInputs, hidden: F32, rows: I64, readout_index: ReadoutIndex | None
) -> StepForecast:
    """Returns what the network says at the rows, whose hidden states include the step then."""
    columns = slice(None), slice(model.state_size)
    if len(rows) == len(hidden):
        step = model.forecast(inputs, hidden[columns], readout_index)
        hidden[columns] = step.state
        return step
    some = None if readout_index is None else take(readout_index, rows)
    step = model.forecast(take(inputs, rows), hidden[rows][columns], some)
    hidden[rows, : model.state_size] = step.state
    return step


def _no_checkpoint_offsets(ring: PendingRing, config: PipelineConfig, pending: PendingState, observed: Observed) -> F32:
    """Returns normal quantiles of the last value's errors so far; (M, Q, J)."""
    scale = observed.inputs.scale
    drift = ring.drift(pending, scale) / np.where(scale > 0, scale, np.inf)[:, None]
    return np.asarray(normal_quantiles(config.quantile_levels)[:, None] * drift[:, None, :], np.float32)


@dataclass(frozen=True, slots=True)
class _Where:
    """The steps of a wave: their positions in the readings, their stamps, the checkpoints that forecast; (M,)."""

    reading: I64
    timestamp_ms: I64
    checkpoint: NDArray[np.object_]


def _forecasts(config: PipelineConfig, observed: Observed, where: _Where, step: _Step) -> Forecasts:
    scale = observed.inputs.scale.astype(np.float64)[:, None, None]
    last = observed.last[:, None, None]
    quantiles = config.ensemble.quantiles
    absolute = step.forecast.values[:, : quantiles.stop] * scale + last
    combined = step.forecast.combined
    weights = np.concatenate([combined.weights, combined.gate[:, None]], axis=1)
    return Forecasts(
        reading=where.reading,
        timestamp_ms=where.timestamp_ms,
        target_ms=observed.time_ms[:, None] + np.array(config.horizons, np.int64) * observed.interval_ms[:, None],
        point=absolute[:, 0],
        quantiles=_ascending(absolute[:, quantiles]),
        spread_known=observed.count >= 2,
        checkpoint=where.checkpoint,
        tick=observed.tick,
        gap=np.where(observed.restarted, observed.tick + 1, observed.gap),
        weights=weights if config.with_details else weights[:, :0],
    )


def _ascending(quantiles: F64) -> F64:
    """Returns the quantiles in order: each is moved on its own, so that they may cross; in place."""
    crossed = np.flatnonzero((quantiles[:, 1:] < quantiles[:, :-1]).any(axis=(1, 2)))
    quantiles[crossed] = np.sort(quantiles[crossed], axis=1)
    return quantiles


def _scores(config: PipelineConfig, observed: Observed, where: _Where, step: _Step) -> Scores:
    reference, matured = observed.reference[:, None], step.matured
    quantiles = config.ensemble.quantiles
    absolute = matured.absolute(slice(quantiles.stop)) + reference[:, None]
    last = matured.last + reference
    experts = step.experts if config.with_details else step.experts[:, :0]
    return Scores(
        reading=where.reading,
        truth=observed.raw,
        point=absolute[:, 0],
        quantiles=_ascending(absolute[:, quantiles]),
        last_value=last,
        scale=observed.inputs.scale.astype(np.float64),
        experts=experts * matured.scale.astype(np.float64)[:, None] + last[:, None],
    )


def _in_order_of_the_log(config: PipelineConfig, parts: Sequence[tuple[Forecasts, Scores]]) -> tuple[Forecasts, Scores]:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return _nothing(config)
    forecasts, scores = concatenate([part[0] for part in parts]), concatenate([part[1] for part in parts])
    order = np.argsort(forecasts.reading, kind="stable")
    return take(forecasts, order), take(scores, order)


def _nothing(config: PipelineConfig) -> tuple[Forecasts, Scores]:
    nothing = Readings([], np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
    return _stateless(config, Batch(nothing, np.empty(0, np.int64), np.empty(0, np.int64)))
