"""Brokers of a cluster come and go under load: the output equals an uninterrupted reference, record by record."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from daemons import SHARED_BROKER, Daemon, Http, wait_until
from quorum import NODES, Quorum
from reference_run import ReferenceRun

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(not SHARED_BROKER.is_file(), reason="needs brokers that it may stop"),
]
PORT = 19692
PARTITIONS = 3
PAUSE_SECONDS = 0.3
CATCH_UP_SECONDS = 240.0


@pytest.fixture(scope="module")
def quorum(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quorum]:
    with Quorum(tmp_path_factory.mktemp("quorum"), PORT) as running:
        yield running


def is_ready(worker: Daemon) -> bool:
    """Return whether a worker serves its partitions; it may not even listen yet."""
    with suppress(OSError):
        return Http(worker).get("readyz")[0] == 200 and bool(Http(worker).json("partitions"))
    return False


class Load:
    """Two workers that serve an input while hours of readings are sent.

    Args:
        quorum: the brokers.
        topic: input topic.
        folder: for logs and the checkpoint.
    """

    def __init__(self, quorum: Quorum, topic: str, folder: Path) -> None:
        self.reference = ReferenceRun(quorum.address, topic, PARTITIONS, folder)
        self.workers = [
            Daemon(
                folder,
                quorum.address,
                topic,
                KAFKA__INSTANCE_ID=f"worker-{number}",
                KAFKA__SESSION_TIMEOUT="15s",
                NETWORK__CHECKPOINT=self.reference.checkpoint,
                STATE__REPLAY_LIMIT="300",
            )
            for number in range(2)
        ]
        self.transactional_id = f"{topic}-group-worker-0"

    def during(self, disturbance: Callable[[], None]) -> None:
        """Send readings until the disturbance ends, and some after it."""
        errors: list[BaseException] = []

        def disturb() -> None:
            try:
                disturbance()
            except BaseException as error:  # raised again below
                errors.append(error)

        thread = threading.Thread(target=disturb)
        thread.start()
        pause = threading.Event()
        while thread.is_alive():
            self.reference.send_hours(1)
            self.reference.receive()
            pause.wait(PAUSE_SECONDS)
        thread.join()
        if errors:
            raise errors[0]
        self.reference.send_hours(3)

    def assert_equal(self) -> None:
        """Fail unless every forecast comes, as in the reference, and the workers still serve."""
        self.reference.assert_equal(CATCH_UP_SECONDS)
        self.reference.assert_all_right()
        for worker in self.workers:
            assert worker.process.poll() is None, worker.log


@pytest.fixture
def load(quorum: Quorum, topic: str, tmp_path: Path) -> Iterator[Load]:
    quorum.create(topic, PARTITIONS)
    running = Load(quorum, topic, tmp_path)
    with closing(running.reference), ExitStack() as stack:
        for worker in running.workers:
            stack.enter_context(worker)
        wait_until(lambda: all(map(is_ready, running.workers)), "ready workers", CATCH_UP_SECONDS)
        running.reference.send_hours(5)
        running.reference.assert_equal()
        yield running


@contextmanager
def gone(quorum: Quorum, *nodes: int) -> Iterator[None]:
    """Kill brokers, and start them again at the end."""
    quorum.kill(*nodes)
    try:
        yield
    finally:
        quorum.start(nodes)
        quorum.wait_until_in_sync()


def test_a_killed_leader_and_a_stopped_controller_lose_and_double_nothing(
    quorum: Quorum, load: Load, topic: str
) -> None:
    def disturb() -> None:
        with gone(quorum, quorum.leader(topic, 0)):
            pass
        node = quorum.controller()
        quorum.stop(node)
        assert quorum.controller() != node
        quorum.start([node])

    load.during(disturb)
    load.assert_equal()
    quorum.wait_until_in_sync()


@pytest.mark.full
@pytest.mark.parametrize("role", ["leader", "group coordinator", "transaction coordinator", "controller"])
def test_a_broker_that_is_killed_in_any_role_costs_nothing(quorum: Quorum, load: Load, topic: str, role: str) -> None:
    find = {
        "leader": lambda: quorum.leader(topic, 1),
        "group coordinator": lambda: quorum.group_coordinator(f"{topic}-group"),
        "transaction coordinator": lambda: quorum.transaction_coordinator(load.transactional_id),
        "controller": quorum.controller,
    }[role]

    def disturb() -> None:
        for _ in range(2):
            with gone(quorum, find()):
                pass

    load.during(disturb)
    load.assert_equal()


@pytest.mark.full
def test_a_rolling_restart_of_all_brokers_costs_nothing(quorum: Quorum, load: Load) -> None:
    def disturb() -> None:
        for node in NODES:
            quorum.stop(node)
            quorum.start([node])
            quorum.wait_until_in_sync()

    load.during(disturb)
    load.assert_equal()


@pytest.mark.full
def test_below_the_least_number_of_replicas_it_waits_and_says_so(quorum: Quorum, load: Load, topic: str) -> None:
    """With one broker of three left there is no quorum either: nothing can be written until one of them returns."""
    survivor = quorum.leader(topic, 0)
    load.reference.send_hours(2)
    with gone(quorum, *(node for node in NODES if node != survivor)):
        wait_until(lambda: not any(map(is_ready, load.workers)), "workers that are not ready", CATCH_UP_SECONDS)
    load.reference.send_hours(3)
    load.assert_equal()
    wait_until(lambda: all(map(is_ready, load.workers)), "workers that are ready again", CATCH_UP_SECONDS)
