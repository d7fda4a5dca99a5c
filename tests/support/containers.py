"""The built image and a Kafka in containers on the network of the host: addresses are the same inside and outside."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from daemons import wait_until

IMAGE = "forecaster"
ROOT = Path(__file__).parents[2]
USER, PASSWORD = "worker", "secret"


def docker(*arguments: str, seconds: float = 900.0, **variables: str) -> str:
    """Run a docker command that must succeed, and return what it prints to both streams."""
    done = subprocess.run(
        ["docker", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def build_image() -> str:
    """Build the image of this checkout, with torch from pip's default index, and return its name."""
    docker("build", "--build-arg", "TORCH_INDEX_URL=", "--tag", IMAGE, str(ROOT), DOCKER_BUILDKIT="0")
    return IMAGE


class Service:
    """The image in a container as operators are told to run it: without rights, and only /tmp can be written."""

    def __init__(self, *options: str, **variables: str) -> None:
        named = [part for name, value in variables.items() for part in ("--env", f"FORECASTER_{name}={value}")]
        safe = ("--read-only", "--tmpfs=/tmp", "--network=host")
        self.id = docker("run", "--detach", *safe, *options, *named, IMAGE).split()[0]

    def __enter__(self) -> Service:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure:
            print(self.log)  # noqa: T201
        docker("rm", "--force", self.id)

    @property
    def log(self) -> str:
        return docker("logs", self.id)

    def inspect(self, field: str) -> str:
        return docker("inspect", f"--format={{{{.{field}}}}}", self.id).strip()

    def serving(self, times: int = 1) -> Service:
        """Wait until partitions were opened `times` times."""
        wait_until(lambda: self.log.count("partitions_opened") >= times or not self.runs, "partitions", 90)
        assert self.runs, self.log
        return self

    @property
    def runs(self) -> bool:
        return self.inspect("State.Running") == "true"

    def exit_code(self, seconds: float = 90.0) -> int:
        return int(docker("wait", self.id, seconds=seconds))


@contextmanager
def running_kafka() -> Iterator[tuple[str, str]]:
    """Yield two addresses of a Kafka in a container: one without a password, and one with."""
    from testcontainers.core.container import DockerContainer

    port, locked, controller = free_ports(3)
    login = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    variables = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": ",".join(
            f"{name}://127.0.0.1:{number}"
            for name, number in (("PLAINTEXT", port), ("LOCKED", locked), ("CONTROLLER", controller))
        ),
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port},LOCKED://127.0.0.1:{locked}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOCKED:SASL_PLAINTEXT",
        "KAFKA_LISTENER_NAME_LOCKED_PLAIN_SASL_JAAS_CONFIG": login,
        "KAFKA_SASL_ENABLED_MECHANISMS": "PLAIN",
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
        yield f"127.0.0.1:{port}", f"127.0.0.1:{locked}"
    finally:
        container.stop()


@contextmanager
def composed(*services: str) -> Iterator[None]:
    """Run services of the compose file while the context is open; print their logs if the test fails."""
    compose = ("compose", "--file", str(ROOT / "deploy" / "compose.yaml"), "--project-name", "forecaster-test")
    docker(*compose, "down", "--volumes", "--timeout=10")  # left by a run that was killed
    try:
        docker(*compose, "up", "--detach", *services)
        yield
    except BaseException:
        with suppress(AssertionError):
            print(docker(*compose, "logs", "--tail=50"))  # noqa: T201
        raise
    finally:
        docker(*compose, "down", "--volumes", "--timeout=10")


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens at."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]
