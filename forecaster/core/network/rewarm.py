"""Hidden states for a network that has not seen a series: its context is unrolled through the body.

Scale and levels are today's, and what the rest of the group did is taken as nothing: a row is re-warmed from itself
alone, so that it does not matter with which others, nor when between two of its readings. A tick without a value is no
step: the next one has the gap as its input, as in service.
"""

from __future__ import annotations

import numpy as np

from forecaster.core.arrays import take
from forecaster.core.network.features import GROUP, LEVELS, STEP_LAGS, StepInputs, calendar
from forecaster.core.network.model import NO_NETWORK, TILE, Model
from forecaster.core.state import SeriesState
from forecaster.records import I64, Bools


def switch(model: Model | None, state: SeriesState, rows: I64) -> None:
    """The hidden states of the rows are what the body makes of their contexts, and the rows name that body. In place.

    What intervals were moved by before any training says nothing of a network's: there they begin as it has made them.

    Args:
        model: whose hidden states they become; None before any training: there are none.
        state: N rows.
        rows: which of them.
    """
    other_spread = rows[(state.body[rows] == NO_NETWORK) != (model is None)]
    state.experts.calibration.shift[other_spread] = 0.0
    state.hidden[rows] = 0.0
    state.body[rows] = NO_NETWORK if model is None else model.body_code
    if model is None:
        return
    rows = rows[state.timeline.tick[rows] >= 0]
    for begin in range(0, len(rows), TILE):  # the steps of many rows at once would not fit in a cache
        part = rows[begin : begin + TILE]
        state.hidden[part, : model.state_size] = model.warm(*_steps(take(state, part)))


def _steps(state: SeriesState) -> tuple[StepInputs, Bools]:
    """Returns what every tick of the contexts is as a step, oldest first, (W, B, ...), and which of them are steps."""
    context = state.inputs.context
    width = context.shape[1]
    known = ~np.isnan(context[:, ::-1]).T
    place = np.where(known, np.arange(width)[:, None], -1)
    before = np.vstack([np.full((1, len(context)), -1), np.maximum.accumulate(place, axis=0)[:-1]])
    gap = np.where(before >= 0, np.arange(width)[:, None] - before, 1)
    scaler, times = state.inputs.scaler, state.timeline
    levels = (scaler.levels - state.inputs.reference[:, None]).astype(np.float32).reshape(-1, LEVELS)
    scale = scaler.scale().astype(np.float32)
    back = np.arange(width - 1, -1, -1)
    padded = np.concatenate([context, np.full((len(context), STEP_LAGS), np.nan, np.float32)], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 1 + STEP_LAGS, axis=1)[:, back].transpose(1, 0, 2)
    inputs = StepInputs(
        context=np.ascontiguousarray(windows),
        last=np.nan_to_num(context[:, ::-1].T, nan=0.0),
        scale=np.broadcast_to(scale, known.shape).copy(),
        levels=np.broadcast_to(levels, (*known.shape, LEVELS)).copy(),
        calendar=calendar(times.start_ms + (times.tick - back[:, None]) * times.interval_ms),
        masked=np.zeros(known.shape, np.float32),
        gap=(1.0 - 1.0 / gap).astype(np.float32),
        group=np.zeros((*known.shape, GROUP), np.float32),
    )
    return inputs, known
