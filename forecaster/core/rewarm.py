"""Hidden states for a network that has not seen a series: its context is unrolled through the body.

Scale and levels are today's. A tick without a value is no step: the next one has the gap as its input, as in service.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from forecaster.core.arrays import convert, take
from forecaster.core.features import GROUP, GROUP_LAGS, LEVELS, STEP_LAGS, StepInputs, calendar, group_inputs
from forecaster.core.model import NO_BODY, TILE, Model
from forecaster.core.state import SeriesState
from forecaster.records import Integers

LAGS = max(STEP_LAGS, GROUP_LAGS)


def switch(model: Model | None, state: SeriesState, rows: Integers, groups: Integers) -> None:
    """The hidden states of the rows are what the body makes of their contexts, and the rows name that body. In place.

    Args:
        model: whose hidden states they become; None before any training: there are none.
        state: N rows.
        rows: which of them.
        groups: of the rows, ascending: rows of one group see each other; the same length.
    """
    state.hidden[rows] = 0.0
    state.body[rows] = NO_BODY if model is None else model.body_code
    if model is None:
        return
    begun = state.timeline.tick[rows] >= 0
    rows, groups = rows[begun], groups[begun]
    for part in _whole_groups(groups):
        inputs, known = _steps(take(state, rows[part]), groups[part])
        state.hidden[rows[part], : model.state_size] = model.warm(inputs, known)


def _whole_groups(groups: Integers) -> Iterator[slice]:
    """Yields about a tile of rows at a time: the steps of many at once would not fit in a cache."""
    cuts = np.append(np.flatnonzero(np.diff(groups)) + 1, len(groups))
    begin = 0
    while begin < len(groups):
        end = int(cuts[np.searchsorted(cuts, min(begin + TILE, len(groups)))])
        yield slice(begin, end)
        begin = end


def _steps(state: SeriesState, groups: Integers) -> tuple[StepInputs, NDArray[np.bool_]]:
    """Returns what every tick of the contexts is as a step, oldest first, (W, B, ...), and which of them are steps."""
    context = state.inputs.context
    width = context.shape[1]
    known = ~np.isnan(context[:, ::-1]).T
    place = np.where(known, np.arange(width)[:, None], -1)
    before = np.vstack([np.full((1, len(context)), -1), np.maximum.accumulate(place, axis=0)[:-1]])
    gap = np.where(before >= 0, np.arange(width)[:, None] - before, 1)
    scaler, times = state.inputs.scaler, state.timeline
    levels = (scaler.levels - state.inputs.origin[:, None]).astype(np.float32).reshape(-1, LEVELS)
    scale = scaler.scale().astype(np.float32)
    back = np.arange(width - 1, -1, -1)
    padded = np.concatenate([context, np.full((len(context), LAGS), np.nan, np.float32)], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 1 + LAGS, axis=1)[:, back].transpose(1, 0, 2)
    inputs = StepInputs(
        context=np.ascontiguousarray(windows),
        last=np.nan_to_num(context[:, ::-1].T, nan=0.0),
        scale=np.broadcast_to(scale, known.shape).copy(),
        levels=np.broadcast_to(levels, (*known.shape, LEVELS)).copy(),
        calendar=calendar(times.start_ms + (times.tick - back[:, None]) * times.interval_ms),
        masked=np.zeros(known.shape, np.float32),
        gap=(1.0 - 1.0 / gap).astype(np.float32),
        group=None,
    )
    return replace(inputs, group=_group_inputs(inputs, known, groups)), known


def _group_inputs(inputs: StepInputs, known: NDArray[np.bool_], groups: Integers) -> NDArray[np.float32]:
    """Returns what the other series of the group did, tick by tick; (W, B, 5)."""
    of_group = np.zeros((*known.shape, GROUP), np.float32)
    if bool((groups[1:] == groups[:-1]).any()):
        for tick, there in enumerate(known):
            rows = np.flatnonzero(there)
            of_tick = convert(replace(inputs, group=of_group), lambda array, tick=tick, rows=rows: array[tick, rows])  # type: ignore[misc]
            of_group[tick, rows] = group_inputs(of_tick, groups[rows])
    return of_group
