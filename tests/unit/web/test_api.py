"""HTTP answers correctly, changes nothing, and neither delays the worker nor waits for it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from builders import HOUR_MS, START_MS
from clock import FakeClock
from fakes import FakeClient, FakeKafka
from fastapi.testclient import TestClient
from setups import running, setup

from forecaster.app.watchdog import SICK_SECONDS, Pulse, Watchdog
from forecaster.serving.inspect import monitor
from forecaster.serving.worker import Worker
from forecaster.web.api import SECURITY_HEADERS, build_app
from forecaster.web.service import Service

LABELS = {
    "forecaster_build_info": {"version", "role"},
    "forecaster_dead_letters": {"reason"},
    "forecaster_readings": {"outcome"},
    "forecaster_transactions": {"result"},
    "forecaster_transaction_failures": {"reason"},
    "forecaster_restores": {"how"},
    "forecaster_partitions": {"state"},
    "forecaster_lag_records": {"partition"},
    "forecaster_waiting_seconds": {"partition"},
    "forecaster_replay_records": {"partition"},
    "forecaster_scored": {"horizon"},
    "forecaster_absolute_error": {"horizon"},
    "forecaster_scaled_error": {"horizon"},
    "forecaster_last_value_scaled_error": {"horizon"},
    "forecaster_last_value_absolute_error": {"horizon"},
    "forecaster_pinball_loss": {"horizon"},
    "forecaster_inside_interval": {"horizon"},
    "forecaster_batch_stage_seconds": {"stage", "le"},
    "forecaster_restore_seconds": {"le"},
}


class World:
    """A worker that has served some hours of two series, and its HTTP."""

    def __init__(self, **options: object) -> None:
        self.kafka = FakeKafka(2)
        self.client = FakeClient(self.kafka)
        self.clock, self.stop = FakeClock(), threading.Event()
        self.worker: Worker = setup(clock=self.clock, stop=self.stop, **options).worker(self.client)
        self.watchdog = Watchdog(Pulse(), lambda _: None)
        self.service = Service("worker", "readings", "group", self.watchdog)
        self.service.monitor = self.worker.monitor
        self.http = TestClient(build_app(self.service, clock=self.clock))

    def serve(self, hours: int) -> None:
        self.kafka.hours(0, range(hours), b"pump")
        self.kafka.hours(1, range(hours), b"site/1")
        for _ in range(6):
            self.turn()

    def turn(self) -> None:
        self.clock.advance(monitor.STATUS_SECONDS)
        self.worker.iterate()

    @contextmanager
    def running(self) -> Iterator[TestClient]:
        """Run the worker in a thread, so that it answers questions."""
        self.stop.clear()
        with running(self.worker, self.stop):
            yield self.http


@pytest.fixture
def world() -> World:
    world = World()
    world.serve(30)
    return world


def test_a_silent_loop_is_not_alive_and_a_restore_is_not_ready(world: World) -> None:
    """`/livez` follows the progress of the loop, `/readyz` whether all partitions are restored."""
    assert world.http.get("/livez").status_code == 200
    assert world.http.get("/readyz").status_code == 200
    world.watchdog.silent_seconds = SICK_SECONDS
    assert world.http.get("/livez").status_code == 503
    world.client.revoke([1])
    world.client.assign([1])
    world.worker._store.restore_again([1])  # noqa: SLF001 - it waits for its rows
    world.worker.monitor.status = (
        world.worker.monitor.status
        and monitor.WorkerView(
            pipeline=world.worker._config.pipeline,  # noqa: SLF001
            store=world.worker._store,  # noqa: SLF001
            counters=world.worker.counters,
            member=world.client.poll(wait=False).member,
            is_member=True,
            answered=True,
            ends={},
            readable_ends={},
            at_ms=0,
        ).status()
    )
    answer = world.http.get("/readyz")
    assert answer.status_code == 503
    assert "restoring: 1" in answer.text


def test_a_worker_without_its_broker_is_not_ready(world: World) -> None:
    """Its metrics say how old they are."""
    assert world.http.get("/readyz").status_code == 200
    world.clock.advance(20.0)
    answer = world.http.get("/readyz")
    assert answer.status_code == 503
    assert "broker" in answer.text
    metrics = world.http.get("/metrics").text
    assert "forecaster_ready 0.0" in metrics
    assert "forecaster_status_age_seconds 2" in metrics
    world.turn()
    assert world.http.get("/readyz").status_code == 200


def test_a_trainer_has_no_series() -> None:
    service = Service("trainer", "readings", "group", Watchdog(Pulse(), lambda _: None))
    http = TestClient(build_app(service))
    for path in ("series", "series/pump", "forecasts/pump", "models"):
        answer = http.get(f"/api/v1/{path}")
        assert answer.status_code == 404
        assert "trainer" in answer.json()["error"]


def test_a_daemon_that_has_not_connected_is_alive_and_not_ready() -> None:
    service = Service("both", "readings", "group", Watchdog(Pulse(), lambda _: None))
    http = TestClient(build_app(service))
    assert http.get("/livez").status_code == 200
    assert http.get("/readyz").status_code == 503
    assert http.get("/api/v1/status").json()["ready"] is False
    assert http.get("/api/v1/series").status_code == 503
    assert "forecaster_ready 0.0" in http.get("/metrics").text


def test_the_status_counts_what_happened(world: World) -> None:
    world.kafka.append(0, b"no json")
    world.turn()
    world.turn()
    status = world.http.get("/api/v1/status").json()
    assert status["readings"] == {"forecast": 60}
    assert status["forecasts"] == 60
    assert status["dead_letters"] == {"not_json": 1}
    assert status["series"] == 2
    for partition in status["partitions"]:
        assert partition["lag"] == partition["end"] - partition["position"]
    assert status["scores"][0]["scored"] == 58
    assert 0.0 <= status["scores"][0]["interval_coverage"] <= 1.0


def test_series_are_found_and_shown_whatever_their_ids(world: World) -> None:
    with world.running() as http:
        assert http.get("/api/v1/series").json() == {"found": 2, "series": ["pump", "site/1"]}
        assert http.get("/api/v1/series?search=SITE&limit=1").json() == {"found": 1, "series": ["site/1"]}
        shown = http.get("/api/v1/series/site%2F1").json()
        missing = http.get("/api/v1/series/pumq")
    assert shown["inputs"]["count"] == 30
    assert shown["place"]["partition"] == 1
    assert sum(shown["pending"][0]["weights"].values()) == pytest.approx(1.0)
    assert missing.status_code == 404
    assert "pump" in missing.json()["error"]


def test_the_busiest_series_come_first_on_request(world: World) -> None:
    world.kafka.hours(1, range(30, 40), b"site/1")
    world.kafka.hours(0, range(3), b"valve")
    world.turn()
    world.turn()
    with world.running() as http:
        assert http.get("/api/v1/series?order=busiest").json() == {"found": 3, "series": ["site/1", "pump", "valve"]}
        assert http.get("/api/v1/series?order=busiest&limit=1&search=u").json() == {"found": 1, "series": ["pump"]}
        assert http.get("/api/v1/series").json()["series"] == ["pump", "site/1", "valve"]
        assert http.get("/api/v1/series?order=oldest").status_code == 422


def test_a_question_is_answered_in_the_middle_of_a_backlog(world: World) -> None:
    """Batches are short, so that the worker answers questions long before the end of the backlog."""
    world.client.is_limited = True
    world.kafka.hours(0, range(30, 5_000), b"pump")
    with world.running() as http:
        seen = http.get("/api/v1/forecasts/pump").json()["timestamp"]
    assert seen < START_MS + 4_000 * HOUR_MS


def test_the_rate_of_forecasts_is_known_with_the_first_status() -> None:
    """It is the rate of the last ten seconds."""
    world = World()

    def rate() -> object:
        return world.http.get("/api/v1/status").json()["forecasts_per_second"]

    assert rate() is None
    world.serve(30)
    assert rate() == pytest.approx(60 / (6 * monitor.STATUS_SECONDS))
    for _ in range(10):
        world.turn()
    assert rate() == pytest.approx(0.0), "the forecasts are older than the span of the rate"
    world.kafka.hours(0, range(30, 40), b"pump")
    world.turn()
    assert rate() == pytest.approx(10 / 10)


def test_the_api_shows_the_forecast_that_was_published(world: World) -> None:
    """Except for rounding: a row stores its forecasts in 16 bits."""
    with world.running() as http:
        shown = http.get("/api/v1/forecasts/pump").json()
    import orjson

    published = [orjson.loads(value) for topic, _, value in world.kafka.published if topic == "forecasts"]
    last = [record for record in published if record["series_id"] == "pump"][-1]
    assert shown["timestamp"] == last["timestamp"] == START_MS + 29 * HOUR_MS
    assert shown["timestamps"] == last["timestamps"]
    assert shown["point"] == pytest.approx(last["point"], rel=5e-3, abs=5e-3)
    for level, values in last["quantiles"].items():
        assert shown["quantiles"][level] == pytest.approx(values, rel=5e-3, abs=5e-3)
    assert shown["past"][-1] == pytest.approx(29 % 7)
    assert shown["past_ms"][-1] == shown["timestamp"]


def test_a_question_neither_waits_for_a_busy_worker_nor_ends_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy worker is a 503. An error in a question goes to the caller, and the worker continues."""
    monkeypatch.setattr(monitor, "ANSWER_SECONDS", 0.05)
    answer = world.http.get("/api/v1/series")
    assert answer.status_code == 503
    assert "did not answer within" in answer.json()["error"]
    world.turn()  # it finds a question whose caller has given up
    monkeypatch.undo()

    def wrong(_: object) -> None:
        raise ZeroDivisionError

    with world.running(), pytest.raises(ZeroDivisionError):
        world.worker.monitor.ask(wrong).result(30)
    world.serve(31)


