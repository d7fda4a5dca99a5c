"""The metrics for Prometheus, computed from the newest status of the worker; no label names a series.

Labels have fixed sets of values, except `partition` (the partitions of this worker) and `horizon` (some of the
horizons).
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
from forecaster.learning.kinds import RunEvent, RunKind
from forecaster.records import FailureReason, Outcome, Reason
from forecaster.serving.counters import BUCKET_SECONDS, Counters, Durations
from forecaster.serving.inspect.explanation import SHOWN_HORIZONS
from forecaster.serving.inspect.status import PartitionState, PartitionStatus, WorkerStatus
from forecaster.serving.inspect.trouble import Trouble
from forecaster.serving.state.recovery import Recovery
from forecaster.web.service import Service

SCORES = {
    "count": ("scored", "Forecasts whose truth has arrived, by horizon."),
    "scaled_error": (
        "scaled_error",
        "Sum of absolute errors of the point forecast, in scales of the series; divide by scored_total for the mean.",
    ),
    "scaled_last_error": (
        "last_value_scaled_error",
        "Sum of absolute errors of the last-value forecast, in scales of the series; should exceed scaled_error.",
    ),
    "error": ("absolute_error", "Sum of absolute errors of the point forecast, in the units of the series."),
    "last_error": (
        "last_value_absolute_error",
        "Sum of absolute errors of the last-value forecast, in the units of the series.",
    ),
    "pinball": ("pinball_loss", "Sum of pinball losses, each the mean over the quantile levels."),
    "inside": (
        "inside_interval",
        "Truths between the outermost quantiles; divide by scored_total for the interval coverage.",
    ),
}


class ServiceCollector(Collector):
    """Computes the metrics of a daemon from its newest status.

    Args:
        service: the daemon.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family, also those that have counted nothing yet."""
        service = self._service
        yield InfoMetricFamily("forecaster_build", "Version and role.", {"version": __version__, "role": service.role})
        yield _gauge(
            "ready",
            "1 = ready: in the consumer group, all partitions restored, none held, transactions commit, topics fit.",
            float(not service.unready),
        )
        yield _gauge(
            "loop_silent_seconds", "Seconds since the main loop last made progress.", service.liveness.silent_seconds
        )
        if service.worker is not None:
            yield _gauge(
                "status_age_seconds",
                "Age of the status that the metrics come from; it grows while the broker does not answer.",
                service.status_age,
            )
            yield from worker_families(service.worker)
        if service.coordinator is not None:
            coordinator = service.coordinator
            yield from trainer_families(
                is_elected=coordinator.is_elected, running=coordinator.running, counters=dict(coordinator.counters)
            )


def metrics_encoder(service: Service) -> Callable[[], bytes]:
    """Return a function that encodes all metrics of a daemon and its process in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(ServiceCollector(service))
    ProcessCollector(registry=registry)
    return lambda: generate_latest(registry)


def worker_families(status: WorkerStatus) -> Iterator[Metric]:
    """Yield the metrics of a worker."""
    counters = status.counters
    yield from _counts(counters)
    yield from _scores(counters, status.horizons)
    stages = HistogramMetricFamily(
        "forecaster_batch_stage_seconds", "Duration of each stage of a batch, in seconds.", labels=["stage"]
    )
    for stage, durations in counters.stages.items():
        _add(stages, [stage.value], durations)
    yield stages
    restores = HistogramMetricFamily(
        "forecaster_restore_seconds", "Duration of restores of partitions, in seconds.", labels=[]
    )
    _add(restores, [], counters.restoring)
    yield restores
    yield from _partitions(status.partitions)
    series = sum(partition.series for partition in status.partitions)
    yield _gauge("series", "Series of this worker that have a row (stored state).", series)
    yield _gauge("state_bytes", "Memory of all rows, in bytes.", series * status.row_bytes)
    yield _gauge(
        "nominal_interval_coverage",
        "Share of truths that should lie between the outermost quantiles; 0 = there is only one quantile level.",
        status.nominal_coverage,
    )
    yield _gauge("group_generation", "Generation of the consumer group.", status.generation)
    yield from _trouble(status.trouble, status.partitions)


