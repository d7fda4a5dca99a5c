"""From a wave of readings to the inputs of one step: timeline, denoising, scale, context.

A wave holds at most one reading of each series. Serving and training both come through here, so that a network is
trained on exactly what it will be fed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from forecaster.core.arrays import put, shift, take
from forecaster.core.series import scaling, timeline
from forecaster.core.series.denoising import LARGEST, DenoiseConfig, denoise
from forecaster.core.series.grid import TimelineState
from forecaster.core.series.outliers import relearn_without_initial_outliers
from forecaster.core.series.reference import FIRST_READINGS, follow
from forecaster.core.series.state import InputState, ObservationConfig
from forecaster.core.series.step_inputs import StepInputs, build_step_inputs, group_inputs
from forecaster.core.series.timeline import Placement
from forecaster.records import F64, I8, I64, Bools, Outcome


@dataclass(frozen=True, slots=True)
class Wave:
    """B readings of distinct series, all (B,).

    `timestamp_ms` epoch ms; `values` NaN where missing; `records`: readings of one record are of one group.
    """

    timestamp_ms: I64
    values: F64
    records: I64


@dataclass(frozen=True, slots=True)
class Observed:
    """What a wave became. M of its B readings are steps; all but the first four speak of those alone.

    Attributes:
        outcome: of every reading; (B,).
        masked: the reading had a value that the filters keep from the inputs; (B,).
        expired: the series was idle for too long and is another one now; (B,).
        renewed: the series begins anew, its first readings without the outlandish ones; (B,).
        position: where in the wave the steps stand, ascending; (M,).
        tick: on the series' grid; (M,).
        gap: ticks since the step before; (M,).
        restarted: the grid, the context and the hidden state begin anew at this step; (M,).
        moved: values are counted from far away of where they were at the step before, or the series is renewed; (M,).
        time_ms: event time of the tick; (M,).
        interval_ms: spacing of the grid; (M,).
        records: which record each came in; (M,).
        origin: what inputs are counted from, in the units of the series; (M,).
        raw: value as it came, in the units of the series; NaN where it is missing or no truth; (M,).
        denoised: input in the units of the series; NaN where missing or masked; (M,).
        last: last valid input, in the units of the series; (M,).
        truth: raw value, no larger than inputs may be, minus the origin; (M,).
        values: denoised input minus the origin; (M,).
        count: valid readings of the series so far; (M,).
        inputs: of the step; `inputs.context` may be a view of the state, valid until the next wave.
    """

    outcome: I8
    masked: Bools
    expired: Bools
    renewed: Bools
    position: I64
    tick: I64
    gap: I64
    restarted: Bools
    moved: Bools
    time_ms: I64
    interval_ms: I64
    records: I64
    reference: F64
    raw: F64
    denoised: F64
    last: F64
    truth: F64
    values: F64
    count: I64
    inputs: StepInputs


def observe(config: ObservationConfig, times: TimelineState, series: InputState, wave: Wave) -> Observed:
    """The readings are part of the series' states, and their steps' inputs are known.

    Args:
        config: what shapes the inputs.
        times: B rows, in the order of the wave; changed in place.
        series: the same.
        wave: B readings.
    """
    placement = timeline.place(config.grid, times, wave.timestamp_ms)
    used = np.flatnonzero(placement.outcome <= Outcome.WARMING)
    whole = len(used) == len(wave.values)
    if placement.expired.any():
        expired = np.flatnonzero(placement.expired)
        put(series, expired, InputState.empty(len(expired), config))
    part = series if whole else take(series, used)
    inputs, truth = _clean(config.denoise, part, wave.values if whole else wave.values[used])
    if config.interval_ms == 0:
        _remember_warming(part, inputs, placement.restarted[used] & ~placement.settled[used])
    _restart(part, inputs, placement.restarted[used])
    moved = follow(part, inputs)
    _enter(part, inputs, placement.gap[used])
    renewed = relearn_without_initial_outliers(config.denoise, part, inputs)
    if placement.settled.any():
        _fill_settled(part, times, used, placement)
    if not whole:
        put(series, used, part)
    outcome = placement.outcome
    without_value = used[(outcome[used] == Outcome.FORECAST) & np.isnan(part.last)]
    outcome[without_value] = Outcome.WARMING
    return _steps(_Used(used, part, inputs, truth, moved, renewed), times, placement, wave)


def waves(row: I64, records: I64) -> list[I64]:
    """Returns the positions of the readings of each wave, ascending.

    A wave has one reading of a series at most, in their order, and all readings of a record: a group steps together.

    Args:
        row: of each reading; (N,).
        records: ascending; (N,).
    """
    turn = _turns(row)
    begins = np.flatnonzero(np.diff(records, prepend=-1))
    if len(begins) < len(row):
        low, high = np.minimum.reduceat(turn, begins), np.maximum.reduceat(turn, begins)
        if (low != high).any():
            turn = _turns_of_groups(row, begins)
    if not len(turn) or not turn.any():
        return [np.arange(len(row))] if len(row) else []
    order = np.argsort(turn, kind="stable")
    return np.split(order, np.cumsum(np.bincount(turn))[:-1])


def _turns(row: I64) -> I64:
    """Returns how many readings of the same series come before each."""
    order = np.argsort(row, kind="stable")
    ordered = row[order]
    begins = np.flatnonzero(np.diff(ordered, prepend=-1))
    lengths = np.diff(begins, append=len(row))
    turn = np.empty(len(row), np.int64)
    turn[order] = np.arange(len(row)) - np.repeat(begins, lengths)
    return turn


def _turns_of_groups(row: I64, begins: I64) -> I64:
    """Returns the turn of each reading where records of a group do not all name the same series."""
    turn = np.empty(len(row), np.int64)
    next_turn: dict[int, int] = {}
    for begin, end in zip(begins, [*begins[1:], len(row)], strict=True):
        series = row[begin:end].tolist()
        turn[begin:end] = mine = max(next_turn.get(one, 0) for one in series)
        next_turn.update((one, mine + 1) for one in series)
    return turn


def _clean(config: DenoiseConfig, part: InputState, values: F64) -> tuple[F64, F64]:
    """Filters and scaler include the values; returns the denoised inputs and the truths, both (U,)."""
    part.denoise, inputs, truth = denoise(config, part.denoise, values)
    scaling.update(part.scaler, inputs)
    return inputs, truth


def _remember_warming(part: InputState, inputs: F64, begins: Bools) -> None:
    part.warming[begins] = np.nan
    part.warming[:, 1:] = part.warming[:, :-1]
    part.warming[:, 0] = inputs


def _restart(part: InputState, inputs: F64, restarted: Bools) -> None:
    """Where a grid begins anew, the context is empty and counted from the value that begins it."""
    part.context[restarted] = np.nan
    anew = (restarted | np.isnan(part.reference)) & ~np.isnan(inputs)
    part.reference[anew] = inputs[anew]


def _enter(part: InputState, inputs: F64, gap: I64) -> None:
    """The context's newest column is this tick's, and `last` is the last valid value."""
    shift(part.context, gap)
    relative = inputs - part.reference
    part.context[:, 0] = relative
    np.copyto(part.last, relative.astype(np.float32), where=~np.isnan(relative))


def _fill_settled(part: InputState, times: TimelineState, used: I64, placement: Placement) -> None:
    """The readings from before the interval was known stand in the context where it puts them."""
    rows = np.flatnonzero(placement.settled[used])
    stamps = times.recent_ms[used[rows]]
    interval = times.interval_ms[used[rows], None]
    back = (stamps[:, :1] - stamps + interval // 2) // interval
    for column in range(stamps.shape[1] - 1, 0, -1):
        inside = back[:, column] < part.context.shape[1]
        at, value = rows[inside], part.warming[rows[inside], column]
        part.context[at, back[inside, column]] = value - part.reference[at]


@dataclass(frozen=True, slots=True)
class _Used:
    """The readings of a wave that entered their series: positions (U,), states, denoised inputs and raw truths.

    And of each, whether the origin moved and whether its series begins anew.
    """

    position: I64
    series: InputState
    inputs: F64
    truth: F64
    moved: Bools
    renewed: Bools


def _steps(used: _Used, times: TimelineState, placement: Placement, wave: Wave) -> Observed:
    """Returns the part of the used readings that are steps, with their inputs."""
    masked, renewed = np.zeros((2, len(wave.values)), np.bool_)
    masked[used.position] = np.isnan(used.inputs) & ~np.isnan(used.truth)
    renewed[used.position] = used.renewed
    among = placement.outcome[used.position] == Outcome.FORECAST
    whole = bool(among.all())
    position = used.position if whole else used.position[among]
    series = used.series if whole else take(used.series, np.flatnonzero(among))
    denoised, raw = used.inputs[among], used.truth[among]
    tick, interval = times.tick[position], times.interval_ms[position]
    time_ms = times.start_ms[position] + tick * interval
    return Observed(
        outcome=placement.outcome,
        masked=masked,
        expired=placement.expired,
        renewed=renewed,
        position=position,
        tick=tick,
        gap=placement.gap[position],
        restarted=placement.restarted[position],
        moved=used.renewed[among] | used.moved[among] & (series.scaler.count > FIRST_READINGS),
        time_ms=time_ms,
        interval_ms=interval,
        records=wave.records[position],
        reference=series.reference,
        raw=raw,
        denoised=denoised,
        last=np.where(np.isnan(denoised), series.reference + series.last, denoised),
        truth=np.clip(raw, -LARGEST, LARGEST) - series.reference,
        values=denoised - series.reference,
        count=series.scaler.count,
        inputs=_step_inputs(series, time_ms, placement.gap[position], wave.records[position]),
    )


def _step_inputs(series: InputState, time_ms: I64, gap: I64, record: I64) -> StepInputs:
    inputs = build_step_inputs(series, series.context, series.last, time_ms, gap)
    return replace(inputs, group=group_inputs(inputs, record))
