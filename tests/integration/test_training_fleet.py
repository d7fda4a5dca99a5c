"""Kafka elects one trainer: trainers are killed, hang, stop and come back, and forecasts never do."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import orjson
import pytest
from daemons import Daemon, Stream, wait_until

from forecaster.broker.plain_clients import RecordReader, create_topic

pytestmark = pytest.mark.kafka
FAULTY = Path(__file__).with_name("faulty_worker.py")
QUICK = {
    "NETWORK__HIDDEN_SIZE": "16",
    "NETWORK__CONTEXT": "24",
    "TRAINING__MIN_READINGS": "1500",
    "TRAINING__MIN_NEW_TICKS": "1",
    "TRAINING__SCHEDULE": "every 1s",
    "TRAINING__READOUT_SCHEDULE": "off",
}


class Trainers:
    """A worker with enough history, and trainers."""

    def __init__(self, address: str, topic: str, folder: Path, stack: ExitStack) -> None:
        self._address, self._topic, self._folder, self._stack = address, topic, folder, stack
        create_topic(address, topic, 1)
        self.worker = self.daemon("worker").serving()
        self.stream = stack.enter_context(closing(Stream(address, topic, 1)))
        self.stream.send_hours(200)

    def daemon(self, role: str, *, fault: str = "", **variables: str) -> Daemon:
        """Start a daemon in this role, with a fault at one of the points of `faulty_worker`."""
        faulty = {"TEST_FAULT": fault} if fault else {}
        settings = {**QUICK, "ROLE": role, **variables, **faulty}
        script = FAULTY if fault else None
        return self._stack.enter_context(Daemon(self._folder, self._address, self._topic, script=script, **settings))

    def orders(self) -> list[str]:
        """Return the checkpoints that were ordered to serve, in the order of the topic."""
        with closing(RecordReader(self._address, f"{self._topic}.models", 1)) as reader:
            records = []
            wait_until(lambda: records.extend(polled := list(reader.poll())) or not polled, "the end of the topic")
        return [orjson.loads(record.value or b"")["checkpoint"] for record in records if record.key == b"serve"]


@pytest.fixture
def trainers(kafka: str, topic: str, tmp_path: Path) -> Iterator[Trainers]:
    with ExitStack() as stack:
        yield Trainers(kafka, topic, tmp_path, stack)


def wait_for_log(daemon: Daemon, text: str, seconds: float = 90.0) -> None:
    wait_until(lambda: text in daemon.log or daemon.process.poll() is not None, text, seconds)
    assert text in daemon.log, daemon.log


def child_of(daemon: Daemon) -> int:
    """Wait for the child of a trainer, and return its process id."""
    children: list[str] = []

    def has_child() -> bool:
        run = subprocess.run(["ps", "--ppid", str(daemon.process.pid), "-o", "pid="], capture_output=True, text=True)
        children[:] = run.stdout.split()
        return bool(children)

    wait_until(has_child, "the child")
    return int(children[0])


def test_a_killed_or_hung_child_is_counted_and_the_next_run_promotes(trainers: Trainers) -> None:
    trainer = trainers.daemon("trainer", TRAINING__DEADLINE="30s")
    wait_for_log(trainer, "training_run_started")
    killed = child_of(trainer)
    subprocess.run(["kill", "-KILL", str(killed)], check=True)
    wait_for_log(trainer, '"exit": "failed"')
    wait_until(lambda: trainer.log.count("training_run_started") == 2, "the next one")
    hung = child_of(trainer)
    subprocess.run(["kill", "-STOP", str(hung)], check=True)
    wait_for_log(trainer, '"exit": "killed"')
    wait_for_log(trainer, '"outcome": "promoted"')
    trainers.stream.send_hours(5)
    trainers.stream.assert_exactly_once()
    trainer.send(signal.SIGTERM)
    assert trainer.exit_code() == 0
    assert '"training_failed": 1, "training_killed": 1' in trainer.log


def test_when_the_leader_is_killed_another_trainer_takes_over(trainers: Trainers) -> None:
    leader = trainers.daemon("trainer")
    wait_for_log(leader, "training_run_started")
    heir = trainers.daemon("trainer")
    child = child_of(leader)
    leader.send(signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{child}").exists(), "the end of its child")
    wait_for_log(heir, "trainer_elected")
    wait_for_log(heir, '"outcome": "promoted"')


def test_a_trainer_that_is_deposed_during_a_promotion_cannot_promote(trainers: Trainers) -> None:
    zombie = trainers.daemon("trainer", fault="mid-promotion:SIGSTOP:1")
    wait_for_log(zombie, "fault at mid-promotion")
    heir = trainers.daemon("trainer", TRAINING__SCHEDULE="every 1h")
    wait_for_log(heir, '"outcome": "promoted"')
    before = trainers.orders()
    assert len(before) == 1
    zombie.send(signal.SIGCONT)
    wait_for_log(zombie, '"outcome": "not_published"')
    assert trainers.orders() == before


def test_a_long_training_causes_no_lag_and_no_rebalance(trainers: Trainers) -> None:
    """It takes three poll intervals of the consumer."""
    trainers.worker.send(signal.SIGTERM)
    assert trainers.worker.exit_code() == 0
    static = {"KAFKA__INSTANCE_ID": "worker-0", "KAFKA__SESSION_TIMEOUT": "30s"}
    both = trainers.daemon("both", KAFKA__OPTIONS='{"max_poll_interval_ms": 7000}', **static).serving()
    wait_for_log(both, "training_run_started")
    child, pause = child_of(both), threading.Event()
    subprocess.run(["kill", "-STOP", str(child)], check=True)
    for _ in range(22):
        trainers.stream.send_hours(1)
        wait_until(lambda: trainers.stream.receive() >= trainers.stream.sent, "no lag", 5)
        pause.wait(1)
    subprocess.run(["kill", "-CONT", str(child)], check=True)
    wait_for_log(both, '"outcome": "promoted"')
    trainers.stream.send_hours(20)
    trainers.stream.assert_exactly_once()
    assert both.log.count("trainer_elected") == 1
    assert "trainer_deposed" not in both.log
    both.send(signal.SIGTERM)
    assert both.exit_code() == 0
    again = trainers.daemon("worker", **static).serving()
    assert generation(again) == generation(both), (
        "a static member that comes back causes no rebalance, and nothing else did"
    )


def generation(daemon: Daemon) -> list[str]:
    """Return the generation of the group in which the daemon was assigned its partitions."""
    return re.findall(r'"partitions": \[0\], "generation": (\d+)', daemon.log)
