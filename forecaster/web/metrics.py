"""What Prometheus scrapes: made of the copies that the worker's thread has left; never a label of a series.

Labels are of fixed sets, but for `partition` (those of this worker) and `horizon` (some of the settings' ones).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate, product

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from forecaster import __version__
from forecaster.learning.coordinator import RunEvent
from forecaster.learning.schedule import RunKind
from forecaster.records import Outcome, Reason
from forecaster.serving.counters import BUCKET_SECONDS, Counters, Durations
from forecaster.serving.inspect.explanation import SHOWN_HORIZONS
from forecaster.serving.inspect.status import PartitionState, PartitionStatus, WorkerStatus
from forecaster.serving.state.recovery import Recovery
from forecaster.web.service import Service

SCORES = {
    "count": ("scored", "Forecasts that met their truth."),
    "scaled_error": ("scaled_error", "Sum of their absolute errors in scales of their series, whatever the units."),
    "scaled_last_error": ("last_value_scaled_error", "The same of forecasts of no change: above it is bad."),
    "error": ("absolute_error", "Sum of the absolute errors of the forecasts that met their truth, in their units."),
    "last_error": ("last_value_absolute_error", "The same of forecasts of no change."),
    "pinball": ("pinball_loss", "Sum of the pinball losses of the quantiles, means over the levels."),
    "inside": (
        "inside_interval",
        "Truths between the outermost quantiles; over scored_total it is the interval coverage.",
    ),
}


class ServiceCollector(Collector):
    """The metrics of a daemon, as of the newest copy.

    Args:
        service: the daemon.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yields every family, whether or not there is something in it yet."""
        service = self._service
        yield InfoMetricFamily("forecaster_build", "Version and role.", {"version": __version__, "role": service.role})
        yield _gauge("ready", "1 = it does its work: joined, restored, no partition held.", float(not service.unready))
        yield _gauge(
            "loop_silent_seconds", "Since the loop last showed that it turns.", service.liveness.silent_seconds
        )
        if service.worker is not None:
            yield _gauge(
                "status_age_seconds", "Age of the copy that this is of: grows without a broker.", service.status_age
            )
            yield from worker_families(service.worker)
        if service.coordinator is not None:
            coordinator = service.coordinator
            yield from trainer_families(
                leads=coordinator.leads, running=coordinator.running, counters=dict(coordinator.counters)
            )


def exposition(service: Service) -> Callable[[], bytes]:
    """Returns what writes all metrics of a daemon as Prometheus reads them, those of the process among them."""
    registry = CollectorRegistry()
    registry.register(ServiceCollector(service))
    ProcessCollector(registry=registry)
    return lambda: generate_latest(registry)


def worker_families(status: WorkerStatus) -> Iterator[Metric]:
    """Yields what a worker exports."""
    counters = status.counters
    yield from _counts(counters)
    yield from _scores(counters, status.horizons)
    stages = HistogramMetricFamily("forecaster_batch_stage_seconds", "Time of the parts of a batch.", labels=["stage"])
    for stage, durations in counters.stages.items():
        _add(stages, [stage.value], durations)
    yield stages
    restores = HistogramMetricFamily("forecaster_restore_seconds", "Time until a partition was whole.", labels=[])
    _add(restores, [], counters.restoring)
    yield restores
    yield from _partitions(status.partitions)
    series = sum(one.series for one in status.partitions)
    yield _gauge("series", "Series of this worker that have a row.", series)
    yield _gauge("state_bytes", "Bytes of their rows in memory.", series * status.row_bytes)
    yield _gauge(
        "nominal_interval_coverage", "Share of truths that should be inside; 0 = one level.", status.nominal_coverage
    )
    yield _gauge("group_generation", "Generation of the consumer group.", status.generation)


def _counts(counters: Counters) -> Iterator[Metric]:
    yield _counter("records", "Input records of committed batches.", counters.records)
    yield _labelled(
        "dead_letters", "Records that became dead letters.", "reason", counters.dead_letters, [*map(str, Reason)]
    )
    yield _labelled(
        "readings",
        "What became of readings; all but forecast and stateless publish nothing.",
        "outcome",
        counters.outcomes,
        [outcome.name.lower() for outcome in Outcome],
    )
    yield _counter("masked_readings", "Readings that the filters kept from the network.", counters.masked)
    yield _counter("forecasts", "Forecasts published.", counters.forecasts)
    yield _labelled(
        "transactions",
        "Transactions of batches that committed, and those of any kind that failed.",
        "result",
        {"committed": counters.transactions, "failed": counters.failed_transactions},
        ["committed", "failed"],
    )
    yield _labelled(
        "restores",
        "Partitions that became whole, by how.",
        "how",
        counters.restores,
        [how.name.lower() for how in Recovery],
    )
    yield _counter("replayed_readings", "Readings that went into rows again when partitions came.", counters.replayed)
    yield _counter(
        "freed_series", "Series that lost their row: idle for longer than STATE__TTL.", counters.freed_series
    )


def _scores(counters: Counters, horizons: tuple[int, ...]) -> Iterator[Metric]:
    shown = [
        (column, horizon)
        for column, horizon in enumerate(horizons)
        if horizon in SHOWN_HORIZONS or horizon == horizons[-1]
    ]
    for name, (metric, text) in SCORES.items():
        values, family = (
            getattr(counters.scores, name),
            CounterMetricFamily(f"forecaster_{metric}", text, labels=["horizon"]),
        )
        for column, horizon in shown:
            family.add_metric([str(horizon)], float(values[column]) if len(values) else 0.0)
        yield family


def _partitions(partitions: tuple[PartitionStatus, ...]) -> Iterator[Metric]:
    states = GaugeMetricFamily("forecaster_partitions", "Partitions of this worker by what they do.", labels=["state"])
    for state in PartitionState:
        states.add_metric([state.value], sum(one.state == state for one in partitions))
    yield states
    lag = GaugeMetricFamily("forecaster_lag_records", "Input records that wait.", labels=["partition"])
    replay = GaugeMetricFamily(
        "forecaster_replay_records", "Input records that a takeover now would read again.", labels=["partition"]
    )
    for one in partitions:
        if one.lag is not None:
            lag.add_metric([str(one.partition)], one.lag)
        replay.add_metric([str(one.partition)], one.replay)
    yield lag
    yield replay


def trainer_families(*, leads: bool, running: str | None, counters: Mapping[str, int]) -> Iterator[Metric]:
    """Yields what a trainer exports; counters are of `work_result`."""
    yield _gauge("trainer_elected", "1 = this process trains for the fleet.", float(leads))
    yield _gauge("trainer_running", "1 = a run is under way.", float(running is not None))
    family = CounterMetricFamily(
        "forecaster_trainer_runs", "Runs of the trainer: started, and how they ended.", labels=["work", "result"]
    )
    for work, result in product(RunKind, RunEvent):
        family.add_metric([work.value, result.value], counters.get(f"{work}_{result}", 0))
    yield family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"forecaster_{name}", text, value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"forecaster_{name}", text, value)


def _labelled(name: str, text: str, label: str, counts: Mapping[str, int], known: list[str]) -> Metric:
    """Returns a counter with every value of its label, so that a rate over a first event is seen."""
    family = CounterMetricFamily(f"forecaster_{name}", text, labels=[label])
    for value in known:
        family.add_metric([value], counts.get(value, 0))
    return family


def _add(family: HistogramMetricFamily, labels: list[str], durations: Durations) -> None:
    ends = [*map(str, BUCKET_SECONDS), "+Inf"]
    family.add_metric(labels, list(zip(ends, accumulate(durations.counts), strict=True)), durations.seconds)
