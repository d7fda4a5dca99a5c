"""Everything that a worker holds of one series, as plain values for people and scripts; None stands for NaN."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.core.arrays import take
from forecaster.core.checkpoint_ids import NO_CHECKPOINT, body_code
from forecaster.core.ensemble.ensemble import current_weights
from forecaster.core.ensemble.pending import PendingRing
from forecaster.core.series.grid import UNKNOWN, last_timestamp
from forecaster.core.series.scaling import LEVEL_HALF_LIVES
from forecaster.core.state import SeriesState
from forecaster.formats.forecasts import level_name
from forecaster.pipeline import PipelineConfig
from forecaster.serving.state.partition import Partition
from forecaster.serving.state.restore import Restored
from forecaster.serving.state.swaps import active_swap

SHOWN_READINGS = 12
"""Number of last readings that are shown."""
SHOWN_HORIZONS = (1, 2, 3, 6, 12, 24, 48, 96, 168, 336)
"""Horizons that are shown, in addition to the longest one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the row of the series is, and how it was restored.

    Attributes:
        group: group of the series; its own id if it has no other.
        partition: partition of the input and of the state topic.
        offset: offset of the input; the row contains all readings before it.
        block: number of the block that the row is stored in.
        block_offset: offset of the input that the stored block reaches; None = the block is not stored yet.
        recovery: how the partition was restored.
        replayed: number of readings of the partition that the restore replayed.
    """

    group: str
    partition: int
    offset: int
    block: int
    block_offset: int | None
    recovery: str
    replayed: int


@dataclass(frozen=True, slots=True)
class Input:
    """A denoised input of the series; no tick = the interval is not known yet; no value = a gap, or masked."""

    tick: int | None
    timestamp_ms: int
    value: float | None


@dataclass(frozen=True, slots=True)
class Inputs:
    """Grid, filters and scale of the series.

    Attributes:
        interval_ms: spacing of the grid; None = not known yet.
        tick: last tick; None = not known yet.
        last_ms: event time of the last tick.
        held_ms: event time far from the others, until the next reading confirms it; None = there is none.
        last_value: last valid value.
        count: number of valid readings so far.
        scale: one deviation, in the units of the series.
        levels: running means by half-life, in readings.
        spikes: number of spikes in a row before the next reading.
        readings: the last inputs, oldest first.
    """

    interval_ms: int | None
    tick: int | None
    last_ms: int
    held_ms: int | None
    last_value: float | None
    count: int
    scale: float
    levels: dict[str, float]
    spikes: int
    readings: list[Input]


@dataclass(frozen=True, slots=True)
class NetworkExplanation:
    """The checkpoint that forecasts at the next reading, and the hidden state.

    Attributes:
        checkpoint: id of the checkpoint.
        champion: id of the champion; another one as long as a swap is under way.
        hidden_is_its: the hidden state belongs to the checkpoint's body; otherwise it is re-warmed from the context at
            the next reading.
        hidden_of: id of a checkpoint whose body the hidden state belongs to; `none` = there is no hidden state yet;
            None = an unknown one.
        hidden_norm: Euclidean norm of the hidden state.
    """

    checkpoint: str
    champion: str
    hidden_is_its: bool
    hidden_of: str | None
    hidden_norm: float


@dataclass(frozen=True, slots=True)
class Pending:
    """A forecast that was made for the next tick, and the weights of the next forecast at the same horizon.

    Attributes:
        horizon: ticks between the forecast's origin and the next tick.
        made_ms: event time of the forecast's origin; None = that tick had no reading.
        point: point forecast; stored in 16 bits, so that its last digits differ from the published one.
        quantiles: quantile forecasts by level.
        last_value_rmse: root mean square error of the last-value forecast; None = none has met its truth yet.
        gate: how far the next forecast moves from the last value to the mix of the experts, 0 to 1.
        weights: weights of the experts in the mix, by name.
    """

    horizon: int
    made_ms: int | None
    point: float | None
    quantiles: dict[str, float | None]
    last_value_rmse: float | None
    gate: float
    weights: dict[str, float]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Explanation of one series; `next_ms` is the event time of its next tick, None = the interval is not known yet."""

    series_id: str
    place: Place
    inputs: Inputs
    network: NetworkExplanation
    next_ms: int | None
    pending: list[Pending]


def explain_series(
    config: PipelineConfig, restored: Restored, series_id: str, champion: str, known: Collection[str]
) -> Explanation:
    """Return the explanation of a series that has a row in the partition.

    Args:
        config: the pipeline's.
        restored: the restored partition.
        series_id: id of the series.
        champion: id of the champion.
        known: ids of other checkpoints that the hidden state may belong to.
    """
    partition = restored.partition
    row = partition.table.row(series_id)
    state = take(partition.table.state, np.array([row]))
    place = _located(restored, row, series_id)
    inputs = _inputs(state)
    settled = inputs.interval_ms is not None
    return Explanation(
        series_id=series_id,
        place=place,
        inputs=inputs,
        network=_network(partition, state, place.group, champion, known),
        next_ms=inputs.last_ms + inputs.interval_ms if inputs.interval_ms is not None else None,
        pending=_pending(config, state) if settled else [],
    )


