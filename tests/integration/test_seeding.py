"""`forecaster seed` and `explain` by the real program: the daemon continues where the history ends."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from builders import LEVELS, pipeline_config, random_checkpoint
from builders import Serving as Reference
from commands import run_command
from daemons import HOUR_MS, START_MS, Daemon, wait_until

from forecaster.broker.plain_clients import RecordReader, RecordWriter, create_topic
from forecaster.core.network.model import Model
from forecaster.formats.checkpoints import write_checkpoint
from forecaster.formats.forecasts import encode_forecasts
from forecaster.formats.readings import Decoder, InputSchema
from forecaster.records import InputRecord

PARTITIONS, SERIES = 3, 7
HISTORY, NEWS = range(120), range(120, 130)


def value(series: int, hour: int) -> int:
    return (7 * series + hour * hour) % 23


def body(series: int, hour: int) -> bytes:
    return orjson.dumps({"timestamp": START_MS + hour * HOUR_MS, "value": value(series, hour)})


@pytest.fixture
def history(tmp_path: Path) -> Path:
    lines = [
        f"pump-{series},{START_MS + hour * HOUR_MS},{value(series, hour)}\n"
        for hour in HISTORY
        for series in range(SERIES)
    ]
    file = tmp_path / "history.csv"
    file.write_text("series_id,timestamp,value\n" + "".join(lines))
    return file


def command(address: str, topic: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": address,
        "KAFKA__GROUP_ID": f"{topic}-group",
        "TOPICS__INPUT": topic,
        "SERIES__INTERVAL": "1h",
        "FORECAST__HORIZON": "4",
        **variables,
    }
    return run_command(*arguments, **settings)


def expected(model: Model) -> list[bytes]:
    """Return the forecasts, sorted, that the pipeline alone makes of the readings after the history."""
    rows = [(series, hour) for hour in (*HISTORY, *NEWS) for series in range(SERIES)]
    records = [
        InputRecord("input", 0, number, 0, b"pump-%d" % series, body(series, hour))
        for number, (series, hour) in enumerate(rows)
    ]
    readings = Decoder(InputSchema()).decode(records).readings
    config = pipeline_config(horizon=4, context=96, chain=("range", "hampel"))
    outputs = Reference(config, model).feed(readings)
    messages = list(encode_forecasts(outputs.forecasts, readings, records, LEVELS, ""))
    return sorted(message.value or b"" for message in messages[len(HISTORY) * SERIES :])


def test_a_seeded_daemon_publishes_as_one_that_read_the_history(
    broker: str, topic: str, tmp_path: Path, history: Path
) -> None:
    create_topic(broker, topic, PARTITIONS)
    checkpoint = random_checkpoint(pipeline_config(horizon=4, context=96))
    served = {"NETWORK__CHECKPOINT": str(write_checkpoint(checkpoint, tmp_path))}
    seeded = command(broker, topic, "seed", str(history), **served)
    assert seeded.returncode == 0, seeded.stderr
    assert f"7 series from 840 readings, in 3 partitions of {topic}, by checkpoint {checkpoint.id}" in seeded.stdout
    assert "3 of 3 partitions: restored" in command(broker, topic, "check", **served).stdout
    with Daemon(tmp_path, broker, topic, **served) as daemon:
        daemon.serving()
        writer, reader = RecordWriter(broker, topic), RecordReader(broker, f"{topic}.forecasts", PARTITIONS)
        with closing(writer), closing(reader):
            for hour in NEWS:
                for series in range(SERIES):
                    writer.send(b"pump-%d" % series, body(series, hour))
            writer.flush()
            forecasts: list[bytes] = []
            wait_until(
                lambda: (
                    forecasts.extend(record.value or b"" for record in reader.poll())
                    or len(forecasts) >= len(NEWS) * SERIES
                ),
                "forecasts",
            )
            live = command(broker, topic, "seed", str(history), **served)
            assert (live.returncode, "live member" in live.stderr) == (5, True)
        daemon.send(signal.SIGTERM)
        assert daemon.exit_code() == 0
    assert sorted(forecasts) == expected(Model(checkpoint))
    again = command(broker, topic, "seed", str(history), **served)
    assert (again.returncode, "has committed offset" in again.stderr) == (5, True)


def test_explain_shows_a_series_as_the_daemon_left_it(broker: str, topic: str, tmp_path: Path, history: Path) -> None:
    create_topic(broker, topic, PARTITIONS)
    nothing = command(broker, topic, "explain", "pump-4")
    assert nothing.returncode == 4
    assert command(broker, topic, "seed", str(history)).returncode == 0
    with Daemon(tmp_path, broker, topic) as daemon:
        daemon.serving()
        with closing(RecordWriter(broker, topic)) as writer:
            writer.send(b"pump-4", body(4, 120))
        with closing(RecordReader(broker, f"{topic}.forecasts", PARTITIONS)) as reader:
            forecasts: list[bytes] = []
            wait_until(
                lambda: forecasts.extend(record.value or b"" for record in reader.poll()) or forecasts, "a forecast"
            )
        daemon.send(signal.SIGTERM)
        assert daemon.exit_code() == 0
    explained = json.loads(command(broker, topic, "explain", "pump-4", "--json").stdout)
    assert explained["inputs"]["count"] == len(HISTORY) + 1
    assert explained["inputs"]["last_ms"] == START_MS + 120 * HOUR_MS
    assert [shown["value"] for shown in explained["inputs"]["readings"]] == [value(4, hour) for hour in range(109, 121)]
    assert explained["network"]["checkpoint"] == "none"
    next_tick = explained["pending"][0]
    assert (next_tick["horizon"], next_tick["made_ms"]) == (1, START_MS + 120 * HOUR_MS)
    assert next_tick["point"] == pytest.approx(json.loads(forecasts[0])["point"][0], abs=0.05)
    shown = command(broker, topic, "explain", "pump-4")
    assert "forecasts for 2025-01-06T01:00:00Z" in shown.stdout
    unknown = command(broker, topic, "explain", "pumpe-4")
    assert (unknown.returncode, "similar ids: pump-4" in unknown.stderr) == (2, True)
