"""Workers are killed, stopped and cut off: the output equals an uninterrupted reference, record by record.

This is promised on Apache Kafka, and therefore tested there only.
"""

from __future__ import annotations

import random
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from daemons import SHARED_BROKER, Daemon, Http, wait_until
from own_broker import OwnBroker
from proxy import Proxy
from reference_run import ReferenceRun

from forecaster.broker.plain_clients import create_topic

pytestmark = pytest.mark.kafka
PARTITIONS = 4
FAULTY = Path(__file__).with_name("faulty_worker.py")
OWN_PORT = 19492
POINTS = ["after-poll", "mid-transaction", "after-commit", "mid-restore"]


class Fleet:
    """Starts daemons that serve the input of one reference run."""

    def __init__(self, address: str, topic: str, folder: Path, reference: ReferenceRun) -> None:
        self._address, self._topic, self._folder, self._reference = address, topic, folder, reference

    def daemon(self, *, fault: str = "", **variables: str) -> Daemon:
        """Return a daemon that writes blocks all the time, with a fault where `fault` says."""
        return Daemon(
            self._folder,
            self._address,
            self._topic,
            script=FAULTY if fault else None,
            NETWORK__CHECKPOINT=self._reference.checkpoint,
            STATE__REPLAY_LIMIT="300",
            **({"TEST_FAULT": fault} if fault else {}),
            **variables,
        )


@pytest.fixture
def reference(kafka: str, topic: str, tmp_path: Path) -> Iterator[ReferenceRun]:
    create_topic(kafka, topic, PARTITIONS)
    with closing(ReferenceRun(kafka, topic, PARTITIONS, tmp_path)) as run:
        yield run


@pytest.fixture
def fleet(kafka: str, topic: str, tmp_path: Path, reference: ReferenceRun) -> Fleet:
    return Fleet(kafka, topic, tmp_path, reference)


def left_over_input(fleet: Fleet, reference: ReferenceRun, **variables: str) -> None:
    """Kill a worker, so that readings above the floor are left for a replay."""
    with fleet.daemon(**variables) as first:
        first.serving()
        reference.send_hours(30)
        reference.assert_equal()
        first.send(signal.SIGKILL)
        first.exit_code()


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_killed_at_any_point_loses_and_doubles_nothing(
    fleet: Fleet, reference: ReferenceRun, point: str
) -> None:
    if point == "mid-restore":
        left_over_input(fleet, reference)
    with fleet.daemon(fault=f"{point}:SIGKILL:{1 if point == 'mid-restore' else 3}") as victim:

        def dead() -> bool:
            reference.send_hours(3)
            reference.receive()
            return victim.process.poll() is not None

        wait_until(dead, f"killed at {point}")
        assert victim.exit_code() == -signal.SIGKILL
        assert f"fault at {point}" in victim.log
    with fleet.daemon() as heir:
        reference.send_hours(10)
        reference.assert_equal()
        assert heir.events("partition_restored")
        heir.send(signal.SIGTERM)
        assert heir.exit_code() == 0


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_stopped_beyond_its_session_leaves_no_trace(fleet: Fleet, reference: ReferenceRun, point: str) -> None:
    """Its successor takes over, and the worker is fenced when it continues."""
    if point == "mid-restore":
        left_over_input(fleet, reference)
    with fleet.daemon(fault=f"{point}:SIGSTOP:{1 if point == 'mid-restore' else 3}") as zombie:

        def stopped() -> bool:
            reference.send_hours(3)
            reference.receive()
            return f"fault at {point}" in zombie.log

        wait_until(stopped, f"stopped at {point}")
        with fleet.daemon() as heir:
            reference.assert_equal()
            zombie.send(signal.SIGCONT)
            reference.send_hours(10)
            wait_until(lambda: zombie.process.poll() is not None or zombie.log.count("partition") > 0, "awake")
            reference.assert_equal()
            reference.send_hours(10)
            reference.assert_equal()
            assert heir.process.poll() is None, heir.log


KILLS = [pytest.param(20, id="20"), pytest.param(500, id="500", marks=pytest.mark.full)]


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("names", [("", "", ""), ("worker-0", "worker-1", "worker-2")], ids=["dynamic", "static"])
def test_kills_at_random_moments_lose_and_double_nothing(
    fleet: Fleet, reference: ReferenceRun, kills: int, names: tuple[str, ...]
) -> None:
    dice = random.Random(kills)
    with ExitStack() as stack:
        workers = [stack.enter_context(fleet.daemon(KAFKA__INSTANCE_ID=name)) for name in names]
        reference.send_hours(5)
        reference.assert_equal()
        pause = threading.Event()
        for _ in range(kills):
            for _ in range(dice.randrange(1, 30)):
                reference.send_hours(2)
                pause.wait(0.1)
            reference.receive()
            number = dice.randrange(len(workers))
            workers[number].send(signal.SIGKILL)
            workers[number].exit_code()
            workers[number] = stack.enter_context(fleet.daemon(KAFKA__INSTANCE_ID=names[number]))
        reference.assert_equal(180)
        assert [worker.process.poll() for worker in workers] == [None] * len(workers)