def _located(restored: Restored, row: int, series_id: str) -> Place:
    partition = restored.partition
    block_number = int(partition.blocks.of(np.array([row]))[0])
    stored_to = partition.blocks[block_number].stored_to
    return Place(
        group=partition.blocks.group(row, series_id),
        partition=partition.number,
        offset=partition.position,
        block=block_number,
        block_offset=stored_to if stored_to >= 0 else None,
        recovery=restored.plan.recovery.value,
        replayed=restored.replayed,
    )


def _inputs(state: SeriesState) -> Inputs:
    times, inputs = state.timeline, state.inputs
    settled = bool(times.interval_ms[0] > 0)
    held = int(times.held_ms[0])
    levels = inputs.scaler.levels[0].tolist()
    return Inputs(
        interval_ms=int(times.interval_ms[0]) if settled else None,
        tick=int(times.tick[0]) if settled else None,
        last_ms=int(last_timestamp(times)[0]),
        held_ms=None if held == UNKNOWN else held,
        last_value=_known(float(inputs.reference[0] + inputs.last[0])),
        count=int(inputs.scaler.count[0]),
        scale=float(inputs.scaler.scale()[0]),
        levels={f"{life:g}": level for life, level in zip(LEVEL_HALF_LIVES, levels, strict=True)},
        spikes=int(inputs.denoise.spikes[0]),
        readings=_on_grid(state) if settled else _warming(state),
    )


def _on_grid(state: SeriesState) -> list[Input]:
    """Return the inputs at the last ticks of the grid, oldest first; a gap is an input without a value."""
    times = state.timeline
    tick, begin, interval = int(times.tick[0]), int(times.start_ms[0]), int(times.interval_ms[0])
    values = (state.inputs.context[0, :SHOWN_READINGS].astype(np.float64) + state.inputs.reference[0]).tolist()
    shown = list(enumerate(values[: tick + 1]))
    return [Input(tick - back, begin + (tick - back) * interval, _known(value)) for back, value in reversed(shown)]


def _warming(state: SeriesState) -> list[Input]:
    """Return the readings of a series whose interval is not known yet, oldest first."""
    stamps, values = state.timeline.recent_ms[0].tolist(), state.inputs.warming[0].tolist()
    readings = reversed(list(zip(stamps, values, strict=True)))
    return [Input(None, stamp, _known(value)) for stamp, value in readings if stamp != UNKNOWN]


def _network(
    partition: Partition, state: SeriesState, group: str, champion: str, known: Collection[str]
) -> NetworkExplanation:
    swaps = partition.floor.swaps
    serving = swaps[int(active_swap(swaps, np.array([partition.position], np.int64), [group])[0])].checkpoint
    body = int(state.body[0])
    return NetworkExplanation(
        checkpoint=serving,
        champion=champion,
        hidden_is_its=body == body_code(serving),
        hidden_of=_body_name(body, [serving, champion, *(swap.checkpoint for swap in swaps), *known]),
        hidden_norm=float(np.linalg.norm(state.hidden[0].astype(np.float64))),
    )


def _body_name(code: int, checkpoints: Sequence[str]) -> str | None:
    """Return the first checkpoint that has this body; None = no such checkpoint."""
    return next((name for name in (NO_CHECKPOINT, *checkpoints) if body_code(name) == code), None)


def _pending(config: PipelineConfig, state: SeriesState) -> list[Pending]:
    """Return the forecasts that were made for the next tick, one for each shown horizon."""
    times, levels = state.timeline, config.quantile_levels
    tick, begin, interval = int(times.tick[0]), int(times.start_ms[0]), int(times.interval_ms[0])
    ring = PendingRing(config.horizons, config.ensemble.kinds)
    ahead = take(state.pending, np.array([0]))
    due = ring.mature(ahead, ring.places(times.tick + 1), np.ones(1, np.int64))
    experts, current = config.ensemble.experts, current_weights(state.experts)
    absolute = due.absolute(slice(1 + len(levels)))[0] + state.inputs.reference[0]
    pending: list[Pending] = []
    for column, horizon in enumerate(config.horizons):
        if horizon in SHOWN_HORIZONS or horizon == config.horizons[-1]:
            values = [_known(value) for value in absolute[:, column].tolist()]
            made = begin + (tick + 1 - horizon) * interval
            pending.append(
                Pending(
                    horizon=horizon,
                    made_ms=None if values[0] is None else made,
                    point=values[0],
                    quantiles=dict(zip(map(level_name, levels), values[1:], strict=True)),
                    last_value_rmse=_known(float(state.pending.last_value_rmse[0, column])),
                    gate=float(current.gate[0, column]),
                    weights=dict(zip(experts, current.weights[0, :, column].tolist(), strict=True)),
                )
            )
    return pending


def _known(value: float) -> float | None:
    """Return the value, None in place of NaN."""
    return None if np.isnan(value) else value
