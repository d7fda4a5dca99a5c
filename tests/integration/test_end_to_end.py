"""Readings in, forecasts out: the real program with a broker."""

from __future__ import annotations

import signal
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from builders import LEVELS, pipeline_config, random_checkpoint
from builders import Serving as Reference
from commands import run_command
from daemons import HOUR_MS, QUICK_TO_GIVE_UP, START_MS, Daemon, Stream, wait_until

from forecaster.broker.plain_clients import CommittedRecord, RecordReader, RecordWriter, create_topic
from forecaster.core.network.model import Model
from forecaster.formats.checkpoints import write_checkpoint
from forecaster.formats.forecasts import encode_forecasts
from forecaster.formats.readings import Decoder, InputSchema
from forecaster.records import InputRecord

PARTITIONS = 3


def read_at_least(address: str, topic: str, count: int) -> list[CommittedRecord]:
    """Return the records of a topic of one partition, once it has this many."""
    records: list[CommittedRecord] = []
    with closing(RecordReader(address, topic, 1)) as reader:
        wait_until(lambda: records.extend(reader.poll()) or len(records) >= count, f"{count} records on {topic}")
    return records


def test_every_reading_has_one_forecast_and_sigterm_ends_cleanly(broker: str, topic: str, tmp_path: Path) -> None:
    create_topic(broker, topic, PARTITIONS)
    with Daemon(tmp_path, broker, topic) as daemon:
        daemon.serving()
        with closing(Stream(broker, topic, PARTITIONS)) as stream:
            stream.send_hours(30)
            stream.assert_exactly_once()
            daemon.send(signal.SIGTERM)
            assert daemon.exit_code() == 0
            assert [entry["records"] for entry in daemon.events("worker_ended")] == [300]
    with Daemon(tmp_path, broker, topic) as daemon, closing(Stream(broker, topic, PARTITIONS)) as stream:
        daemon.serving()
        stream.sent = 300
        stream.hour = 30
        stream.send_hours(10)
        stream.assert_exactly_once()


def test_published_forecasts_are_those_of_the_pipeline_alone(broker: str, topic: str, tmp_path: Path) -> None:
    create_topic(broker, topic, 1)
    config = pipeline_config(horizon=4, context=96, chain=("range", "hampel"))
    checkpoint = random_checkpoint(config)
    folder = write_checkpoint(checkpoint, tmp_path)
    rows = [(f"pump-{series}", hour, (7 * series + hour * hour) % 23) for hour in range(60) for series in range(5)]
    values = [orjson.dumps({"timestamp": START_MS + hour * HOUR_MS, "value": value}) for _, hour, value in rows]
    keys = [name.encode() for name, _, _ in rows]
    records = [InputRecord(topic, 0, number, 0, *pair) for number, pair in enumerate(zip(keys, values, strict=True))]
    readings = Decoder(InputSchema()).decode(records).readings
    outputs = Reference(config, Model(checkpoint)).feed(readings)
    expected = [message.value for message in encode_forecasts(outputs.forecasts, readings, records, LEVELS, "")]
    with Daemon(tmp_path, broker, topic, NETWORK__CHECKPOINT=str(folder)) as daemon:
        daemon.serving()
        with closing(RecordWriter(broker, topic)) as writer:
            for key, value in zip(keys, values, strict=True):
                writer.send(key, value)
            writer.flush()
        published = [record.value for record in read_at_least(broker, f"{topic}.forecasts", len(rows))]
    assert published == expected


def test_bad_records_become_dead_letters_and_the_others_get_forecasts(broker: str, topic: str, tmp_path: Path) -> None:
    create_topic(broker, topic, 1)
    bad: list[tuple[bytes | None, bytes | None]] = [
        (b"pump", b"no json"),
        (b"pump", b'{"value": "text", "timestamp": 1735689600000}'),
        (b"pump", b'{"value": NaN, "timestamp": 1735689600000}'),
        (b"pump", b'{"value": 1e999, "timestamp": 1735689600000}'),
        (None, b'{"value": 1, "timestamp": 1735689600000}'),
        (b"", b'{"value": 1, "timestamp": 1735689600000}'),
        (b"pump", b'{"value": 1, "timestamp": -5}'),
        (b"pump", b'{"value": 1, "timestamp": "1969-01-01T00:00:00Z"}'),
        (b"pump", None),
        (b"k" * 900_000, b'{"value": 1, "timestamp": 1735689600000}'),
        (b"pump", b'{"value": 1, "timestamp": 1735689600000, "note": "' + b"x" * 900_000 + b'"}'),
    ]
    with Daemon(tmp_path, broker, topic) as daemon:
        daemon.serving()
        stream, letters = Stream(broker, topic, 1), RecordReader(broker, f"{topic}.dead-letters", 1)
        writer = RecordWriter(broker, topic)
        with closing(stream), closing(letters), closing(writer):
            stream.send_hours(3)
            for key, value in bad:
                writer.send(key, value, headers=[("trace", b"7")])
            writer.flush()
            stream.send_hours(3)
            stream.assert_exactly_once()
            dead: list[CommittedRecord] = []
            wait_until(lambda: dead.extend(letters.poll()) or len(dead) >= len(bad), "dead letters")
    assert [letter.headers["source"] for letter in dead] == [f"{topic}/0/{30 + n}".encode() for n in range(len(bad))]
    for letter, (key, value) in zip(dead, bad, strict=True):
        assert letter.headers["trace"] == b"7"
        assert letter.headers["reason"]
        assert letter.headers["detail"]
        assert letter.key == (key[:65_536] if key is not None else None)
        assert letter.value == (value[:65_536] if value is not None else None)


