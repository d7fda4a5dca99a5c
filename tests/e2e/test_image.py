"""The built image, as an operator runs it: well, wrongly set up, killed, out of disk, and by compose."""

from __future__ import annotations

import json
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from builders import pipeline_config, random_checkpoint
from containers import PASSWORD, USER, Service, build_image, composed, docker, running_kafka
from daemons import Stream, wait_until

from forecaster.broker.connection import Connection
from forecaster.broker.plain_clients import create_topic
from forecaster.broker.writer import write_records
from forecaster.formats.models import Serve, publication, serve_message

pytestmark = [
    pytest.mark.docker,
    pytest.mark.usefixtures("image"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:testcontainers"),
]
SMALL = {
    "SERIES__INTERVAL": "1h",
    "FORECAST__HORIZON": "4",
    "NETWORK__CONTEXT": "12",
    "NETWORK__HIDDEN_SIZE": "16",
    "ROLE": "worker",
}


@dataclass(frozen=True)
class Kafka:
    """Addresses of a broker: `locked` wants a password."""

    address: str
    locked: str


@pytest.fixture(scope="module")
def image() -> str:
    return build_image()


@pytest.fixture(scope="module")
def kafka() -> Iterator[Kafka]:
    with running_kafka() as (address, locked):
        yield Kafka(address, locked)


def service(kafka: Kafka, topic: str, *options: str, **variables: str) -> Service:
    named = {"KAFKA__BOOTSTRAP_SERVERS": kafka.address, "TOPICS__INPUT": topic, "KAFKA__GROUP_ID": f"{topic}-group"}
    return Service(*options, **{**named, "HTTP__PORT": "0", **SMALL, **variables})


@contextmanager
def fed(kafka: Kafka, topic: str, *options: str, **variables: str) -> Iterator[tuple[Service, Stream]]:
    """A service that serves a new topic, and a stream of readings for it."""
    create_topic(kafka.address, topic, 2)
    with service(kafka, topic, *options, **variables) as one:
        one.serving()
        with closing(Stream(kafka.address, topic, 2)) as stream:
            yield one, stream


def test_it_serves_without_rights_and_ends_cleanly_under_load(kafka: Kafka) -> None:
    with fed(kafka, "pumps", HTTP__PORT="8080", ROLE="both") as (one, stream):
        stream.send_hours(20)
        stream.assert_exactly_once()
        assert docker("exec", one.id, "id", "-u").strip() == "10001"
        wait_until(lambda: one.inspect("State.Health.Status") == "healthy", "a healthy container", 60)
        assert subprocess.run(["docker", "exec", one.id, "gcc", "--version"], capture_output=True).returncode != 0
        stop = threading.Thread(target=docker, args=("stop", "--time=30", one.id))
        stop.start()
        while stop.is_alive():
            stream.send_hours(5)
            stop.join(0.02)
        assert one.inspect("State.ExitCode") == "0", one.log
        docker("start", one.id)
        stream.assert_exactly_once()


def test_a_killed_container_that_is_started_again_loses_and_doubles_nothing(kafka: Kafka) -> None:
    with fed(kafka, "killed") as (one, stream):
        for times in (2, 3):
            stream.send_hours(100)
            wait_until(lambda: stream.receive() >= stream.sent - 500, "half of the forecasts")
            docker("kill", "--signal=KILL", one.id)
            stream.send_hours(20)
            docker("start", one.id)
            one.serving(times)
        stream.assert_exactly_once()


def test_a_cache_whose_disk_is_full_stops_no_forecast(kafka: Kafka) -> None:
    checkpoint = random_checkpoint(pipeline_config())
    with fed(kafka, "full", "--tmpfs=/tiny:size=4k,mode=1777", CACHE__DIRECTORY="/tiny") as (one, stream):
        order = Serve(checkpoint.id, "none", "operator", "2025-01-01T00:00:00Z", "the test says so")
        messages = [*publication(checkpoint), serve_message(order)]
        write_records(Connection(kafka.address, "test"), "full.models", messages)
        wait_until(lambda: "FORECASTER_CACHE__DIRECTORY" in one.log, "a warning")
        for _ in range(20):
            stream.send_hours(5)
            stream.assert_exactly_once()
        assert "No space left on device" in one.log
        assert json.loads(stream.forecasts[-1].value or b"")["checkpoint"] == checkpoint.id


def test_without_settings_it_says_what_is_missing() -> None:
    with Service() as one:
        assert one.exit_code() == 2
        assert "FORECASTER_KAFKA__BOOTSTRAP_SERVERS" in one.log


def test_without_its_topic_it_ends_with_4_and_names_it(kafka: Kafka) -> None:
    with service(kafka, "nowhere") as one:
        assert one.exit_code() == 4
        assert "nowhere" in one.log


def test_with_a_wrong_password_it_ends_with_3_and_with_the_right_one_it_serves(kafka: Kafka) -> None:
    create_topic(kafka.address, "locked", 1)
    login = {
        "KAFKA__BOOTSTRAP_SERVERS": kafka.locked,
        "KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA__SASL_MECHANISM": "PLAIN",
        "KAFKA__SASL_USERNAME": USER,
        "KAFKA__CONNECT_DEADLINE": "10s",
    }
    with service(kafka, "locked", KAFKA__SASL_PASSWORD="guessed", **login) as one:
        assert one.exit_code() == 3
        assert "the rights of this user" in one.log  # the broker's own word may be lost when it closes the connection
        assert "guessed" not in one.log
    with service(kafka, "locked", KAFKA__SASL_PASSWORD=PASSWORD, **login) as one:
        one.serving()
        assert PASSWORD not in one.log


def ask(path: str) -> Any:
    """What the composed daemon answers; {} = nothing yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:8080/api/v1/{path}", timeout=10) as answer:
            return json.loads(answer.read())
    except (urllib.error.URLError, ConnectionError):
        return {}


def served_checkpoints() -> list[str]:
    """Of each partition; when nothing answers, as of one that has none."""
    return [one["checkpoint"] for one in ask("status").get("partitions", [])] or ["none"]


def test_compose_brings_sensors_forecasts_and_a_network_of_its_own() -> None:
    with composed("kafka", "readings", "forecaster", "sensors"):
        wait_until(lambda: ask("status").get("ready"), "readiness", 120)
        wait_until(lambda: ask("series").get("found") == 20, "twenty pumps", 60)
        wait_until(lambda: ask("status").get("champion", "none") not in (None, "none"), "a network", 300)
        wait_until(lambda: set(served_checkpoints()) != {"none"}, "forecasts of it")