def test_too_many_questions_are_refused_at_once(world: World) -> None:
    for _ in range(monitor.MOST_WAITING):
        world.worker.monitor.ask(lambda view: view)
    answer = world.http.get("/api/v1/forecasts/pump")
    assert answer.status_code == 503
    assert "wait for the worker already" in answer.json()["error"]
    assert answer.headers["retry-after"] == "1"


def test_labels_of_metrics_are_a_fixed_set_without_series(world: World) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    text = world.http.get("/metrics").text
    labels = {
        family.name: {label for sample in family.samples for label in sample.labels}
        for family in text_string_to_metric_families(text)
        if family.name.startswith("forecaster_")
    }
    assert {name: names for name, names in labels.items() if names} == LABELS
    assert "pump" not in text
    assert 'forecaster_readings_total{outcome="forecast"} 60.0' in text
    assert 'forecaster_batch_stage_seconds_count{stage="advance"}' in text


def test_the_number_of_samples_does_not_grow_with_the_series(world: World) -> None:
    def lines() -> int:
        return len([line for line in world.http.get("/metrics").text.splitlines() if not line.startswith("#")])

    before = lines()
    for number in range(50):
        world.kafka.hours(0, range(3), b"new-%d" % number)
    for _ in range(3):
        world.turn()
    assert lines() == before


