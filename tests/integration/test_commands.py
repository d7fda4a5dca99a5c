"""`check` and `topics` against a broker."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from daemons import Daemon

from forecaster.broker.options import Connection
from forecaster.broker.replay import create_topic
from forecaster.broker.topics import Topics


def forecaster(address: str, topic: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "FORECASTER_KAFKA__BOOTSTRAP_SERVERS": address,
        "FORECASTER_TOPICS__INPUT": topic,
        "FORECASTER_KAFKA__CONNECT_DEADLINE": "7s",
        "COLUMNS": "200",
        **{f"FORECASTER_{name}": value for name, value in variables.items()},
    }
    command = [sys.executable, "-m", "forecaster", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)


def test_check_says_what_is_wrong_with_its_exit_code(broker: str, topic: str) -> None:
    missing = forecaster(broker, topic, "check")
    assert missing.returncode == 4
    assert topic in missing.stderr
    create_topic(broker, topic, 2)
    fits = forecaster(broker, topic, "check", KAFKA__SASL_PASSWORD="hunter2")
    assert fits.returncode == 0, fits.stderr
    assert "everything fits" in fits.stdout
    assert "(hidden)" in fits.stdout
    assert "hunter2" not in fits.stdout
    create_topic(broker, f"{topic}.forecasts", 1)
    misfit = forecaster(broker, topic, "check")
    assert misfit.returncode == 4
    assert f"{topic}.forecasts" in misfit.stderr


def test_topics_lists_what_is_missing_and_creates_it(broker: str, topic: str) -> None:
    create_topic(broker, topic, 2)
    listed = forecaster(broker, topic, "topics")
    assert listed.returncode == 0
    assert "missing" in listed.stdout
    created = forecaster(broker, topic, "topics", "--create")
    assert created.returncode == 0
    assert "missing" not in created.stdout
    with closing(Topics(Connection(broker, "test"))) as topics:
        assert topics.partitions([f"{topic}.forecasts", f"{topic}.dead-letters"]) == {
            f"{topic}.forecasts": 2,
            f"{topic}.dead-letters": 2,
        }


def test_check_without_a_broker_is_exit_code_3() -> None:
    assert forecaster("127.0.0.1:9", "readings", "check").returncode == 3


def test_options_that_the_guarantees_rest_on_are_refused() -> None:
    for option in ('{"isolation_level": "read_uncommitted"}', '{"no_such_option": 1}'):
        refused = forecaster("127.0.0.1:9", "readings", "check", KAFKA__OPTIONS=option)
        assert refused.returncode == 2
        assert "FORECASTER_KAFKA__OPTIONS" in refused.stderr


@pytest.mark.kafka
def test_a_state_topic_that_is_not_compacted_ends_with_4(kafka: str, topic: str, tmp_path: Path) -> None:
    create_topic(kafka, topic, 1)
    create_topic(kafka, f"{topic}.state", 1)
    with Daemon(tmp_path, kafka, topic) as daemon:
        assert daemon.exit_code() == 4
    assert "cleanup.policy is delete, it must be compact" in daemon.log
