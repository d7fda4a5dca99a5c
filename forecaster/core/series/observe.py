"""From a wave of readings to the inputs of one step: timeline, denoising, scale, context.

A wave holds at most one reading of each series: usually, wave k holds the k-th reading of each series of a batch. All
readings of a record are in one wave, so a group whose records do not all hold the same series may use a later wave.

Serving and training both use `observe`, so that a network is trained on exactly the inputs that it gets in serving.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from forecaster.core.arrays import put, shift, take
from forecaster.core.series import scaling, timeline
from forecaster.core.series.denoising import MAX_MAGNITUDE, DenoiseConfig, denoise
from forecaster.core.series.grid import TimelineState
from forecaster.core.series.outliers import relearn_without_initial_outliers
from forecaster.core.series.reference import FIRST_READINGS, move_reference
from forecaster.core.series.state import InputState, ObservationConfig
from forecaster.core.series.step_inputs import StepInputs, build_step_inputs, group_inputs
from forecaster.core.series.timeline import Placement
from forecaster.records import F64, I8, I64, Bools, Outcome


@dataclass(frozen=True, slots=True)
class Wave:
    """B readings of distinct series.

    Attributes:
        timestamp_ms: event times, epoch ms; (B,).
        values: raw values; NaN where missing; (B,).
        record_of_reading: index of each reading's record, ascending; readings of one record belong to one group; (B,).
    """

    timestamp_ms: I64
    values: F64
    record_of_reading: I64


@dataclass(frozen=True, slots=True)
class Observed:
    """A wave after observation. M of its B readings are steps; the fields of shape (M,) describe those only.

    Attributes:
        outcome: value of `Outcome`; (B,).
        masked: the reading has a value that the filters keep from the inputs; (B,).
        expired: the series was idle for longer than its time to live and starts again as a new one; (B,).
        outliers_removed: the series was learned again without the outliers among its first readings; (B,).
        index: indices of the steps in the wave, ascending; (M,).
        tick: tick on the series' grid; (M,).
        gap: ticks since the previous step; (M,).
        restarted: grid, context and hidden state start again at this step; (M,).
        has_new_reference: the reference changed after the first readings, or `outliers_removed`; (M,).
        time_ms: event time of the tick; (M,).
        interval_ms: spacing of the grid; (M,).
        record_of_step: index of the record that each step came in; (M,).
        reference: value that `relative_truth` and `relative_input` are relative to, in units of the series; (M,).
        truth: raw value, in units of the series; NaN where it is missing or no truth; (M,).
        denoised: input, in units of the series; NaN where missing or masked; (M,).
        last: last valid input, in units of the series; (M,).
        relative_truth: raw value clipped to MAX_MAGNITUDE, minus the reference; (M,).
        relative_input: denoised input minus the reference; (M,).
        count: number of valid readings of the series so far; (M,).
        step_inputs: inputs of the steps; `step_inputs.context` may be a view of the state, valid until the next wave.
    """

    outcome: I8
    masked: Bools
    expired: Bools
    outliers_removed: Bools
    index: I64
    tick: I64
    gap: I64
    restarted: Bools
    has_new_reference: Bools
    time_ms: I64
    interval_ms: I64
    record_of_step: I64
    reference: F64
    truth: F64
    denoised: F64
    last: F64
    relative_truth: F64
    relative_input: F64
    count: I64
    step_inputs: StepInputs


def observe(config: ObservationConfig, times: TimelineState, series: InputState, wave: Wave) -> Observed:
    """Add a wave of readings to the states of their series, in place, and return the inputs of its steps.

    Args:
        config: settings that shape the inputs.
        times: B rows, in the order of the wave; changed in place.
        series: B rows, in the order of the wave; changed in place.
        wave: B readings.
    """
    placement = timeline.place(config.grid, times, wave.timestamp_ms)
    used = np.flatnonzero(placement.outcome <= Outcome.WARMING)
    all_used = len(used) == len(wave.values)
    if placement.expired.any():
        expired = np.flatnonzero(placement.expired)
        put(series, expired, InputState.empty(len(expired), config))
    part = series if all_used else take(series, used)
    inputs, truth = _denoise_and_scale(config.denoise, part, wave.values if all_used else wave.values[used])
    if config.interval_ms == 0:
        _remember_warming(part, inputs, placement.restarted[used] & ~placement.settled[used])
    _restart(part, inputs, placement.restarted[used])
    has_new_reference = move_reference(part, inputs)
    _append_to_context(part, inputs, placement.gap[used])
    outliers_removed = relearn_without_initial_outliers(config.denoise, part, inputs)
    if placement.settled.any():
        _fill_context(part, times, used, placement)
    if not all_used:
        put(series, used, part)
    outcome = placement.outcome
    valueless = used[(outcome[used] == Outcome.FORECAST) & np.isnan(part.last)]
    outcome[valueless] = Outcome.WARMING  # a series without any valid value has nothing to forecast from
    return _steps(_Used(used, part, inputs, truth, has_new_reference, outliers_removed), times, placement, wave)


def waves(row: I64, record_of_reading: I64) -> list[I64]:
    """Return the indices of the readings of each wave, ascending.

    The k-th reading of a series is in wave k. In a group whose records do not all hold the same series it may be in a
    later wave, because all readings of a record are in the same wave: so a group steps together.

    Args:
        row: row of each reading's series; (N,).
        record_of_reading: index of each reading's record, ascending; (N,).
    """
    wave_index = _wave_indices(row)
    begins = np.flatnonzero(np.diff(record_of_reading, prepend=-1))
    if len(begins) < len(row):
        low, high = np.minimum.reduceat(wave_index, begins), np.maximum.reduceat(wave_index, begins)
        if (low != high).any():
            wave_index = _wave_indices_of_groups(row, begins)
    if not len(wave_index) or not wave_index.any():
        return [np.arange(len(row))] if len(row) else []
    order = np.argsort(wave_index, kind="stable")
    return np.split(order, np.cumsum(np.bincount(wave_index))[:-1])


def _wave_indices(row: I64) -> I64:
    """Return the number of earlier readings of the same series for each reading; (N,)."""
    order = np.argsort(row, kind="stable")
    ordered = row[order]
    begins = np.flatnonzero(np.diff(ordered, prepend=-1))
    lengths = np.diff(begins, append=len(row))
    wave_index = np.empty(len(row), np.int64)
    wave_index[order] = np.arange(len(row)) - np.repeat(begins, lengths)
    return wave_index


def _wave_indices_of_groups(row: I64, begins: I64) -> I64:
    """Return the wave of each reading if the records of a group do not all name the same series; (N,)."""
    wave_index = np.empty(len(row), np.int64)
    next_index: dict[int, int] = {}
    for begin, end in zip(begins, [*begins[1:], len(row)], strict=True):
        members = row[begin:end].tolist()
        current = max(next_index.get(member, 0) for member in members)
        wave_index[begin:end] = current
        next_index.update((member, current + 1) for member in members)
    return wave_index


def _denoise_and_scale(config: DenoiseConfig, part: InputState, values: F64) -> tuple[F64, F64]:
    """Update filters and scaler, in place; return the denoised inputs and the truths, each (U,)."""
    part.denoise, inputs, truth = denoise(config, part.denoise, values)
    scaling.update(part.scaler, inputs)
    return inputs, truth


def _remember_warming(part: InputState, inputs: F64, begins: Bools) -> None:
    """Add the inputs to `warming` as its newest column, in place; a new grid of unknown interval forgets the others."""
    part.warming[begins] = np.nan
    part.warming[:, 1:] = part.warming[:, :-1]
    part.warming[:, 0] = inputs


def _restart(part: InputState, inputs: F64, restarted: Bools) -> None:
    """Empty the contexts of restarted grids, in place; the value that starts the grid becomes their reference."""
    part.context[restarted] = np.nan
    starts = (restarted | np.isnan(part.reference)) & ~np.isnan(inputs)
    part.reference[starts] = inputs[starts]


def _append_to_context(part: InputState, inputs: F64, gap: I64) -> None:
    """Add this tick to the context as its newest column, and update `last`, in place."""
    shift(part.context, gap)
    relative = inputs - part.reference
    part.context[:, 0] = relative
    np.copyto(part.last, relative.astype(np.float32), where=~np.isnan(relative))


def _fill_context(part: InputState, times: TimelineState, used: I64, placement: Placement) -> None:
    """Place the readings from before the interval was known in the context, in place."""
    rows = np.flatnonzero(placement.settled[used])
    timestamps = times.recent_ms[used[rows]]
    interval = times.interval_ms[used[rows], None]
    back = (timestamps[:, :1] - timestamps + interval // 2) // interval
    for column in range(timestamps.shape[1] - 1, 0, -1):
        fits = back[:, column] < part.context.shape[1]
        at, value = rows[fits], part.warming[rows[fits], column]
        part.context[at, back[fits, column]] = value - part.reference[at]


@dataclass(frozen=True, slots=True)
class _Used:
    """The U readings of a wave that entered their series.

    Attributes:
        index: indices in the wave, ascending; (U,).
        series: states that include the readings; U rows.
        denoised: denoised values, in units of the series; (U,).
        truth: truths, in units of the series; (U,).
        has_new_reference: the reference changed; (U,).
        outliers_removed: the series was learned again without the outliers among its first readings; (U,).
    """

    index: I64
    series: InputState
    denoised: F64
    truth: F64
    has_new_reference: Bools
    outliers_removed: Bools


def _steps(used: _Used, times: TimelineState, placement: Placement, wave: Wave) -> Observed:
    """Return the used readings that are steps, with their inputs."""
    masked, outliers_removed = np.zeros((2, len(wave.values)), np.bool_)
    masked[used.index] = np.isnan(used.denoised) & ~np.isnan(used.truth)
    outliers_removed[used.index] = used.outliers_removed
    is_step = placement.outcome[used.index] == Outcome.FORECAST
    all_steps = bool(is_step.all())
    index = used.index if all_steps else used.index[is_step]
    series = used.series if all_steps else take(used.series, np.flatnonzero(is_step))
    denoised, truth = used.denoised[is_step], used.truth[is_step]
    tick, interval = times.tick[index], times.interval_ms[index]
    time_ms = times.start_ms[index] + tick * interval
    return Observed(
        outcome=placement.outcome,
        masked=masked,
        expired=placement.expired,
        outliers_removed=outliers_removed,
        index=index,
        tick=tick,
        gap=placement.gap[index],
        restarted=placement.restarted[index],
        has_new_reference=used.outliers_removed[is_step]
        | used.has_new_reference[is_step] & (series.scaler.count > FIRST_READINGS),
        time_ms=time_ms,
        interval_ms=interval,
        record_of_step=wave.record_of_reading[index],
        reference=series.reference,
        truth=truth,
        denoised=denoised,
        last=np.where(np.isnan(denoised), series.reference + series.last, denoised),
        relative_truth=np.clip(truth, -MAX_MAGNITUDE, MAX_MAGNITUDE) - series.reference,
        relative_input=denoised - series.reference,
        count=series.scaler.count,
        step_inputs=_step_inputs(series, time_ms, placement.gap[index], wave.record_of_reading[index]),
    )


def _step_inputs(series: InputState, time_ms: I64, gap: I64, record: I64) -> StepInputs:
    inputs = build_step_inputs(series, series.context, series.last, time_ms, gap)
    return replace(inputs, group=group_inputs(inputs, record))