def test_the_page_loads_nothing_from_elsewhere(world: World) -> None:
    page = world.http.get("/")
    assert page.status_code == 200
    assert "http" not in page.text.replace("http-equiv", "")
    for name in ("page.js", "page.css", "plotly.js"):
        assert world.http.get(f"/page/{name}").status_code == 200
    assert world.http.get("/page/..%2Fapi.py").status_code == 404
    assert page.headers["content-security-policy"] == SECURITY_HEADERS["Content-Security-Policy"]


def test_every_element_that_the_script_names_is_on_the_page(world: World) -> None:
    page, script = world.http.get("/").text, world.http.get("/page/page.js").text
    named = set(re.findall(r'(?:byId|draw|rows)\("([a-z]+)"', script))
    assert {"names", "search", "horizon", "fan", "error", "coverage", "weights"} <= named
    assert named <= set(re.findall(r'id="([a-z]+)"', page))


def test_every_path_that_the_page_asks_for_is_answered(world: World) -> None:
    paths = re.findall(r'ask\([`"]([a-z]+)', world.http.get("/page/page.js").text)
    known = {path.split("/")[3] for path in world.http.get("/api/v1/openapi.json").json()["paths"] if "v1" in path}
    assert {"status", "series", "forecasts", "models"} <= set(paths) <= known


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
def test_http_changes_nothing(world: World, method: str) -> None:
    paths = world.http.get("/api/v1/openapi.json").json()["paths"]
    assert {name for operations in paths.values() for name in operations} == {"get"}
    assert getattr(world.http, method)("/api/v1/status").status_code == 405
