"""Commands against a broker: `check`, `topics`, `models`, `train --publish`."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from builders import HOUR_MS, START_MS, pipeline_config, random_checkpoint
from commands import run_command
from daemons import QUICK_TO_GIVE_UP, Daemon, wait_until

from forecaster.broker.connection import Connection
from forecaster.broker.plain_clients import create_topic
from forecaster.broker.topics import TopicAdmin
from forecaster.broker.writer import write_records
from forecaster.core.network.model import Checkpoint
from forecaster.formats.models import Decision, ServeOrder, decision_message, publication, serve_message


def forecaster(address: str, topic: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    settings = {"KAFKA__BOOTSTRAP_SERVERS": address, "TOPICS__INPUT": topic, "KAFKA__CONNECT_DEADLINE": "7s"}
    return run_command(*arguments, **{**settings, **variables})


def test_check_exits_with_the_code_of_the_problem(broker: str, topic: str) -> None:
    missing = forecaster(broker, topic, "check")
    assert missing.returncode == 4
    assert topic in missing.stderr
    create_topic(broker, topic, 2)
    fits = forecaster(broker, topic, "check", KAFKA__SASL_PASSWORD="hunter2")
    assert fits.returncode == 0, fits.stderr
    assert "settings, checkpoint, topics and stored state fit" in fits.stdout
    assert "(hidden)" in fits.stdout
    assert "hunter2" not in fits.stdout
    create_topic(broker, f"{topic}.forecasts", 1)
    misfit = forecaster(broker, topic, "check")
    assert misfit.returncode == 4
    assert f"{topic}.forecasts" in misfit.stderr


@pytest.mark.kafka
def test_check_refuses_a_second_group_on_the_same_topics(kafka: str, topic: str, tmp_path: Path) -> None:
    create_topic(kafka, topic, 2)
    with Daemon(tmp_path, kafka, topic, ROLE="both") as daemon:
        daemon.serving()
        wait_until(lambda: "trainer_elected" in daemon.log, "a trainer")
        assert forecaster(kafka, topic, "check", KAFKA__GROUP_ID=f"{topic}-group").returncode == 0
        second = forecaster(kafka, topic, "check", KAFKA__GROUP_ID="second")
        assert second.returncode == 4
        assert f"{topic}-group trains on it" in second.stderr
        own = {f"TOPICS__{name}": f"{topic}.second.{name.lower()}" for name in ("FORECASTS", "MODELS", "HISTORY")}
        assert forecaster(kafka, topic, "check", KAFKA__GROUP_ID="second", **own).returncode == 0


def test_topics_lists_missing_topics_and_creates_them(broker: str, topic: str) -> None:
    create_topic(broker, topic, 2)
    listed = forecaster(broker, topic, "topics")
    assert listed.returncode == 0
    assert "missing" in listed.stdout
    created = forecaster(broker, topic, "topics", "--create")
    assert created.returncode == 0
    assert "missing" not in created.stdout
    with closing(TopicAdmin(Connection(broker, "test"))) as topics:
        assert topics.partition_counts([f"{topic}.forecasts", f"{topic}.dead-letters", f"{topic}.models"]) == {
            f"{topic}.forecasts": 2,
            f"{topic}.dead-letters": 2,
            f"{topic}.models": 1,
        }


SMALL = {
    "SERIES__INTERVAL": "1h",
    "FORECAST__HORIZON": "4",
    "NETWORK__CONTEXT": "12",
    "NETWORK__HIDDEN_SIZE": "16",
    "TRAINING__TBPTT_STEPS": "24",
}
"""What the builders' networks are made for."""


def published(address: str, topic: str, name: str, hidden_size: int = 16, **options: object) -> str:
    """Id of a checkpoint that is on the models topic."""
    made = random_checkpoint(pipeline_config(**options), hidden_size=hidden_size)  # type: ignore[arg-type]
    checkpoint = Checkpoint(name, made.network, made.weights, made.readout, {"readings": 4711})
    write_records(Connection(address, "test"), f"{topic}.models", publication(checkpoint))
    return name


