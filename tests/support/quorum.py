"""Three brokers on this machine, each of them also a controller of the same KRaft quorum."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from daemons import SHARED_BROKER, wait_until
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from forecaster.broker.embedded import SESSION_TIMEOUT_MS

NODES = (1, 2, 3)
HEAP = "256m"
COORDINATOR_PARTITIONS = 4
"""Partitions of `__consumer_offsets` and of `__transaction_state`."""
START_SECONDS = 180.0


class Quorum:
    """A context manager that starts the brokers, and leaves no process behind.

    Args:
        folder: folder for a folder of each broker.
        port: first port; the brokers listen at `port`, `port` + 2 and `port` + 4, their controllers one higher.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._folders = {node: folder / f"broker-{node}" for node in NODES}
        self._ports = {node: port + 2 * (node - 1) for node in NODES}
        self.address = ",".join(f"127.0.0.1:{port}" for port in self._ports.values())

    def __enter__(self) -> Quorum:
        try:
            self.start(NODES)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self._folders.values():
            subprocess.run([SHARED_BROKER, "kill", folder], check=False, timeout=60, capture_output=True)

    def start(self, nodes: Iterable[int]) -> None:
        """Start brokers at the same time, and return when each of them serves: one alone has no quorum to join."""
        environment = {**os.environ, "KAFKA_HEAP": HEAP}
        starting = [
            subprocess.Popen(
                [SHARED_BROKER, "start", self._folders[node], str(self._ports[node]), *self._settings(node)],
                env=environment,
                stdout=subprocess.DEVNULL,
            )
            for node in nodes
        ]
        codes = [process.wait(START_SECONDS) for process in starting]
        assert not any(codes), f"a broker did not start: {codes}"

    def stop(self, node: int) -> None:
        """Stop a broker as an operator does: it hands its partitions over first."""
        subprocess.run([SHARED_BROKER, "stop", self._folders[node]], check=True, timeout=90)

    def kill(self, *nodes: int) -> None:
        """Kill brokers at once."""
        for node in nodes:
            subprocess.run([SHARED_BROKER, "kill", self._folders[node]], check=True, timeout=90)

    def create(self, topic: str, partitions: int) -> None:
        """Create a topic on all brokers, of which two must have a record."""
        with closing(self._admin()) as admin:
            admin.create_topics([NewTopic(topic, partitions, 3)], timeout_ms=30_000)
            admin.wait_for_topics([topic])

    def leader(self, topic: str, partition: int) -> int:
        """Return the broker that leads a partition."""
        with closing(self._admin()) as admin:
            (described,) = admin.describe_topics([topic])
            return int(
                next(part["leader_id"] for part in described["partitions"] if part["partition_index"] == partition)
            )

    def group_coordinator(self, group: str) -> int:
        """Return the broker that coordinates a consumer group."""
        return self.leader("__consumer_offsets", _java_hash(group) % COORDINATOR_PARTITIONS)

    def transaction_coordinator(self, transactional_id: str) -> int:
        """Return the broker that coordinates the transactions of a producer."""
        return self.leader("__transaction_state", _java_hash(transactional_id) % COORDINATOR_PARTITIONS)

    def controller(self) -> int:
        """Return the broker whose controller is the active one."""
        with closing(self._admin()) as admin:
            (topic,) = admin.describe_metadata_quorum()["topics"]
            return int(topic["partitions"][0]["leader_id"])

    def wait_until_in_sync(self) -> None:
        """Wait until every partition has all its replicas again, so that the next broker may go."""
        wait_until(self._is_in_sync, "all replicas in sync", START_SECONDS)

    def _is_in_sync(self) -> bool:
        with closing(self._admin()) as admin:
            partitions = [part for topic in admin.describe_topics() for part in topic["partitions"]]
        return all(len(part["isr_nodes"]) == len(part["replica_nodes"]) for part in partitions)

    def _admin(self) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=self.address.split(","), bootstrap_timeout_ms=30_000)

    def _settings(self, node: int) -> list[str]:
        voters = ",".join(f"{other}@127.0.0.1:{self._ports[other] + 1}" for other in NODES)
        settings = {
            "node.id": node,
            "controller.quorum.voters": voters,
            "default.replication.factor": 3,
            "min.insync.replicas": 2,
            "offsets.topic.replication.factor": 3,
            "transaction.state.log.replication.factor": 3,
            "transaction.state.log.min.isr": 2,
            "offsets.topic.num.partitions": COORDINATOR_PARTITIONS,
            "transaction.state.log.num.partitions": COORDINATOR_PARTITIONS,
            "group.min.session.timeout.ms": SESSION_TIMEOUT_MS,
            # a machine that is busy with tests must not look like a broker that is gone
            "broker.session.timeout.ms": 9_000,
            "broker.heartbeat.interval.ms": 1_000,
        }
        return [f"{name}={value}" for name, value in settings.items()]


def _java_hash(text: str) -> int:
    """Return Java's hash of a text, without its sign bit, as Kafka takes it."""
    number = 0
    for character in text:
        number = (31 * number + ord(character)) & 0xFFFFFFFF
    return number & 0x7FFFFFFF
