"""The messages of a batch; readings whose forecasts are not published change the state, too."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import orjson
import pytest
from builders import HOUR_MS, LEVELS, START_MS, pipeline_config
from fakes import FakeClient, FakeKafka
from setups import iterate, setup

from forecaster.records import MaturedForecasts
from forecaster.serving.publisher import PublishConfig
from forecaster.serving.score_totals import MOST_SCALES, ScoreTotals
from forecaster.serving.worker import Worker


def served(kafka: FakeKafka, **options: object) -> Worker:
    """A worker that has read the whole input."""
    client = FakeClient(kafka)
    worker = setup(optional_topics=("scores", "denoised"), **options).worker(client)
    iterate(worker, 4)
    return worker


def bodies(kafka: FakeKafka, topic: str) -> list[dict[str, Any]]:
    return [orjson.loads(value) for name, _, value in kafka.published if name == topic]


def send(kafka: FakeKafka, hour: int, value: float | None, start_ms: int = START_MS) -> None:
    kafka.append(0, orjson.dumps({"timestamp": start_ms + hour * HOUR_MS, "value": value}))


def test_scores_compare_published_forecasts_with_their_truth() -> None:
    kafka, values = FakeKafka(), [3.0, 5.0, 4.0, None, 8.0, 6.0]
    for hour, value in enumerate(values):
        send(kafka, hour, value)
    worker = served(kafka)
    forecasts = {body["timestamp"]: body for body in bodies(kafka, "forecasts")}
    scores = bodies(kafka, "scores")
    assert [body["truth"] for body in scores] == [5.0, 4.0, 8.0, 6.0], (
        "the first has no forecast, the fourth is missing"
    )
    assert kafka.sources("scores") == [f"readings/0/{offset}" for offset in (1, 2, 4, 5)]
    for body in scores:
        for column in range(4):
            made = forecasts.get(body["timestamp"] - (column + 1) * HOUR_MS)
            if made is None:
                assert body["absolute_error"][column] is body["inside"][column] is None
                continue
            truth, point = body["truth"], made["point"][column]
            low, high = made["quantiles"]["0.1"][column], made["quantiles"]["0.9"][column]
            assert body["absolute_error"][column] == pytest.approx(abs(truth - point), abs=0.02)
            assert body["inside"][column] == (low - 0.02 <= truth <= high + 0.02)
    totals = worker.counters.scores
    assert totals.count.tolist() == [4, 3, 2, 2]
    errors = [body["absolute_error"][0] for body in scores if body["absolute_error"][0] is not None]
    assert totals.error[0] == pytest.approx(sum(errors))
    assert totals.inside[0] == sum(body["inside"][0] is True for body in scores)


def test_the_denoised_topic_holds_the_network_inputs() -> None:
    kafka, hours = FakeKafka(), 60
    for hour in range(hours):
        send(kafka, hour, 500.0 if hour == 50 else None if hour == 55 else 20.0 + hour % 3)
    served(kafka, pipeline=pipeline_config(chain=("hampel",)))
    denoised = bodies(kafka, "denoised")
    assert kafka.sources("denoised") == [f"readings/0/{hour}" for hour in range(hours)]
    assert [body["value"] for body in denoised[48:57]] == [20.0, 21.0, None, 20.0, 21.0, 22.0, 20.0, None, 22.0]
    assert (denoised[50]["raw"], denoised[50]["masked"]) == (500.0, True)
    assert (denoised[55]["raw"], denoised[55]["masked"]) == (None, False)


def test_unpublished_forecasts_still_change_the_state() -> None:
    """With `every`, the first reading in each span of ticks is published, and its forecasts are the same as without."""
    hours = [0, 1, 2, 3, 4, 5, 8, 10, 11, 12, 17, 18]
    kafka, calm = FakeKafka(), FakeKafka()
    for log in (kafka, calm):
        for hour in hours:
            send(log, hour, float(hour % 5))
    served(kafka, publish=PublishConfig(LEVELS, every=3))
    served(calm)
    published = [(body["timestamp"] - START_MS) // HOUR_MS for body in bodies(kafka, "forecasts")]
    assert published == [0, 3, 8, 10, 12, 17, 18]
    all_forecasts = {body["timestamp"]: body for body in bodies(calm, "forecasts")}
    assert all(body == all_forecasts[body["timestamp"]] for body in bodies(kafka, "forecasts"))


def test_old_readings_change_the_state_but_are_not_published() -> None:
    kafka = FakeKafka()
    now_ms = int(time.time() * 1_000) // HOUR_MS * HOUR_MS
    for hour in range(-50, 1):
        send(kafka, hour, float(hour % 5), now_ms)
    worker = served(kafka, publish=PublishConfig(LEVELS, newer_than_ms=3 * HOUR_MS))
    published = [(body["timestamp"] - now_ms) // HOUR_MS for body in bodies(kafka, "forecasts")]
    assert published == [-2, -1, 0]
    assert worker.counters.outcomes["forecast"] == 51
    assert worker.counters.scores.count[0] == 50


def test_totals_scale_errors_by_series_and_limit_them() -> None:
    """Two series with different units, one without a scale, one with a very large error."""
    truth, scale = np.array([0.0, 0.0, 0.0, 0.0]), np.array([1.0, 1_000.0, 0.0, 1.0])
    point, last = np.array([[0.5], [500.0], [7.0], [1e9]]), np.array([[1.0], [1_000.0], [7.0], [1e9]])
    quantiles = np.repeat(point[:, None], 3, axis=1)
    matured = MaturedForecasts(np.arange(4), truth, point, quantiles, last, scale, point[:, None])
    totals = ScoreTotals()
    for _ in range(2):
        totals.add(matured, LEVELS)
    assert totals.count.tolist() == [8.0]
    assert totals.scaled_error.tolist() == [2 * (0.5 + 0.5 + 0.0 + MOST_SCALES)]
    assert totals.scaled_last_error.tolist() == [2 * (1.0 + 1.0 + 0.0 + MOST_SCALES)]