def test_models_are_promoted_and_rolled_back(broker: str, topic: str) -> None:
    """A checkpoint that is unknown or does not fit the settings is exit code 5."""

    def models(*arguments: str) -> subprocess.CompletedProcess[str]:
        return forecaster(broker, topic, "models", *arguments, **SMALL)

    create_topic(broker, topic, 2)
    assert models("list").returncode == 4
    assert forecaster(broker, topic, "topics", "--create").returncode == 0
    assert "nothing is promoted yet" in models("list").stdout
    nothing = models("rollback")
    assert nothing.returncode == 5
    assert "nothing to go back to" in nothing.stderr
    first, second = published(broker, topic, "first"), published(broker, topic, "second")
    other = published(broker, topic, "other", horizon=9)
    decision = Decision(second, first, True, 0.25, 0.5, 1000, "better", "2025-01-01T00:00:00+00:00")  # noqa: FBT003
    write_records(Connection(broker, "test"), f"{topic}.models", [decision_message(decision)])
    assert models("promote", first).returncode == 0
    assert models("promote", second).stdout.strip() == "second will serve instead of first"
    for name, why in ((other, "FORECASTER_FORECAST__HORIZON"), ("nobody", "not on the topic")):
        refused = models("promote", name)
        assert refused.returncode == 5
        assert why in refused.stderr
    rows = {line.split()[1]: line for line in models("list").stdout.splitlines() if line.startswith("│")}
    assert set(rows) == {first, second, other}
    assert "previous" in rows[first]
    assert all(part in rows[second] for part in ("serving", "4711", "promoted", "0.25000", "0.50000"))
    shown = json.loads(models("show", second).stdout)
    assert (shown["serving"], shown["decision"]["champion"]) == ("serving", first)
    assert models("rollback").stdout.strip() == "first will serve again instead of second"
    readout = published(broker, topic, "second.1-0000")
    for name, before in ((second, first), (readout, second)):
        order = ServeOrder(name, before, "operator", "2025-01-01T00:00:00+00:00", "the test says so")
        write_records(Connection(broker, "test"), f"{topic}.models", [serve_message(order)])
    back = "first will serve again instead of second.1-0000"
    assert models("rollback").stdout.strip() == back, "a new readout of a bad body is as bad"
    wide = published(broker, topic, "wide", hidden_size=128)
    assert "restart the running workers" in models("promote", wide).stdout


def test_only_the_first_published_checkpoint_serves_at_once(broker: str, topic: str, tmp_path: Path) -> None:
    create_topic(broker, topic, 1)
    readings = tmp_path / "pump.csv"
    rows = [f"pump,{START_MS + hour * HOUR_MS},{hour % 7}\n" for hour in range(48)]
    readings.write_text("series_id,timestamp,value\n" + "".join(rows))
    command = ["train", str(readings), "--publish", "--out", str(tmp_path)]
    trained = forecaster(broker, topic, *command, **SMALL)
    assert trained.returncode == 0, trained.stderr
    folder, sentence = trained.stdout.splitlines()
    assert "will serve, because no checkpoint has served before" in sentence
    shown = json.loads(forecaster(broker, topic, "models", "show", Path(folder).name, **SMALL).stdout)
    assert (shown["serving"], shown["description"]["facts"]["readings"]) == ("serving", 48)
    again = forecaster(broker, topic, *command, **SMALL)
    assert "to serve it: forecaster models promote" in again.stdout


def test_a_models_topic_of_several_partitions_is_exit_code_4(broker: str, topic: str) -> None:
    create_topic(broker, topic, 2)
    create_topic(broker, f"{topic}.models", 2)
    refused = forecaster(broker, topic, "check")
    assert refused.returncode == 4
    assert "it must have 1" in refused.stderr


def test_check_without_a_broker_is_exit_code_3() -> None:
    """In a process of its own, as an operator runs it."""
    settings = {"BOOTSTRAP_SERVERS": "127.0.0.1:9", "CONNECT_DEADLINE": "1s", "OPTIONS": QUICK_TO_GIVE_UP}
    environment = {"FORECASTER_TOPICS__INPUT": "readings"}
    environment |= {f"FORECASTER_KAFKA__{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "forecaster", "check"]
    assert subprocess.run(command, env=environment, capture_output=True, timeout=90, check=False).returncode == 3


def test_kafka_options_that_break_guarantees_are_refused() -> None:
    for option in ('{"isolation_level": "read_uncommitted"}', '{"no_such_option": 1}'):
        refused = forecaster("127.0.0.1:9", "readings", "check", KAFKA__OPTIONS=option)
        assert refused.returncode == 2
        assert "FORECASTER_KAFKA__OPTIONS" in refused.stderr


@pytest.mark.kafka
def test_a_state_topic_that_is_not_compacted_is_exit_code_4(kafka: str, topic: str, tmp_path: Path) -> None:
    create_topic(kafka, topic, 1)
    create_topic(kafka, f"{topic}.state", 1)
    with Daemon(tmp_path, kafka, topic) as daemon:
        assert daemon.exit_code() == 4
    assert "cleanup.policy is delete, it must be compact" in daemon.log
