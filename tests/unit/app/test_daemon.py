"""Start and end of the daemon."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from forecaster.app import daemon as app
from forecaster.app.watchdog import Pulse, Watchdog
from forecaster.errors import BrokerUnavailable, UsageError
from forecaster.settings import Settings, load_settings
from forecaster.web.service import Service


def settings(**groups: object) -> Settings:
    return load_settings(kafka={"bootstrap_servers": "none"}, topics={"input": "none"}, **groups)


def test_an_outage_of_the_worker_ends_the_trainer_beside_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = threading.Event()

    def train(_: Settings, stop: threading.Event, __: Service) -> None:
        stop.wait()
        ended.set()

    def run(*_: object) -> None:
        raise BrokerUnavailable("away for too long")

    monkeypatch.setattr(app, "connect_worker", lambda *_: (SimpleNamespace(run=run, monitor=None), None))
    monkeypatch.setattr(app, "_run_trainer", train)
    with pytest.raises(BrokerUnavailable):
        app.serve(settings(http={"port": None}))
    assert ended.wait(10), "the trainer was not told to end"


def test_a_trainer_that_has_ended_is_no_longer_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    service = Service("trainer", "readings", "group", Watchdog(Pulse()))
    trainer = SimpleNamespace(run=lambda: shown.append(service.coordinator), counters={})
    monkeypatch.setattr(app, "connect_coordinator", lambda *_: trainer)
    app._run_trainer(settings(), threading.Event(), service)  # noqa: SLF001
    assert shown == [trainer]
    assert service.coordinator is None


def test_a_schedule_that_cannot_be_read_is_refused_before_connecting() -> None:
    with pytest.raises(UsageError, match="TRAINING__SCHEDULE"):
        app.serve(settings(training={"schedule": "cron 61 * * * *"}))


def test_a_trainer_with_nothing_to_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECASTER_ROLE", "trainer")
    with pytest.raises(UsageError, match="nothing to do"):
        app.serve(settings(training={"schedule": "off", "readout_schedule": "off"}))
