"""Hidden states for a network that has not seen a series: its context is unrolled through the body.

Scale and levels are today's. A tick without a value is no step: the next one has the gap as its input, as in service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from forecaster.core.arrays import take
from forecaster.core.features import LEVELS, StepInputs, calendar, group_inputs
from forecaster.core.model import Model
from forecaster.core.state import SeriesState
from forecaster.records import Integers


def rewarm(model: Model | None, state: SeriesState, groups: Sequence[str]) -> None:
    """The hidden states are what the network makes of the contexts; zero where there is none. In place.

    Args:
        model: whose hidden states they become; None before any training: there are none.
        state: N rows.
        groups: of the rows; those of one group see each other; N of them.
    """
    state.hidden[:] = 0.0
    if model is None or not len(state):
        return
    number = np.unique(groups, return_inverse=True)[1]
    order = np.argsort(number, kind="stable")
    together = take(state, order)
    _unroll(model, together, number[order])
    state.hidden[order] = together.hidden


def _unroll(model: Model, state: SeriesState, group: Integers) -> None:
    """The same, where `group` is ascending; (N,)."""
    known = ~np.isnan(state.inputs.context) & (state.timeline.tick >= 0)[:, None]
    since = np.ones(len(state), np.int64)
    for back in range(known.shape[1] - 1, -1, -1):
        rows = np.flatnonzero(known[:, back])
        if len(rows):
            inputs = _inputs_of_tick(state, rows, back, since[rows], group[rows])
            state.hidden[rows] = model.forecast(inputs, state.hidden[rows]).state
        since += 1
        since[rows] = 1


def _inputs_of_tick(state: SeriesState, rows: Integers, back: int, gap: Integers, group: Integers) -> StepInputs:
    """Returns what the step `back` ticks ago was made of, but for scale and levels, which are today's."""
    context = np.full((len(rows), state.inputs.context.shape[1]), np.nan, np.float32)
    context[:, : context.shape[1] - back] = state.inputs.context[rows, back:]
    times, scaler = state.timeline, state.inputs.scaler
    time_ms = times.start_ms[rows] + (times.tick[rows] - back) * times.interval_ms[rows]
    inputs = StepInputs(
        context=context,
        last=context[:, 0].copy(),
        scale=scaler.scale()[rows].astype(np.float32),
        levels=(scaler.levels[rows] - state.inputs.origin[rows, None]).astype(np.float32).reshape(-1, LEVELS),
        calendar=calendar(time_ms),
        masked=np.zeros(len(rows), np.float32),
        gap=(1.0 - 1.0 / gap).astype(np.float32),
        group=None,
    )
    return replace(inputs, group=group_inputs(inputs, group))
