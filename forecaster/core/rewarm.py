"""Hidden states for a network that has not seen a series: the network is unrolled over the series' context.

Scale and levels are the current ones, and the other series of the group count as absent. A row is thus re-warmed from
itself alone: the result depends neither on the other rows nor on when, between two readings, it happens. As in
serving, a tick without a value is no step, and the next step has the gap as an input.
"""

from __future__ import annotations

import numpy as np

from forecaster.core.arrays import take
from forecaster.core.checkpoint_ids import NO_NETWORK
from forecaster.core.network.features import STEP_LAGS
from forecaster.core.network.model import TILE, Model
from forecaster.core.series.step_inputs import StepInputs, build_step_inputs
from forecaster.core.state import SeriesState
from forecaster.records import I64, Bools


def rewarm(model: Model | None, state: SeriesState, rows: I64) -> None:
    """Replace the hidden states of the given rows by those of the model's body after their contexts, in place.

    If a row changes between no network and a network, the learned shifts of their intervals are reset to zero: they
    correct another kind of spread.

    Args:
        model: the model that forecasts at the rows from now on; None = no checkpoint, hence no hidden states.
        state: N rows.
        rows: the rows to re-warm.
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
        state.hidden[part, : model.state_size] = model.warm(*_context_steps(take(state, part)))


def _context_steps(state: SeriesState) -> tuple[StepInputs, Bools]:
    """Return every tick of the contexts as a step, oldest first, (W, B, ...), and which of them are steps, (W, B)."""
    context, times = state.inputs.context, state.timeline
    width = context.shape[1]
    known = ~np.isnan(context[:, ::-1]).T
    place = np.where(known, np.arange(width)[:, None], -1)
    before = np.vstack([np.full((1, len(context)), -1), np.maximum.accumulate(place, axis=0)[:-1]])
    gap = np.where(before >= 0, np.arange(width)[:, None] - before, 1)
    back = np.arange(width - 1, -1, -1)
    padded = np.concatenate([context, np.full((len(context), STEP_LAGS), np.nan, np.float32)], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 1 + STEP_LAGS, axis=1)[:, back].transpose(1, 0, 2)
    inputs = build_step_inputs(
        state.inputs,
        np.ascontiguousarray(windows),
        np.nan_to_num(context[:, ::-1].T, nan=0.0),
        times.start_ms + (times.tick - back[:, None]) * times.interval_ms,
        gap,
    )
    return inputs, known