class Latin1(str):
    """A header name as a client writes it that does not use UTF-8."""

    def encode(self, *_: str) -> bytes:
        return super().encode("latin-1")


@pytest.mark.kafka
def test_a_header_that_is_not_utf_8_stops_no_partition(kafka: str, topic: str, tmp_path: Path) -> None:
    create_topic(kafka, topic, 1)
    headers = [(Latin1("m\xe4\xdftelle"), b"7"), ("trace", b"8")]
    with closing(RecordWriter(kafka, topic)) as writer, Daemon(tmp_path, kafka, topic) as daemon:
        daemon.serving()
        for hour in range(3):
            value = orjson.dumps({"timestamp": START_MS + hour * HOUR_MS, "value": hour})
            writer.send(b"pump", value, headers=headers if hour == 1 else [])
        writer.send(b"pump", b"no json", headers=headers)
        writer.flush()
        assert_read_despite_the_header(kafka, topic, forecasts=3)
        daemon.send(signal.SIGKILL)
        daemon.exit_code()
    with closing(RecordWriter(kafka, topic)) as writer, Daemon(tmp_path, kafka, topic) as heir:
        heir.serving()  # after it has replayed the input
        writer.send(b"pump", orjson.dumps({"timestamp": START_MS + 3 * HOUR_MS, "value": 3}), headers=headers)
        writer.flush()
        assert_read_despite_the_header(kafka, topic, forecasts=4)
        assert [entry["replayed"] for entry in heir.events("partition_restored")] == [3]


def assert_read_despite_the_header(address: str, topic: str, forecasts: int) -> None:
    """Check that every reading has its forecast, and that the bad record is a dead letter with all its headers."""
    topics = (f"{topic}.forecasts", forecasts), (f"{topic}.dead-letters", 1)
    published, (letter,) = (read_at_least(address, name, count) for name, count in topics)
    assert len(published) == forecasts
    assert (letter.key, letter.value) == (b"pump", b"no json")
    assert letter.headers["m\ufffd\ufffdtelle"] == b"7"
    assert letter.headers["trace"] == b"8"


def test_no_broker_is_exit_code_3(tmp_path: Path) -> None:
    quick = {"KAFKA__CONNECT_DEADLINE": "1s", "KAFKA__OPTIONS": QUICK_TO_GIVE_UP}
    with Daemon(tmp_path, "127.0.0.1:9", "readings", **quick) as daemon:
        assert daemon.exit_code() == 3
        assert daemon.events("broker_call_failed")
        assert "127.0.0.1:9" in daemon.log


def test_sigterm_while_waiting_for_a_broker_ends_cleanly(tmp_path: Path) -> None:
    with Daemon(tmp_path, "127.0.0.1:9", "readings", KAFKA__OPTIONS=QUICK_TO_GIVE_UP) as daemon:
        wait_until(lambda: daemon.events("broker_call_failed"), "a first attempt")
        daemon.send(signal.SIGTERM)
        assert daemon.exit_code() == 0


def test_a_missing_input_topic_is_exit_code_4_and_named(broker: str, topic: str, tmp_path: Path) -> None:
    with Daemon(tmp_path, broker, topic) as daemon:
        assert daemon.exit_code() == 4
        assert topic in daemon.log


def test_wrong_partition_counts_are_exit_code_4_before_serving(broker: str, topic: str) -> None:
    create_topic(broker, topic, 2)
    create_topic(broker, f"{topic}.forecasts", 3)
    ended = run_command("run", KAFKA__BOOTSTRAP_SERVERS=broker, TOPICS__INPUT=topic, HTTP__PORT="")
    assert ended.returncode == 4
    assert f"{topic}.forecasts" in ended.stderr
    assert "partitions_opened" not in ended.stderr


def test_too_many_bad_records_end_the_daemon_with_exit_code_6(broker: str, topic: str, tmp_path: Path) -> None:
    create_topic(broker, topic, 1)
    limits = {"DEAD_LETTERS__ON_LIMIT": "stop", "DEAD_LETTERS__MAX_CONSECUTIVE": "5"}
    with Daemon(tmp_path, broker, topic, **limits) as daemon:
        daemon.serving()
        with closing(RecordWriter(broker, topic)) as writer:
            for _ in range(6):
                writer.send(b"pump", b"no json")
        assert daemon.exit_code() == 6


@pytest.mark.parametrize(("variable", "value"), [("FORECAST__HORIZON", "0"), ("FORECAST__HORZION", "3")])
def test_a_wrong_variable_is_exit_code_2_and_named(variable: str, value: str) -> None:
    settings = {"KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9", "TOPICS__INPUT": "readings", variable: value}
    ended = run_command("run", **settings)
    assert ended.returncode == 2
    assert f"FORECASTER_{variable}" in ended.stderr
    assert "FORECASTER_FORECAST__HORIZON" in ended.stderr
