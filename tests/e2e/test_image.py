"""The built image as an operator runs it: in service, with wrong settings, killed, with a full disk, by Compose."""

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
from forecaster.formats.models import ServeOrder, publication, serve_message

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
    """Addresses of a broker; `locked` is the listener that asks for a password."""

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
    """Yield a container that serves a new topic, and a stream of readings for it."""
    create_topic(kafka.address, topic, 2)
    with service(kafka, topic, *options, **variables) as container:
        container.serving()
        with closing(Stream(kafka.address, topic, 2)) as stream:
            yield container, stream


def test_the_image_is_unprivileged_and_ends_cleanly_under_load(kafka: Kafka) -> None:
    """It is stopped while readings arrive, started again, and no forecast is lost or doubled."""
    with fed(kafka, "pumps", HTTP__PORT="8080", ROLE="both") as (container, stream):
        stream.send_hours(20)
        stream.assert_exactly_once()
        assert docker("exec", container.id, "id", "-u").strip() == "10001"
        wait_until(lambda: container.inspect("State.Health.Status") == "healthy", "a healthy container", 60)
        assert subprocess.run(["docker", "exec", container.id, "gcc", "--version"], capture_output=True).returncode != 0
        stop = threading.Thread(target=docker, args=("stop", "--time=30", container.id))
        stop.start()
        while stop.is_alive():
            stream.send_hours(5)
            stop.join(0.02)
        assert container.inspect("State.ExitCode") == "0", container.log
        docker("start", container.id)
        stream.assert_exactly_once()


def test_a_killed_container_loses_and_doubles_nothing(kafka: Kafka) -> None:
    with fed(kafka, "killed") as (container, stream):
        for times in (2, 3):
            stream.send_hours(100)
            wait_until(lambda: stream.receive() >= stream.sent - 500, "half of the forecasts")
            docker("kill", "--signal=KILL", container.id)
            stream.send_hours(20)
            docker("start", container.id)
            container.serving(times)
        stream.assert_exactly_once()


def test_a_cache_whose_disk_is_full_stops_no_forecast(kafka: Kafka) -> None:
    checkpoint = random_checkpoint(pipeline_config())
    with fed(kafka, "full", "--tmpfs=/tiny:size=4k,mode=1777", CACHE__DIRECTORY="/tiny") as (container, stream):
        order = ServeOrder(checkpoint.id, "none", "operator", "2025-01-01T00:00:00Z", "the test says so")
        messages = [*publication(checkpoint), serve_message(order)]
        write_records(Connection(kafka.address, "test"), "full.models", messages)
        wait_until(lambda: "FORECASTER_CACHE__DIRECTORY" in container.log, "a warning")
        for _ in range(20):
            stream.send_hours(5)
            stream.assert_exactly_once()
        assert "No space left on device" in container.log
        assert json.loads(stream.forecasts[-1].value or b"")["checkpoint"] == checkpoint.id


def test_without_settings_the_error_names_the_missing_one() -> None:
    with Service() as container:
        assert container.exit_code() == 2
        assert "FORECASTER_KAFKA__BOOTSTRAP_SERVERS" in container.log


def test_a_missing_topic_is_exit_code_4_and_is_named(kafka: Kafka) -> None:
    with service(kafka, "nowhere") as container:
        assert container.exit_code() == 4
        assert "nowhere" in container.log


def test_a_wrong_password_is_exit_code_3(kafka: Kafka) -> None:
    """With the right password, the same settings serve."""
    create_topic(kafka.address, "locked", 1)
    login = {
        "KAFKA__BOOTSTRAP_SERVERS": kafka.locked,
        "KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA__SASL_MECHANISM": "PLAIN",
        "KAFKA__SASL_USERNAME": USER,
        "KAFKA__CONNECT_DEADLINE": "10s",
    }
    with service(kafka, "locked", KAFKA__SASL_PASSWORD="guessed", **login) as container:
        assert container.exit_code() == 3
        assert f"authentication failed: user '{USER}'" in container.log
        assert "guessed" not in container.log
    with service(kafka, "locked", KAFKA__SASL_PASSWORD=PASSWORD, **login) as container:
        container.serving()
        assert PASSWORD not in container.log


def ask(path: str) -> Any:
    """Return the answer of the daemon that Compose started; {} = it does not answer yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:8080/api/v1/{path}", timeout=10) as answer:
            return json.loads(answer.read())
    except (urllib.error.URLError, ConnectionError):
        return {}


def served_checkpoints() -> list[str]:
    """Return the checkpoint of each partition; ["none"] while the daemon does not answer."""
    return [partition["checkpoint"] for partition in ask("status").get("partitions", [])] or ["none"]


def test_compose_forecasts_and_trains_a_network() -> None:
    with composed("kafka", "readings", "forecaster", "sensors"):
        wait_until(lambda: ask("status").get("ready"), "readiness", 120)
        wait_until(lambda: ask("series").get("found") == 20, "twenty pumps", 60)
        wait_until(lambda: ask("status").get("champion", "none") not in (None, "none"), "a network", 300)
        wait_until(lambda: set(served_checkpoints()) != {"none"}, "forecasts of it")
