"""The way of a reading, after decoding and before publishing: one function, `advance`, without clock or broker.

It changes the batch's own copy of the touched rows in place. `StateStore.adopt` takes the copy over only after the
transaction has committed: an aborted batch leaves no trace. The parts:

    1. wave       at most one reading of each series of the batch, so that all series step at once
    2. re-warm    a hidden state that belongs to another body than the one that forecasts
    3. observe    timeline, filters, scale, context: the inputs of the step
    4. mature     the reading is the truth of forecasts made before
    5. learn      losses, gate and intervals from that truth
    6. network    one step of the hidden state; its readouts and quantile offsets; none where they are not finite
    7. combine    the experts to a point, with intervals around it
    8. store      the forecast, which waits for its truth
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.core.arrays import concatenate, put, take
from forecaster.core.batch_models import BatchModels
from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.core.ensemble.conformal import normal_quantiles
from forecaster.core.ensemble.ensemble import Ensemble, EnsembleConfig, ExpertState, Forecast, NetworkForecast
from forecaster.core.ensemble.experts import TickContext
from forecaster.core.ensemble.pending import Anchors, Matured, PendingRing, PendingState, rebase
from forecaster.core.ensemble.seasonal import DAY_AND_WEEK, Seasons
from forecaster.core.network.model import Model
from forecaster.core.series.observe import Observed, Wave, observe, waves
from forecaster.core.series.scaling import MIDDLE_LEVEL
from forecaster.core.series.state import ObservationConfig
from forecaster.core.state import SeriesState, StateShape
from forecaster.records import F32, F64, I64, Bools, Forecasts, MaturedForecasts, Outcome, Outputs, Readings


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """Settings of a pipeline.

    Attributes:
        observation: settings of the inputs.
        horizons: ticks ahead, ascending; J.
        quantile_levels: levels in (0, 1), ascending; Q.
        heads: number of the network's forecasts that rows keep apart: 1 = the shared readout, 3 = the local ones, too.
        seasons_ms: lengths of the seasons that the simple experts know.
        with_details: outputs hold the forecasts and weights of every expert as well.
    """

    observation: ObservationConfig
    horizons: tuple[int, ...]
    quantile_levels: tuple[float, ...]
    heads: int = 1
    seasons_ms: tuple[int, ...] = DAY_AND_WEEK
    with_details: bool = False

    @property
    def ensemble(self) -> EnsembleConfig:
        """Horizons, quantile levels and experts."""
        seasons = Seasons(self.seasons_ms, self.observation.interval_ms, self.observation.context)
        return EnsembleConfig(self.horizons, self.quantile_levels, self.heads, seasons)

    def shape(self, hidden: int) -> StateShape:
        """Return the shape of this pipeline's rows, with hidden states of the given number of columns."""
        return StateShape(self.observation, self.ensemble, hidden)


@dataclass(frozen=True, slots=True)
class Batch:
    """N readings, with their rows and models.

    Attributes:
        readings: readings in the order of the log.
        row: index of each reading's series in the batch's copy of rows; -1 = the series has no row; (N,).
        model: index of the model that forecasts at each reading; (N,).
    """

    readings: Readings
    row: I64
    model: I64

    @classmethod
    def of_one_model(cls, readings: Readings, row: I64) -> Batch:
        """Return a batch with a single model."""
        return cls(readings, row, np.zeros(len(readings), np.int64))


Models = Sequence[Model | None]
"""The models that serve in a batch: one, or several during a swap. None = no checkpoint: only the simple experts."""


