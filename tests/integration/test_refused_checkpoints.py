"""A running daemon whose models topic names a checkpoint that must not serve: the one before it serves on."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import orjson
import pytest
from builders import pipeline_config, random_checkpoint
from commands import run_command
from daemons import Daemon, Http, Stream, wait_until
from safetensors.numpy import load, save

from forecaster.broker.connection import Connection
from forecaster.broker.plain_clients import create_topic
from forecaster.broker.writer import write_records
from forecaster.core.network.model import Checkpoint
from forecaster.formats.models import ServeOrder, publication, serve_message
from forecaster.records import Message

SETTINGS = {
    "SERIES__INTERVAL": "1h",
    "FORECAST__HORIZON": "4",
    "NETWORK__CONTEXT": "12",
    "NETWORK__HIDDEN_SIZE": "16",
}
GOOD = replace(random_checkpoint(pipeline_config()), id="good")


def with_weights(messages: list[Message], weights: bytes) -> list[Message]:
    """Return the records of a checkpoint of one chunk with other weights, and the hash of these."""
    chunk, description = messages
    body = msgspec.json.decode(description.value or b"") | {"sha256": hashlib.sha256(weights).hexdigest()}
    return [chunk._replace(value=weights), description._replace(value=msgspec.json.encode(body))]


def asking_for_more(messages: list[Message]) -> list[Message]:
    """Return the records with a description that claims a network of 16,000 hidden units."""
    body = msgspec.json.decode(messages[-1].value or b"")
    body["network"]["hidden_size"] = 16_000
    return [*messages[:-1], messages[-1]._replace(value=msgspec.json.encode(body))]


def changed(function: Callable[[np.ndarray], np.ndarray], messages: list[Message]) -> list[Message]:
    arrays = load(messages[0].value or b"")
    return with_weights(messages, save({name: function(array) for name, array in arrays.items()}))


BAD: dict[str, tuple[Callable[[list[Message]], list[Message]], str]] = {
    "garbage": (lambda messages: with_weights(messages, b"\x80\x04no weights" * 9), "not in the format safetensors"),
    "nan": (lambda messages: changed(lambda array: array * np.float32(np.nan), messages), "not finite"),
    "huge": (lambda messages: changed(lambda array: array * np.float32(1e30), messages), "overflows"),
    "float64": (lambda messages: changed(lambda array: array.astype(np.float64), messages), "'F64'"),
    "large": (asking_for_more, "hidden_size 16000"),
}


def write(address: str, topic: str, messages: list[Message]) -> None:
    write_records(Connection(address, "test"), f"{topic}.models", messages)


def order(name: str, previous: str) -> Message:
    return serve_message(ServeOrder(name, previous, "operator", "2025-01-01T00:00:00+00:00", "the test says so"))


def wait_for_refusals(daemon: Daemon) -> None:
    wait_until(lambda: {entry["key"] for entry in daemon.events("checkpoint_refused")} == set(BAD), "a refusal of each")


def test_a_refused_checkpoint_leaves_the_one_before_it_serving(broker: str, topic: str, tmp_path: Path) -> None:
    """In the running daemon and after a restart; log, commands and API say why, and `promote` leads out of it."""
    create_topic(broker, topic, 1)
    with Daemon(tmp_path, broker, topic, **SETTINGS) as first:
        first.serving()
        with closing(Stream(broker, topic, 1)) as stream:
            refused_while_serving(first, stream, broker, topic)
            first.process.terminate()
            assert first.exit_code() == 0
            with Daemon(tmp_path, broker, topic, **SETTINGS) as second:
                second.serving()
                refused_after_a_restart(second, stream, broker, topic)


def refused_while_serving(daemon: Daemon, stream: Stream, broker: str, topic: str) -> None:
    write(broker, topic, [*publication(GOOD), order("good", "none")])
    wait_until(lambda: Http(daemon).json("models")["champion"] == "good", "the good checkpoint")
    stream.send_hours(3)
    for name, (spoilt, _) in BAD.items():
        bad = Checkpoint(name, GOOD.network, GOOD.weights, GOOD.readout, {})
        write(broker, topic, [*spoilt(publication(bad)), order(name, "good")])
    wait_for_refusals(daemon)
    stream.send_hours(3)
    stream.assert_exactly_once()
    shown = Http(daemon).json("models")
    assert (shown["champion"], shown["serve"]["checkpoint"], set(shown["faults"])) == ("good", "large", set(BAD))
    for name, (_, reason) in BAD.items():
        assert reason in shown["faults"][name]


def refused_after_a_restart(daemon: Daemon, stream: Stream, broker: str, topic: str) -> None:
    wait_for_refusals(daemon)
    stream.send_hours(1)
    stream.assert_exactly_once()
    forecasts = [orjson.loads(forecast.value or b"") for forecast in stream.forecasts]
    assert {forecast["checkpoint"] for forecast in forecasts[-40:]} == {"good"}
    assert_operators_see_it(broker, topic)
    assert models(broker, topic, "promote", "none").returncode == 0
    wait_until(lambda: Http(daemon).json("models")["champion"] == "none", "the way out")
    stream.send_hours(1)
    stream.assert_exactly_once()
    assert orjson.loads(stream.forecasts[-1].value or b"")["checkpoint"] == "none"


def models(address: str, topic: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {"KAFKA__BOOTSTRAP_SERVERS": address, "TOPICS__INPUT": topic, **SETTINGS}
    return run_command("models", *arguments, **variables)


def assert_operators_see_it(broker: str, topic: str) -> None:
    shown = models(broker, topic, "list").stdout
    assert "it cannot be served, and good serves instead" in " ".join(shown.split())
    assert shown.count("refused: ") == len(BAD)
    assert "overflows" in orjson.loads(models(broker, topic, "show", "huge").stdout)["fault"]
    refused = models(broker, topic, "promote", "nan")
    assert (refused.returncode, "not finite" in refused.stderr) == (5, True)


@pytest.mark.parametrize("name", BAD)
def test_a_folder_with_such_a_checkpoint_is_exit_code_5(tmp_path: Path, name: str) -> None:
    spoilt, reason = BAD[name]
    weights, description = spoilt(publication(GOOD))
    (tmp_path / "weights.safetensors").write_bytes(weights.value or b"")
    body = msgspec.json.decode(description.value or b"")
    del body["chunks"]
    (tmp_path / "checkpoint.json").write_bytes(msgspec.json.encode(body))
    variables = {"KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9", "TOPICS__INPUT": "readings", **SETTINGS}
    refused = run_command("check", NETWORK__CHECKPOINT=str(tmp_path), **variables)
    assert (refused.returncode, reason in refused.stderr) == (5, True), refused.stderr
