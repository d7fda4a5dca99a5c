"""Answers of the API: dataclasses that become JSON, built from the status and the rows of the worker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import nsmallest
from itertools import chain, islice
from typing import Any

from forecaster import __version__
from forecaster.formats.models import Decision, ServeOrder, iso_time
from forecaster.printable import printable
from forecaster.registry.registry import ModelRegistry
from forecaster.serving.inspect.explanation import Explanation, explain_series
from forecaster.serving.inspect.latest_forecast import LatestForecast, latest_forecast
from forecaster.serving.inspect.monitor import WorkerView
from forecaster.serving.inspect.similar_ids import similar_ids
from forecaster.serving.inspect.status import PartitionStatus, WorkerStatus
from forecaster.serving.score_totals import ScoreTotals
from forecaster.serving.state.partition import Partition
from forecaster.web.service import Service

MAX_SUGGESTIONS, MAX_COMPARED_IDS = 5, 1_000
"""Limits of the similar ids that an error suggests."""
DECISIONS_SHOWN = 20


class NotFoundHere(LookupError):
    """This process does not have what the request asks for."""


class NoSuchSeries(NotFoundHere):
    """This worker does not have the series.

    The message suggests similar ids. It is composed when it is shown, in the thread of the HTTP server and not in the
    thread of the worker.

    Args:
        series_id: requested id.
        names: ids of series of this worker, to suggest from; an empty name is a free row.
    """

    def __init__(self, series_id: str, names: Sequence[str]) -> None:
        super().__init__(series_id)
        self._series_id, self._names = series_id, names

    def __str__(self) -> str:
        similar = similar_ids(self._series_id, self._names, MAX_SUGGESTIONS)
        hint = f"; similar ids: {', '.join(map(printable, similar))}" if similar else ""
        return f"this worker has no series {self._series_id!r}; another worker may have it{hint}"


@dataclass(frozen=True, slots=True)
class HorizonScore:
    """Scores of all forecasts of one horizon since the worker started; None = none has been scored yet.

    Attributes:
        horizon: ticks ahead.
        scored: number of forecasts whose truth has arrived.
        mean_absolute_error: of the point forecasts, in the units of the series.
        last_value_error: mean absolute error of the last-value forecasts, in the units of the series.
        scaled_error: mean absolute error of the point forecasts, in scales of the series.
        scaled_last_error: mean absolute error of the last-value forecasts, in scales of the series.
        pinball_loss: mean pinball loss over forecasts and quantile levels.
        interval_coverage: share of the truths between the outermost quantiles.
    """

    horizon: int
    scored: int
    mean_absolute_error: float | None
    last_value_error: float | None
    scaled_error: float | None
    scaled_last_error: float | None
    pinball_loss: float | None
    interval_coverage: float | None


@dataclass(frozen=True, slots=True)
class Training:
    """State of the trainer of this process.

    Attributes:
        elected: this process trains for the fleet.
        running: kind of the training run in progress; None = there is none.
        runs: number of runs, by `<work>_<result>`.
    """

    elected: bool
    running: str | None
    runs: dict[str, int]


@dataclass(frozen=True, slots=True)
class Overview:
    """Overview of a daemon.

    Attributes:
        version: version of forecaster.
        role: worker, trainer or both.
        input: name of the input topic.
        group: name of the consumer group.
        uptime_seconds: time since the start.
        ready: the daemon does its work.
        why_not: reason why it does not; empty = it is ready.
        as_of_ms: time of the status that this comes from, epoch ms; None = there is none yet.
        champion: id of the checkpoint that is to serve.
        series: number of series of this worker that have a row.
        levels: quantile levels, ascending.
        readings: number of readings by outcome.
        forecasts: number of published forecasts.
        forecasts_per_second: rate over the last ten seconds; None = there is no status yet.
        dead_letters: number of dead letters by reason.
        partitions: partitions of this worker.
        scores: scores by horizon.
        training: state of the trainer; None = this process does not train.
    """

    version: str
    role: str
    input: str
    group: str
    uptime_seconds: float
    ready: bool
    why_not: str
    as_of_ms: int | None
    champion: str | None
    series: int
    levels: tuple[float, ...]
    readings: dict[str, int]
    forecasts: int
    forecasts_per_second: float | None
    dead_letters: dict[str, int]
    partitions: list[PartitionView]
    scores: list[HorizonScore]
    training: Training | None


@dataclass(frozen=True, slots=True)
class PartitionView:
    """Partition of this worker, with the fields of `PartitionStatus` except `blocks` and `readable_end`."""

    partition: int
    state: str
    position: int | None
    end: int | None
    lag: int | None
    series: int
    replay: int
    checkpoint: str


class SeriesOrder(StrEnum):
    """Order of a list of series."""

    NAME = "name"
    BUSIEST = "busiest"
    """Most valid readings first."""


@dataclass(frozen=True, slots=True)
class SeriesCounts:
    """Ids of the series of this worker, and how many valid readings each has; an empty id is a free row."""

    names: list[str]
    readings: list[int]


@dataclass(frozen=True, slots=True)
class SeriesPage:
    """Result of a search for series.

    Attributes:
        found: number of series that match.
        series: the first of their ids, in order.
    """

    found: int
    series: list[str]


@dataclass(frozen=True, slots=True)
class ModelView:
    """Checkpoint on the models topic.

    Attributes:
        id: its id.
        published: time at which it was written to the topic, ISO 8601.
        cell: kind of the recurrent cell.
        hidden_size: number of hidden units.
        facts: facts about its training.
    """

    id: str
    published: str
    cell: str
    hidden_size: int
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelsView:
    """Content of the models topic, as this process knows it.

    Attributes:
        champion: id of the checkpoint that is to serve.
        serve: newest order to serve a checkpoint; None = there is none.
        checkpoints: checkpoints that may be served, as far as is known.
        faults: why other checkpoints must not be served, by id.
        decisions: decisions about challengers, the newest first.
    """

    champion: str
    serve: ServeOrder | None
    checkpoints: list[ModelView]
    faults: dict[str, str]
    decisions: list[Decision]


def overview(service: Service) -> Overview:
    """Return an overview of the daemon, from its newest status."""
    status, why_not = service.worker, service.unready
    counters = None if status is None else status.counters
    return Overview(
        version=__version__,
        role=service.role,
        input=service.topic,
        group=service.group,
        uptime_seconds=round(time.time() - service.started, 1),
        ready=not why_not,
        why_not=why_not,
        as_of_ms=None if status is None else status.at_ms,
        champion=None if status is None else status.champion,
        series=0 if status is None else sum(partition.series for partition in status.partitions),
        levels=() if status is None else status.levels,
        readings={} if counters is None else dict(counters.outcomes),
        forecasts=0 if counters is None else counters.forecasts,
        forecasts_per_second=None if service.monitor is None else service.monitor.forecasts_per_second,
        dead_letters={} if counters is None else dict(counters.dead_letters),
        partitions=partitions(status),
        scores=[] if status is None else scores(status.counters.scores, status.horizons),
        training=training(service),
    )


def partitions(status: WorkerStatus | None) -> list[PartitionView]:
    """Return the partitions of a worker; an empty list if there is no status yet."""
    return [] if status is None else [_partition(partition) for partition in status.partitions]


def scores(totals: ScoreTotals, horizons: tuple[int, ...]) -> list[HorizonScore]:
    """Return the mean scores of every horizon."""
    means_by_horizon = []
    for column, horizon in enumerate(horizons):
        count = float(totals.count[column]) if len(totals.count) else 0.0
        means = [
            float(getattr(totals, name)[column]) / count if count else None
            for name in ("error", "last_error", "scaled_error", "scaled_last_error", "pinball", "inside")
        ]
        means_by_horizon.append(HorizonScore(horizon, int(count), *means))
    return means_by_horizon


def training(service: Service) -> Training | None:
    """Return the state of the trainer of this process; None if it does not train."""
    coordinator = service.coordinator
    if coordinator is None:
        return None
    return Training(coordinator.is_elected, coordinator.running, dict(coordinator.counters.copy()))


def series_counts(view: WorkerView) -> SeriesCounts:
    """Return the series of this worker, and how many valid readings each has now."""
    tables = [partition.table for partition in view.store.partitions.values()]
    names = [name for table in tables for name in table.names]
    return SeriesCounts(names, [count for table in tables for count in table.state.inputs.scaler.count.tolist()])


def series_page(counts: SeriesCounts, search: str, limit: int, order: SeriesOrder) -> SeriesPage:
    """Return the series whose id contains a text; upper and lower case count as equal.

    Args:
        counts: all series.
        search: the text.
        limit: number of series to list.
        order: which of them come first.
    """
    text = search.casefold()
    rows = zip(counts.names, counts.readings, strict=True)
    matches = [(-count, name) for name, count in rows if name and text in name.casefold()]
    if order is SeriesOrder.NAME:
        return SeriesPage(len(matches), nsmallest(limit, (name for _, name in matches)))
    return SeriesPage(len(matches), [name for _, name in nsmallest(limit, matches)])


def explanation(view: WorkerView, series_id: str, service: Service) -> Explanation:
    """Return the whole row of a series; raise NoSuchSeries if this worker does not have it."""
    partition, store = _partition_of(view, series_id), view.store
    restored = store.restore_result(partition.number)
    return explain_series(view.pipeline, restored, series_id, store.champion, _registry(service).checkpoints)


def forecast(view: WorkerView, series_id: str) -> LatestForecast:
    """Return the newest forecast of a series; raise NoSuchSeries if this worker does not have it."""
    return latest_forecast(view.pipeline, _partition_of(view, series_id), series_id)


def models(view: WorkerView, service: Service) -> ModelsView:
    """Return the content of the models topic, as this process knows it."""
    registry = _registry(service)
    checkpoints = [
        ModelView(
            id=name,
            published=iso_time(checkpoint.published_ms),
            cell=checkpoint.description.network.cell,
            hidden_size=checkpoint.description.network.hidden_size,
            facts=dict(checkpoint.description.facts),
        )
        for name, checkpoint in registry.checkpoints.items()
    ]
    decisions = sorted(registry.decisions.values(), key=lambda decision: decision.at, reverse=True)
    faults = dict(registry.faults)
    return ModelsView(view.store.champion, registry.serve, checkpoints, faults, decisions[:DECISIONS_SHOWN])


def _registry(service: Service) -> ModelRegistry:
    """Return the registry of the worker, empty if there is none; only the worker's thread may call this."""
    return ModelRegistry() if service.follower is None else service.follower.registry


def _partition(status: PartitionStatus) -> PartitionView:
    return PartitionView(
        partition=status.partition,
        state=status.state.value,
        position=status.position,
        end=status.end,
        lag=status.lag,
        series=status.series,
        replay=status.replay,
        checkpoint=status.checkpoint,
    )


def _partition_of(view: WorkerView, series_id: str) -> Partition:
    for partition in view.store.partitions.values():
        if partition.table.row(series_id) >= 0:
            return partition
    names = chain.from_iterable(partition.table.names for partition in view.store.partitions.values())
    raise NoSuchSeries(series_id, list(islice(names, MAX_COMPARED_IDS)))
