"""The built image, as an operator runs it, against Kafka in a container beside it."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from daemons import Stream, wait_until

from forecaster.broker.replay import create_topic

pytestmark = [
    pytest.mark.docker,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:testcontainers"),
]
ROOT = Path(__file__).parents[2]
IMAGE = "forecaster:test"


def docker(*arguments: str, seconds: float = 900) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    """A Kafka container on the host's network: the same address inside and outside of containers."""
    from testcontainers.core.container import DockerContainer

    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, controller = one.getsockname()[1], two.getsockname()[1]
    variables = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": f"1@127.0.0.1:{controller}",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    }
    container = DockerContainer("apache/kafka:4.3.1").with_kwargs(network_mode="host")
    for name, value in variables.items():
        container.with_env(name, value)
    container.start()
    try:
        wait_until(lambda: b"Kafka Server started" in container.get_logs()[0], "Kafka in a container", 120)
        yield f"127.0.0.1:{port}"
    finally:
        container.stop()


@pytest.fixture(scope="module")
def image() -> str:
    subprocess.run(["docker", "build", "--tag", IMAGE, str(ROOT)], env={"DOCKER_BUILDKIT": "0"}, check=True)
    return IMAGE


def test_the_image_serves_and_ends_cleanly_as_a_user_without_rights(kafka: str, image: str) -> None:
    create_topic(kafka, "readings", 2)
    variables = {"KAFKA__BOOTSTRAP_SERVERS": kafka, "TOPICS__INPUT": "readings", "SERIES__INTERVAL": "1h"}
    options = [part for name, value in variables.items() for part in ("--env", f"FORECASTER_{name}={value}")]
    container = docker("run", "--detach", "--read-only", "--tmpfs=/tmp", "--network=host", *options, image).strip()
    try:
        wait_until(lambda: "partitions opened" in docker("logs", container), "partitions", 90)
        with closing(Stream(kafka, "readings", 2)) as stream:
            stream.send_hours(20)
            stream.assert_exactly_once()
        assert docker("exec", container, "id", "-u").strip() == "10001"
        docker("stop", "--time=30", container)
        assert docker("inspect", "--format={{.State.ExitCode}}", container).strip() == "0"
        assert '"records": 200' in docker("logs", container)
    finally:
        docker("rm", "--force", container)


def test_the_image_without_settings_says_what_is_missing(image: str) -> None:
    done = subprocess.run(["docker", "run", "--rm", image], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "FORECASTER_KAFKA__BOOTSTRAP_SERVERS" in done.stderr
