"""A partition with a hundred thousand series: it is restored, and each series is forecast as if it were alone."""

from __future__ import annotations

import json

import pytest
from fakes import FakeClient, FakeKafka
from setups import setup

from forecaster.serving.worker import Worker

SERIES = 100_000
SAMPLED = 997
"""Every series with a number that this divides is compared with a run of these series alone."""


@pytest.mark.slow
def test_a_hundred_thousand_series_survive_a_kill() -> None:
    kafka = FakeKafka()
    feed(kafka, range(2), range(SERIES))
    serve(kafka, 2 * SERIES)
    feed(kafka, range(2, 3), range(SERIES))
    worker = serve(kafka, 3 * SERIES)  # nothing was flushed before: as after a kill
    assert worker.counters.restores == {"restored": 1}
    assert len(kafka.sources()) == len(set(kafka.sources())) == 3 * SERIES
    alone, sample = FakeKafka(), range(0, SERIES, SAMPLED)
    feed(alone, range(3), sample)
    serve(alone, 3 * len(sample))
    assert by_series(kafka, sample) == by_series(alone, sample)


def feed(kafka: FakeKafka, hours: range, numbers: range) -> None:
    """Append the readings of these series, hour by hour."""
    for hour in hours:
        for number in numbers:
            kafka.hours(0, range(hour, hour + 1), b"pump-%d" % number)


def serve(kafka: FakeKafka, forecasts: int) -> Worker:
    """Return a new worker that has served until there are this many forecasts."""
    worker = setup().worker(FakeClient(kafka))
    while len(kafka.published) < forecasts:
        worker.iterate()
    return worker


def by_series(kafka: FakeKafka, numbers: range) -> dict[str, list[bytes]]:
    """Return the forecasts of these series, in their order."""
    forecasts: dict[str, list[bytes]] = {f"pump-{number}": [] for number in numbers}
    for _, _, value in kafka.published:
        name = json.loads(value)["series_id"]
        if name in forecasts:
            forecasts[name].append(value)
    return forecasts