def advance(config: PipelineConfig, models: Models, state: SeriesState, batch: Batch) -> Outputs:
    """Add a batch of readings to the rows, in place, and return the forecasts made at them, and those that they score.

    Readings of one series are processed in order. The result of a row is the same bits, whatever else the batch holds.

    Args:
        config: settings of the pipeline.
        models: the models that forecast; see `Models`.
        state: the batch's own copy of the rows, changed in place.
        batch: readings in the order of the log, with their rows and models.

    Returns:
        Outcomes of all N readings. Of the M readings that are steps, in the order of the log: the forecasts made at
        these readings, and the earlier forecasts that these readings score.
    """
    outcomes = np.full(len(batch.row), Outcome.STATELESS, np.int8)
    masked, denoised = np.zeros(len(batch.row), np.bool_), np.full(len(batch.row), np.nan)
    plan = _BatchPlan.of(config, models, batch)
    wave_outputs: list[tuple[Forecasts, MaturedForecasts]] = []
    with_row = np.flatnonzero(batch.row >= 0)
    for wave_indices in waves(batch.row[with_row], batch.readings.record_of_reading[with_row]):  # 1. wave
        indices = with_row[wave_indices]
        row_indices = batch.row[indices]
        all_rows = len(indices) == len(state) and bool((row_indices == np.arange(len(indices))).all())
        rows = state if all_rows else take(state, row_indices)
        observed, forecasts, matured = _advance_wave(plan, rows, indices)
        if not all_rows:
            put(state, row_indices, rows)
        outcomes[indices], masked[indices] = observed.outcome, observed.masked
        denoised[forecasts.reading] = observed.denoised
        wave_outputs.append((forecasts, matured))
    if len(with_row) < len(batch.row):
        wave_outputs.append(_stateless(config, batch))
    forecasts, matured = _in_order_of_the_log(config, wave_outputs)
    return Outputs(outcomes, masked, denoised, forecasts, matured)


@dataclass(frozen=True, slots=True)
class _BatchPlan:
    """What all waves of a batch share.

    Attributes:
        config: settings of the pipeline.
        readings: readings of the batch.
        models: the models that forecast at them.
        ring: operations on pending forecasts.
    """

    config: PipelineConfig
    readings: Readings
    models: BatchModels
    ring: PendingRing

    @classmethod
    def of(cls, config: PipelineConfig, models: Models, batch: Batch) -> _BatchPlan:
        return cls(
            config=config,
            readings=batch.readings,
            models=BatchModels.of(models, batch.model, batch.readings.series_ids, config.heads),
            ring=PendingRing(config.horizons, config.ensemble.kinds),
        )


def _advance_wave(plan: _BatchPlan, rows: SeriesState, indices: I64) -> tuple[Observed, Forecasts, MaturedForecasts]:
    """Add one reading to each row, in place.

    Args:
        plan: the batch.
        rows: B rows.
        indices: index of each row's reading in the batch; (B,).

    Returns:
        The observed wave, and forecasts made at its M steps and for them.
    """
    config, readings = plan.config, plan.readings
    plan.models.rewarm(indices, rows)  # 2. re-warm
    wave = Wave(readings.timestamp_ms[indices], readings.values[indices], readings.record_of_reading[indices])
    observed = observe(config.observation, rows.timeline, rows.inputs, wave)  # 3. observe
    _reset(config, rows, observed.expired | observed.outliers_removed)
    steps = _WaveSteps(indices[observed.index], wave.timestamp_ms[observed.index])
    all_steps = len(observed.index) == len(rows)
    step_rows = rows if all_steps else take(rows, observed.index)
    result = _step(plan, step_rows, observed, steps)
    if not all_steps:
        put(rows, observed.index, step_rows)
    return observed, _forecasts(plan, observed, steps, result), _matured_forecasts(plan, observed, steps, result)


@dataclass(frozen=True, slots=True)
class _WaveSteps:
    """The M steps of a wave: index in the batch, and timestamp of each reading; (M,)."""

    reading: I64
    timestamp_ms: I64


@dataclass(frozen=True, slots=True)
class _StepResult:
    """Results of the M steps of a wave.

    Attributes:
        matured: forecasts that were made for this tick.
        experts: forecast of each expert for this tick; (M, E, J).
        forecast: forecasts made at this tick.
    """

    matured: Matured
    experts: F32
    forecast: Forecast


def _reset(config: PipelineConfig, rows: SeriesState, restarted: Bools) -> None:
    """Remove pending forecasts, expert state and hidden state of series that start again, in place."""
    indices = np.flatnonzero(restarted)
    if len(indices):
        put(rows.pending, indices, config.ensemble.nothing_pending(len(indices)))
        put(rows.experts, indices, ExpertState.empty(len(indices), config.ensemble))
        rows.hidden[indices] = 0.0


