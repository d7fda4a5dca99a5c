"""What the API says: structs that become JSON, made of what the worker shows of itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from heapq import nsmallest
from itertools import chain, islice

from forecaster import __version__
from forecaster.formats.models import Decision, Serve, iso_time
from forecaster.registry.registry import ModelRegistry
from forecaster.serving.inspect.explanation import Explanation, explain_series
from forecaster.serving.inspect.latest_forecast import LatestForecast, latest_forecast
from forecaster.serving.inspect.monitor import WorkerView
from forecaster.serving.inspect.status import PartitionStatus, WorkerStatus
from forecaster.serving.score_totals import ScoreTotals
from forecaster.serving.state.partition import Partition
from forecaster.web.service import Service

NEAR_IDS, COMPARED = 5, 1_000
DECISIONS_SHOWN = 20


class NotHere(LookupError):
    """What was asked for is not in this process."""


class NoSuchSeries(NotHere):
    """This worker does not have the series; whoever shows the error looks for ids that are spelt nearly so.

    Args:
        series_id: that was asked for.
        names: some of those that are here; empty names among them are free rows.
    """

    def __init__(self, series_id: str, names: Sequence[str]) -> None:
        super().__init__(series_id)
        self._series_id, self._names = series_id, names

    def __str__(self) -> str:
        near = get_close_matches(self._series_id, [name for name in self._names if name], NEAR_IDS)
        hint = f"; spelt nearly so: {', '.join(near)}" if near else ""
        return f"this worker has no series {self._series_id!r}: another one may{hint}"


@dataclass(frozen=True, slots=True)
class HorizonScore:
    """What the forecasts of one horizon were worth in all, since the worker started.

    Attributes:
        horizon: ticks ahead.
        scored: forecasts that met their truth.
        mean_absolute_error: theirs, in their units; None = there are none yet.
        last_value_error: of forecasts of no change.
        scaled_error: mean absolute error in scales of the series, whatever the units.
        scaled_last_error: of forecasts of no change.
        pinball_loss: mean over the levels.
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
    """The trainer of this process; `elected` = it trains for the fleet; `runs` by work and result."""

    elected: bool
    running: str | None
    runs: dict[str, int]


@dataclass(frozen=True, slots=True)
class Overview:
    """A daemon at a glance.

    Attributes:
        version: of forecaster.
        role: worker, trainer or both.
        input: the topic.
        group: of the consumers.
        uptime_seconds: since the start.
        ready: it does its work.
        why_not: empty where it does.
        as_of_ms: when the copy was made that this is from, epoch ms; None = there is none yet.
        champion: checkpoint that is to be served.
        series: that have a row here.
        levels: of the quantiles.
        readings: by outcome.
        forecasts: published.
        forecasts_per_second: over the last ten seconds; None = there is no copy yet.
        dead_letters: by reason.
        partitions: of this worker.
        scores: by horizon.
        training: of this process; None = it does not train.
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
    """A partition of this worker; see `PartitionStatus`."""

    partition: int
    state: str
    position: int | None
    end: int | None
    lag: int | None
    series: int
    replay: int
    checkpoint: str


class SeriesOrder(StrEnum):
    """What the list of series begins with."""

    NAME = "name"
    BUSIEST = "busiest"
    """Most valid readings first."""


@dataclass(frozen=True, slots=True)
class SeriesCounts:
    """Series of this worker, and the valid readings of each; an empty name is a free row."""

    names: list[str]
    readings: list[int]


@dataclass(frozen=True, slots=True)
class SeriesPage:
    """Series of this worker; `found` of them match, and the first ones of these, in order, are listed."""

    found: int
    series: list[str]


@dataclass(frozen=True, slots=True)
class ModelView:
    """A checkpoint on the models topic; `facts` of its training."""

    id: str
    published: str
    cell: str
    hidden_size: int
    facts: dict[str, object]


@dataclass(frozen=True, slots=True)
class ModelsView:
    """The models topic as this process knows it: what is to be served, the checkpoints, the newest decisions first."""

    champion: str
    serve: Serve | None
    checkpoints: list[ModelView]
    decisions: list[Decision]


def overview(service: Service) -> Overview:
    """Returns the daemon at a glance, from the newest copy."""
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
        series=0 if status is None else sum(one.series for one in status.partitions),
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
    """Returns the partitions of a worker; none where there is no copy yet."""
    return [] if status is None else [_partition(one) for one in status.partitions]


def scores(totals: ScoreTotals, horizons: tuple[int, ...]) -> list[HorizonScore]:
    """Returns the means of every horizon."""
    found = []
    for column, horizon in enumerate(horizons):
        count = float(totals.count[column]) if len(totals.count) else 0.0
        means = [
            float(getattr(totals, name)[column]) / count if count else None
            for name in ("error", "last_error", "scaled_error", "scaled_last_error", "pinball", "inside")
        ]
        found.append(HorizonScore(horizon, int(count), *means))
    return found


def training(service: Service) -> Training | None:
    """Returns what the trainer of this process does."""
    coordinator = service.coordinator
    return (
        None
        if coordinator is None
        else Training(coordinator.leads, coordinator.running, dict(coordinator.counters.copy()))
    )


def series_counts(view: WorkerView) -> SeriesCounts:
    """Return the series of this worker with their valid readings, as of now."""
    tables = [partition.table for partition in view.store.partitions.values()]
    names = [name for table in tables for name in table.names]
    return SeriesCounts(names, [count for table in tables for count in table.state.inputs.scaler.count.tolist()])


def series_page(counts: SeriesCounts, search: str, limit: int, order: SeriesOrder) -> SeriesPage:
    """Return the series whose id holds a text, whatever its case.

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
    """Returns all that is carried for a series; raises NoSuchSeries where this worker does not have it."""
    partition, store = _partition_of(view, series_id), view.store
    restored = store.restored(partition.number)
    return explain_series(view.pipeline, restored, series_id, store.champion, _registry(service).checkpoints)


def forecast(view: WorkerView, series_id: str) -> LatestForecast:
    """Returns the newest forecast of a series; raises NoSuchSeries where this worker does not have it."""
    return latest_forecast(view.pipeline, _partition_of(view, series_id), series_id)


def models(view: WorkerView, service: Service) -> ModelsView:
    """Returns what is known of the models topic."""
    registry = _registry(service)
    checkpoints = [
        ModelView(
            id=name,
            published=iso_time(one.published_ms),
            cell=one.description.network.cell,
            hidden_size=one.description.network.hidden_size,
            facts=dict(one.description.facts),
        )
        for name, one in registry.checkpoints.items()
    ]
    decisions = sorted(registry.decisions.values(), key=lambda one: one.at, reverse=True)
    return ModelsView(view.store.champion, registry.serve, checkpoints, decisions[:DECISIONS_SHOWN])


def _registry(service: Service) -> ModelRegistry:
    """Returns what the models topic held; the worker's thread alone may look."""
    return ModelRegistry() if service.follower is None else service.follower.registry


def _partition(one: PartitionStatus) -> PartitionView:
    return PartitionView(
        one.partition, one.state.value, one.position, one.end, one.lag, one.series, one.replay, one.checkpoint
    )


def _partition_of(view: WorkerView, series_id: str) -> Partition:
    for partition in view.store.partitions.values():
        if partition.table.row(series_id) >= 0:
            return partition
    names = chain.from_iterable(one.table.names for one in view.store.partitions.values())
    raise NoSuchSeries(series_id, list(islice(names, COMPARED)))
