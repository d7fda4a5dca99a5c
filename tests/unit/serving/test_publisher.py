"""What is published of a batch, and that the rest changes the state all the same."""

from __future__ import annotations

import time

import numpy as np
import orjson
import pytest
from builders import HOUR_MS, LEVELS, START_MS, pipeline_config
from fakes import FakeClient, FakeKafka, setup

from forecaster.records import Scores
from forecaster.serving.publisher import PublishConfig
from forecaster.serving.score_totals import MOST_SCALES, ScoreTotals
from forecaster.serving.worker import Worker


def served(kafka: FakeKafka, **options: object) -> Worker:
    """A worker that has read all there is."""
    client = FakeClient(kafka)
    one = setup(asked=("scores", "denoised"), **options).worker(client)
    for _ in range(4):
        one.iterate()
    return one


def bodies(kafka: FakeKafka, topic: str) -> list[dict[str, object]]:
    return [orjson.loads(value) for name, _, value in kafka.published if name == topic]


def send(kafka: FakeKafka, hour: int, value: float | None, start_ms: int = START_MS) -> None:
    kafka.append(0, orjson.dumps({"timestamp": start_ms + hour * HOUR_MS, "value": value}))


def test_a_score_says_what_the_published_forecasts_of_its_reading_were_worth() -> None:
    kafka, values = FakeKafka(), [3.0, 5.0, 4.0, None, 8.0, 6.0]
    for hour, value in enumerate(values):
        send(kafka, hour, value)
    one = served(kafka)
    forecasts = {body["timestamp"]: body for body in bodies(kafka, "forecasts")}
    scores = bodies(kafka, "scores")
    assert [body["truth"] for body in scores] == [5.0, 4.0, 8.0, 6.0], "the first met no forecast, the fourth is none"
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
    totals = one.counters.scores
    assert totals.count.tolist() == [4, 3, 2, 2]
    errors = [body["absolute_error"][0] for body in scores if body["absolute_error"][0] is not None]
    assert totals.error[0] == pytest.approx(sum(errors))
    assert totals.inside[0] == sum(body["inside"][0] is True for body in scores)


def test_the_denoised_stream_holds_what_the_network_sees_of_each_step() -> None:
    kafka, hours = FakeKafka(), 60
    for hour in range(hours):
        send(kafka, hour, 500.0 if hour == 50 else None if hour == 55 else 20.0 + hour % 3)
    served(kafka, pipeline=pipeline_config(chain=("hampel",)))
    found = bodies(kafka, "denoised")
    assert kafka.sources("denoised") == [f"readings/0/{hour}" for hour in range(hours)]
    assert [body["value"] for body in found[48:57]] == [20.0, 21.0, None, 20.0, 21.0, 22.0, 20.0, None, 22.0]
    assert (found[50]["raw"], found[50]["masked"]) == (500.0, True)
    assert (found[55]["raw"], found[55]["masked"]) == (None, False)


def test_of_every_so_many_ticks_the_first_reading_publishes_and_all_change_the_state() -> None:
    hours = [0, 1, 2, 3, 4, 5, 8, 10, 11, 12, 17, 18]
    kafka, calm = FakeKafka(), FakeKafka()
    for log in (kafka, calm):
        for hour in hours:
            send(log, hour, float(hour % 5))
    served(kafka, publish=PublishConfig(LEVELS, every=3))
    served(calm)
    published = [(body["timestamp"] - START_MS) // HOUR_MS for body in bodies(kafka, "forecasts")]
    assert published == [0, 3, 8, 10, 12, 17, 18]
    whole = {body["timestamp"]: body for body in bodies(calm, "forecasts")}
    assert all(body == whole[body["timestamp"]] for body in bodies(kafka, "forecasts"))


def test_a_backlog_changes_the_state_and_is_no_news() -> None:
    kafka = FakeKafka()
    now_ms = int(time.time() * 1_000) // HOUR_MS * HOUR_MS
    for hour in range(-50, 1):
        send(kafka, hour, float(hour % 5), now_ms)
    one = served(kafka, publish=PublishConfig(LEVELS, newer_than_ms=3 * HOUR_MS))
    published = [(body["timestamp"] - now_ms) // HOUR_MS for body in bodies(kafka, "forecasts")]
    assert published == [-2, -1, 0]
    assert one.counters.outcomes["forecast"] == 51
    assert one.counters.scores.count[0] == 50


def test_in_totals_a_series_counts_in_its_own_scale_and_none_for_more_than_a_few() -> None:
    """Two series of unlike units, one without a scale, one that is far off."""
    truth, scale = np.array([0.0, 0.0, 0.0, 0.0]), np.array([1.0, 1_000.0, 0.0, 1.0])
    point, last = np.array([[0.5], [500.0], [7.0], [1e9]]), np.array([[1.0], [1_000.0], [7.0], [1e9]])
    scores = Scores(np.arange(4), truth, point, np.repeat(point[:, None], 3, axis=1), last, scale, point[:, None])
    totals = ScoreTotals()
    for _ in range(2):
        totals.add(scores, LEVELS)
    assert totals.count.tolist() == [8.0]
    assert totals.scaled_error.tolist() == [2 * (0.5 + 0.5 + 0.0 + MOST_SCALES)]
    assert totals.scaled_last_error.tolist() == [2 * (1.0 + 1.0 + 0.0 + MOST_SCALES)]