def _step(plan: _BatchPlan, rows: SeriesState, observed: Observed, steps: _WaveSteps) -> _StepResult:
    """Score, learn and forecast at the M steps of a wave, changing their rows in place."""
    ring, pending = plan.ring, rows.pending
    ring.clear(pending, observed.restarted)
    rows.hidden[observed.restarted] = 0.0
    rebase(pending, rows.experts.profile.reference, observed.reference)
    places = ring.places(observed.tick)
    matured = ring.mature(pending, places, observed.gap)  # 4. mature
    ring.learn_last_value_rmse(pending, observed.relative_truth, matured, observed.count)
    tick = _tick_context(observed)
    unit = rows.inputs.scaler.first_deviation().astype(np.float32)
    ensemble = Ensemble(plan.config.ensemble, rows.experts, tick, unit)
    experts = ensemble.learn(matured.relative(observed.relative_truth), matured)  # 5. learn
    network_forecast = _network_forecast(plan, rows, observed, steps)  # 6. network
    forecast = ensemble.forecast(network_forecast, observed.record_of_step)  # 7. combine
    ring.store(
        pending, places, Anchors(tick.last, tick.scale, tick.level, forecast.phase_mean), forecast.values
    )  # 8. store
    return _StepResult(matured, experts, forecast)


def _tick_context(observed: Observed) -> TickContext:
    inputs = observed.step_inputs
    return TickContext(
        time_ms=observed.time_ms,
        interval_ms=observed.interval_ms,
        context=inputs.context,
        last=inputs.last,
        scale=inputs.scale,
        level=np.ascontiguousarray(inputs.levels[:, MIDDLE_LEVEL]),
        reference=observed.reference,
        value=observed.relative_input,
    )


def _network_forecast(plan: _BatchPlan, rows: SeriesState, observed: Observed, steps: _WaveSteps) -> NetworkForecast:
    """Return the forecasts of one step of the network, with the offsets of the last value where it has none."""
    forecast = plan.models.step(
        plan.config.ensemble, steps.reading, observed.record_of_step, observed.step_inputs, rows.hidden
    )
    missing = np.isnan(forecast.offsets[:, 0, 0])
    if missing.any():
        forecast.offsets[missing] = _offsets_without_network(plan, rows.pending, observed)[missing]
    forecast.offsets[observed.count < 2] = 0.0
    return forecast


def _offsets_without_network(plan: _BatchPlan, pending: PendingState, observed: Observed) -> F32:
    """Return normal quantiles of the last value's errors so far, in scales; (M, Q, J)."""
    scale = observed.step_inputs.scale
    rmse = plan.ring.last_value_rmse(pending, scale) / np.where(scale > 0, scale, np.inf)[:, None]
    return np.asarray(normal_quantiles(plan.config.quantile_levels)[:, None] * rmse[:, None, :], np.float32)


def _forecasts(plan: _BatchPlan, observed: Observed, steps: _WaveSteps, result: _StepResult) -> Forecasts:
    """Return the forecasts made at the steps, in units of the series."""
    config = plan.config
    scale = observed.step_inputs.scale.astype(np.float64)[:, None, None]
    last = observed.last[:, None, None]
    quantiles = config.ensemble.quantiles
    absolute = result.forecast.values[:, : quantiles.stop] * scale + last
    combined = result.forecast.combined
    weights = np.concatenate([combined.weights, combined.gate[:, None]], axis=1)
    shared_head = result.forecast.values[:, config.ensemble.kinds - config.heads, 0]
    return Forecasts(
        reading=steps.reading,
        timestamp_ms=steps.timestamp_ms,
        target_ms=observed.time_ms[:, None] + np.array(config.horizons, np.int64) * observed.interval_ms[:, None],
        point=absolute[:, 0],
        quantiles=_ascending(absolute[:, quantiles]),
        spread_known=observed.count >= 2,
        checkpoint=np.where(np.isnan(shared_head), NO_CHECKPOINT, plan.models.checkpoints_of(steps.reading)),
        tick=observed.tick,
        gap=np.where(observed.restarted, observed.tick + 1, observed.gap),
        weights=weights if config.with_details else weights[:, :0],
    )