def test_a_rolling_restart_of_static_members_keeps_the_generation(fleet: Fleet, reference: ReferenceRun) -> None:
    names = ["worker-0", "worker-1", "worker-2"]
    settings = {"KAFKA__SESSION_TIMEOUT": "30s"}
    with ExitStack() as stack:
        workers = [stack.enter_context(fleet.daemon(KAFKA__INSTANCE_ID=name, **settings)) for name in names]
        for worker in workers:
            worker.serving()
        reference.send_hours(5)
        reference.assert_equal()
        generations = []
        for number in [0, *range(len(names))]:  # the first restart shows the generation before the others
            workers[number].send(signal.SIGTERM)
            assert workers[number].exit_code() == 0
            reference.send_hours(5)
            workers[number] = stack.enter_context(fleet.daemon(KAFKA__INSTANCE_ID=names[number], **settings)).serving()
            reference.send_hours(5)
            reference.assert_equal()
            generations += re.findall(r'"generation": (\d+)', workers[number].log)
        assert len(set(generations)) == 1


@pytest.fixture
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    """A broker that may be restarted, with a second listener behind a proxy."""
    if not SHARED_BROKER.is_file():
        pytest.skip("no broker that could be restarted")
    with OwnBroker(tmp_path_factory.mktemp("own"), OWN_PORT) as broker:
        yield broker


@pytest.fixture
def own_reference(own_broker: OwnBroker, topic: str, tmp_path: Path) -> Iterator[ReferenceRun]:
    create_topic(own_broker.address, topic, PARTITIONS)
    with closing(ReferenceRun(own_broker.address, topic, PARTITIONS, tmp_path)) as run:
        yield run


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_broker_restart_under_load_loses_and_doubles_nothing(
    own_broker: OwnBroker, own_reference: ReferenceRun, topic: str, tmp_path: Path, how: str
) -> None:
    with Fleet(own_broker.address, topic, tmp_path, own_reference).daemon() as daemon:
        daemon.serving()
        own_reference.send_hours(500)
        wait_until(lambda: own_reference.receive() > 500, "some forecasts")
        own_broker.end(how)
        threading.Event().wait(3)
        own_broker.start()
        own_reference.send_hours(50)
        own_reference.assert_equal(180)
        assert daemon.process.poll() is None, daemon.log


@pytest.mark.parametrize("seconds", [90, pytest.param(600, marks=pytest.mark.full)])
def test_a_long_broker_outage_costs_no_memory_and_is_reported(
    own_broker: OwnBroker, own_reference: ReferenceRun, topic: str, tmp_path: Path, seconds: int
) -> None:
    fleet = Fleet(own_broker.address, topic, tmp_path, own_reference)
    with fleet.daemon() as daemon:
        http = Http(daemon.serving())
        own_reference.send_hours(500)
        wait_until(lambda: own_reference.receive() > 500, "some forecasts")
        own_broker.end("stop")
        wait_until(lambda: "broker" in http.get("readyz")[1], "that it says so")
        memory, lines = daemon.resident_mib, daemon.log.count("\n")
        threading.Event().wait(seconds)
        assert http.get("livez")[0] == 200
        assert http.get("readyz")[0] == 503
        assert daemon.resident_mib < memory + 8.0
        assert daemon.log.count("\n") < lines + seconds
        own_broker.start()
        own_reference.send_hours(50)
        own_reference.assert_equal(180)
        wait_until(lambda: http.get("readyz")[0] == 200, "readiness")


def test_a_broker_with_slow_answers_costs_time_and_nothing_else(
    own_broker: OwnBroker, own_reference: ReferenceRun, topic: str, tmp_path: Path
) -> None:
    fleet = Fleet(own_broker.proxied, topic, tmp_path, own_reference)
    with closing(Proxy(own_broker.proxy_port, own_broker.proxied_port, delay_seconds=0.3)), fleet.daemon() as daemon:
        daemon.serving()
        for _ in range(5):
            own_reference.send_hours(20)
            own_reference.assert_equal(180)
        daemon.send(signal.SIGTERM)
        assert daemon.exit_code() == 0
        assert 'failed_transactions": 0' in daemon.log


def test_a_connection_cut_in_a_commit_loses_and_doubles_nothing(
    own_broker: OwnBroker, own_reference: ReferenceRun, topic: str, tmp_path: Path
) -> None:
    fleet = Fleet(own_broker.proxied, topic, tmp_path, own_reference)
    with closing(Proxy(own_broker.proxy_port, own_broker.proxied_port)) as proxy, fleet.daemon() as daemon:
        daemon.serving()
        for _ in range(5):
            proxy.cut_at_next_commit()
            own_reference.send_hours(20)
            wait_until(lambda: not proxy.armed, "a commit to cut")
            own_reference.send_hours(5)
            own_reference.assert_equal(180)
        assert proxy.cuts == 5
        assert daemon.process.poll() is None, daemon.log
