"""The generated list of all metrics, config/metrics.md."""

from __future__ import annotations

import sys

from prometheus_client.metrics_core import Metric

from forecaster.serving.counters import Counters
from forecaster.serving.inspect.monitor import Monitor
from forecaster.serving.inspect.status import PartitionState, PartitionStatus, WorkerStatus
from forecaster.web.metrics import ServiceCollector, trainer_families
from forecaster.web.service import Service

HEADER = """\
# Metrics

Every process answers `/metrics`, with the metrics of the worker and of the trainer if it runs them. No label names a
series. `process_*` are the standard process metrics of the Prometheus client. Counters and histograms start at 0 with
the process.
Generated: `python -m forecaster.web.reference > config/metrics.md`

| metric | type | labels | meaning |
|---|---|---|---|
"""


VALUES = """
## Values of labels

`partition` is the number of a partition of this worker. `horizon` is a number of ticks: some of the horizons. `reason`
is also a header of each dead letter.

| metric | label | values |
|---|---|---|
"""
OPEN_LABELS = {"partition", "horizon", "role", "version"}
"""Labels without a fixed set of values, or with values that need no list."""


def metrics_reference() -> str:
    """Return a Markdown table of every metric."""
    families = _families()
    metrics = [
        f"| `{_name(family)}` | {_type(family)} | {', '.join(_labels(family))} | {family.documentation} |\n"
        for family in families
    ]
    values = [
        f"| `{_name(family)}` | {label} | {', '.join(f'`{value}`' for value in _values(family, label))} |\n"
        for family in families
        for label in _labels(family)
        if label not in OPEN_LABELS
    ]
    return HEADER + "".join(metrics) + VALUES + "".join(values)


class _AlwaysAlive:
    """Liveness of a service without a daemon."""

    is_alive = True
    silent_seconds = 0.0


def _families() -> list[Metric]:
    partition = PartitionStatus(0, PartitionState.SERVING, position=0, end=0)
    status = WorkerStatus(0, "", 0, True, True, "", (partition,), 0, (0.1, 0.9), (1,), Counters())  # noqa: FBT003
    monitor = Monitor()
    monitor.status = status
    service = Service("both", "", "", _AlwaysAlive(), monitor)
    return [*ServiceCollector(service).collect(), *trainer_families(is_elected=True, running=None, counters={})]


def _name(family: Metric) -> str:
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


def _values(family: Metric, label: str) -> list[str]:
    return list(dict.fromkeys(sample.labels[label] for sample in family.samples if label in sample.labels))


def _type(family: Metric) -> str:
    return "gauge, always 1" if family.type == "info" else str(family.type)


def _labels(family: Metric) -> list[str]:
    return sorted({label for sample in family.samples for label in sample.labels if label != "le"})


if __name__ == "__main__":
    sys.stdout.write(metrics_reference())
