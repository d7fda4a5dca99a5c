"""The daemon trains on its own input, and changes to the better network while it forecasts."""

from __future__ import annotations

import re
import signal
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import numpy as np
import orjson
from daemons import HOUR_MS, START_MS, Daemon, wait_until

from forecaster.broker.plain_clients import RecordReader, RecordWriter, create_topic
from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.core.network.model import Model
from forecaster.core.series.state import ObservationConfig
from forecaster.formats.checkpoints import read_checkpoint
from forecaster.history import SeriesHistory
from forecaster.learning.simulation import ServingSimulation
from forecaster.pipeline import PipelineConfig

SERIES, HORIZON, CONTEXT = 8, 4, 24
LEARNING = {
    "ROLE": "both",
    "NETWORK__HIDDEN_SIZE": "16",
    "NETWORK__CONTEXT": str(CONTEXT),
    "TRAINING__MIN_READINGS": str(SERIES * 240),
    "TRAINING__MIN_NEW_TICKS": str(SERIES * 240),
    "TRAINING__SCHEDULE": "every 1s",
    "TRAINING__READOUT_SCHEDULE": "off",
}
BEFORE, AFTER = range(240), range(240, 640)


def value(series: int, hour: int) -> float:
    """Return a noisy wave: its period, nine hours and five after the change, is none that a simple expert knows."""
    dice = np.random.default_rng(series * 100_000 + hour)
    period = 9 if hour in BEFORE else 5
    return float(np.sin(2 * np.pi * (hour / period + series / SERIES)) + 0.1 * dice.normal())


class Fleet:
    """Sends hours of all series, and keeps their forecasts."""

    def __init__(self, address: str, topic: str) -> None:
        self._writer = RecordWriter(address, topic)
        self._reader = RecordReader(address, f"{topic}.forecasts", 1)
        self.forecasts: dict[str, list[dict]] = defaultdict(list)  # type: ignore[type-arg]
        self.sent = 0

    def close(self) -> None:
        self._writer.close()
        self._reader.close()

    def send(self, hours: range) -> None:
        for hour in hours:
            for series in range(SERIES):
                body = {"timestamp": START_MS + hour * HOUR_MS, "value": value(series, hour)}
                self._writer.send(b"wave-%d" % series, orjson.dumps(body), partition=0)
                self.sent += 1
        self._writer.flush()

    def receive(self) -> int:
        for record in self._reader.poll():
            body = orjson.loads(record.value or b"")
            self.forecasts[body["series_id"]].append(body)
        return sum(map(len, self.forecasts.values()))

    def send_in_parts(self, hours: range) -> None:
        """Send an hour at a time and wait every five hours, since a batch is served by one checkpoint."""
        for hour in hours:
            self.send(range(hour, hour + 1))
            if hour % 5 == 0:
                self.wait()
        self.wait()

    def wait(self) -> None:
        wait_until(lambda: self.receive() >= self.sent, f"{self.sent} forecasts", 120)

    def serving(self) -> set[str]:
        """Return the checkpoints of the newest forecast of each series."""
        self.receive()
        return {forecasts[-1]["checkpoint"] for forecasts in self.forecasts.values()}


def frozen_errors(checkpoint: Model, hours: range) -> float:
    """Return the mean absolute error over the hours and all horizons, if one network serves all the time."""
    pipeline = PipelineConfig(
        ObservationConfig(HOUR_MS, context=CONTEXT), tuple(range(1, HORIZON + 1)), (0.1, 0.5, 0.9)
    )
    count = len(BEFORE) + len(AFTER)
    hour = np.repeat(np.arange(count), SERIES)
    history = SeriesHistory(
        [f"wave-{series}" for series in range(SERIES)],
        np.tile(np.arange(SERIES), count),
        START_MS + hour * HOUR_MS,
        np.array([value(series, number) for number in range(count) for series in range(SERIES)]),
        np.arange(count * SERIES),
    )
    errors = []
    for first, outputs in ServingSimulation(pipeline, history, checkpoint).until(len(history)):  # type: ignore[arg-type]
        counted = np.isin(hour[outputs.matured.reading + first], hours)
        errors.append(np.abs(outputs.matured.truth[:, None] - outputs.matured.point)[counted].ravel())
    return float(np.nanmean(np.concatenate(errors)))


def live_errors(fleet: Fleet, hours: range) -> float:
    errors = []
    for name, forecasts in fleet.forecasts.items():
        series = int(name.split("-")[1])
        for forecast in forecasts:
            for stamp, point in zip(forecast["timestamps"], forecast["point"], strict=True):
                hour = (stamp - START_MS) // HOUR_MS
                if hour in hours:
                    errors.append(abs(value(series, hour) - point))
    return float(np.mean(errors))


def test_after_a_change_of_the_process_the_daemon_retrains_and_improves(
    embedded: str, topic: str, tmp_path: Path
) -> None:
    create_topic(embedded, topic, 1)
    cache = tmp_path / "cache"
    with Daemon(tmp_path, embedded, topic, CACHE__DIRECTORY=str(cache), **LEARNING) as daemon:
        daemon.serving()
        with closing(Fleet(embedded, topic)) as fleet:
            fleet.send(BEFORE)
            wait_until(lambda: promotions(daemon) >= 1, "the first promotion", 120)
            fleet.send_in_parts(AFTER[:240])
            wait_until(lambda: promotions(daemon) >= 2, "the promotion after the change", 120)
            fleet.send_in_parts(AFTER[240:])
        daemon.send(signal.SIGTERM)
        assert daemon.exit_code() == 0
        decided = re.findall(r'"outcome": "promoted", "checkpoint": "([^"]+)"', daemon.log)
    names = [forecast["checkpoint"] for forecast in fleet.forecasts["wave-0"]]
    changes = [name for number, name in enumerate(names) if number == 0 or name != names[number - 1]]
    assert changes == [NO_CHECKPOINT, *decided], "ids change once per promotion"
    last = range(names.index(decided[1]) + 20, AFTER.stop)
    frozen = frozen_errors(read_checkpoint(cache / f"{topic}.models" / decided[0]), last)  # type: ignore[arg-type]
    assert live_errors(fleet, last) < 0.4 * frozen
    for forecasts in fleet.forecasts.values():
        stamps = [forecast["timestamp"] for forecast in forecasts]
        assert stamps == [START_MS + hour * HOUR_MS for hour in (*BEFORE, *AFTER)], "forecasts never stop"


def promotions(daemon: Daemon) -> int:
    assert daemon.process.poll() is None, daemon.log
    return daemon.log.count('"outcome": "promoted"')