def _counts(counters: Counters) -> Iterator[Metric]:
    yield _counter("records", "Input records in committed batches.", counters.records)
    yield _labelled(
        "dead_letters",
        "Input records copied to the dead-letter topic, by reason.",
        "reason",
        counters.dead_letters,
        [*map(str, Reason)],
    )
    yield _labelled(
        "readings",
        "Readings by outcome; a forecast is published only for a reading whose outcome is forecast or stateless.",
        "outcome",
        counters.outcomes,
        [outcome.name.lower() for outcome in Outcome],
    )
    yield _counter("masked_readings", "Readings that the filters masked from the network's input.", counters.masked)
    yield _counter("forecasts", "Forecasts published.", counters.forecasts)
    yield _counter(
        "network_overflows",
        "Forecasts made without the network because its output was not finite; promote another checkpoint.",
        counters.network_overflows.total(),
    )
    yield _labelled(
        "transactions",
        "Committed transactions of batches, and failed transactions of any kind.",
        "result",
        {"committed": counters.transactions, "failed": counters.failed_transactions},
        ["committed", "failed"],
    )
    yield _labelled(
        "transaction_failures",
        "Failed transactions, by reason; the log event transaction_failed has the details.",
        "reason",
        counters.transaction_failures,
        [*map(str, FailureReason)],
    )
    yield _labelled(
        "restores",
        "Restored partitions, by kind of recovery.",
        "how",
        counters.restores,
        [how.name.lower() for how in Recovery],
    )
    yield _counter("replayed_readings", "Readings replayed during restores.", counters.replayed)
    yield _counter(
        "missing_records", "Offsets of a compacted input at which restores found no record any more.", counters.missing
    )
    yield _counter(
        "freed_series",
        "Series whose row was removed because they were idle for longer than STATE__TTL.",
        counters.freed_series,
    )


def _scores(counters: Counters, horizons: tuple[int, ...]) -> Iterator[Metric]:
    shown = [
        (column, horizon)
        for column, horizon in enumerate(horizons)
        if horizon in SHOWN_HORIZONS or horizon == horizons[-1]
    ]
    for name, (metric, text) in SCORES.items():
        values = getattr(counters.scores, name)
        family = CounterMetricFamily(f"forecaster_{metric}", text, labels=["horizon"])
        for column, horizon in shown:
            family.add_metric([str(horizon)], float(values[column]) if len(values) else 0.0)
        yield family


def _partitions(partitions: tuple[PartitionStatus, ...]) -> Iterator[Metric]:
    states = GaugeMetricFamily("forecaster_partitions", "Partitions of this worker, by state.", labels=["state"])
    for state in PartitionState:
        states.add_metric([state.value], sum(partition.state == state for partition in partitions))
    yield states
    lag = GaugeMetricFamily(
        "forecaster_lag_records",
        "Input records not read yet, those of open transactions included.",
        labels=["partition"],
    )
    replay = GaugeMetricFamily(
        "forecaster_replay_records",
        "Input records that a new owner of the partition would replay now.",
        labels=["partition"],
    )
    for partition in partitions:
        label = [str(partition.partition)]
        if partition.lag is not None:
            lag.add_metric(label, partition.lag)
        replay.add_metric(label, partition.replay)
    yield lag
    yield replay


def _trouble(trouble: Trouble, partitions: tuple[PartitionStatus, ...]) -> Iterator[Metric]:
    yield _gauge(
        "transaction_failures_in_a_row",
        "Failed transactions since the last one that was committed.",
        trouble.failed_in_a_row,
    )
    waiting = GaugeMetricFamily(
        "forecaster_waiting_seconds",
        "Time for which records have waited in a serving partition without a commit; 0 = none waits.",
        labels=["partition"],
    )
    for partition in partitions:
        waiting.add_metric([str(partition.partition)], trouble.waiting_seconds.get(partition.partition, 0.0))
    yield waiting
    yield _gauge("topics_fit", "0 = a topic is missing, or its settings do not fit.", float(not trouble.topics))


def trainer_families(*, is_elected: bool, running: str | None, counters: Mapping[str, int]) -> Iterator[Metric]:
    """Yield the metrics of a trainer.

    Args:
        is_elected: this process is elected to train.
        running: kind of the training run in progress; None = there is none.
        counters: number of runs, by `<work>_<result>`.
    """
    yield _gauge("trainer_elected", "1 = this process is elected to train for the fleet.", float(is_elected))
    yield _gauge("trainer_running", "1 = a training run is in progress.", float(running is not None))
    family = CounterMetricFamily(
        "forecaster_trainer_runs",
        "Training runs by kind: how many started, and how they ended.",
        labels=["work", "result"],
    )
    for work, result in product(RunKind, RunEvent):
        family.add_metric([work.value, result.value], counters.get(f"{work}_{result}", 0))
    yield family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"forecaster_{name}", text, value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"forecaster_{name}", text, value)


def _labelled(name: str, text: str, label: str, counts: Mapping[str, int], known: list[str]) -> Metric:
    """Return a counter with a sample for every value of its label, so that a rate sees the first event."""
    family = CounterMetricFamily(f"forecaster_{name}", text, labels=[label])
    for value in known:
        family.add_metric([value], counts.get(value, 0))
    return family


def _add(family: HistogramMetricFamily, labels: list[str], durations: Durations) -> None:
    ends = [*map(str, BUCKET_SECONDS), "+Inf"]
    family.add_metric(labels, list(zip(ends, accumulate(durations.counts), strict=True)), durations.seconds)