def _ascending(quantiles: F64) -> F64:
    """Sort the quantiles, in place: each is shifted on its own, so they may cross."""
    crossed = np.flatnonzero((quantiles[:, 1:] < quantiles[:, :-1]).any(axis=(1, 2)))
    quantiles[crossed] = np.sort(quantiles[crossed], axis=1)
    return quantiles


def _matured_forecasts(
    plan: _BatchPlan, observed: Observed, steps: _WaveSteps, result: _StepResult
) -> MaturedForecasts:
    """Return the truths of the steps with the forecasts that matured, in units of the series."""
    reference, matured = observed.reference[:, None], result.matured
    quantiles = plan.config.ensemble.quantiles
    absolute = matured.absolute(slice(quantiles.stop)) + reference[:, None]
    last = matured.last + reference
    experts = result.experts if plan.config.with_details else result.experts[:, :0]
    return MaturedForecasts(
        reading=steps.reading,
        truth=observed.truth,
        point=absolute[:, 0],
        quantiles=_ascending(absolute[:, quantiles]),
        last_value=last,
        scale=observed.step_inputs.scale.astype(np.float64),
        experts=experts * matured.scale.astype(np.float64)[:, None] + last[:, None],
    )


def _stateless(config: PipelineConfig, batch: Batch) -> tuple[Forecasts, MaturedForecasts]:
    """Return the last value as the forecast of series without a row, if it is known and the interval is fixed."""
    interval = config.observation.interval_ms
    usable = (batch.row < 0) & ~np.isnan(batch.readings.values) & (interval > 0)
    reading = np.flatnonzero(usable)
    timestamps, values = batch.readings.timestamp_ms[reading], batch.readings.values[reading]
    horizons, levels = len(config.horizons), len(config.quantile_levels)
    experts = len(config.ensemble.experts) if config.with_details else 0
    none = np.full((len(reading), horizons), np.nan)
    forecasts = Forecasts(
        reading=reading,
        timestamp_ms=timestamps,
        target_ms=timestamps[:, None] + np.array(config.horizons, np.int64) * interval,
        point=np.repeat(values[:, None], horizons, axis=1),
        quantiles=np.broadcast_to(values[:, None, None], (len(reading), levels, horizons)),
        spread_known=np.zeros(len(reading), np.bool_),
        checkpoint=np.full(len(reading), NO_CHECKPOINT, object),
        tick=timestamps // max(interval, 1),
        gap=np.ones(len(reading), np.int64),
        weights=np.zeros((len(reading), experts + config.with_details, horizons), np.float32),
    )
    quantiles = np.broadcast_to(none[:, None], (len(reading), levels, horizons))
    unknown = np.broadcast_to(none[:, None], (len(reading), experts, horizons))
    return forecasts, MaturedForecasts(reading, values, none, quantiles, none, np.zeros(len(values)), unknown)


def _in_order_of_the_log(
    config: PipelineConfig, wave_outputs: Sequence[tuple[Forecasts, MaturedForecasts]]
) -> tuple[Forecasts, MaturedForecasts]:
    """Join the forecasts of the waves, made and matured, and sort them by their readings."""
    if len(wave_outputs) == 1:
        return wave_outputs[0]
    if not wave_outputs:
        return _empty(config)
    forecasts = concatenate([forecasts for forecasts, _ in wave_outputs])
    matured = concatenate([matured for _, matured in wave_outputs])
    order = np.argsort(forecasts.reading, kind="stable")
    return take(forecasts, order), take(matured, order)


def _empty(config: PipelineConfig) -> tuple[Forecasts, MaturedForecasts]:
    readings = Readings([], np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
    return _stateless(config, Batch(readings, np.empty(0, np.int64), np.empty(0, np.int64)))
