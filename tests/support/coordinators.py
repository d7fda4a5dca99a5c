"""A training coordinator among fakes."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
from builders import pipeline_config, random_checkpoint
from clock import FakeClock
from fakes import Member

from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.core.network.model import Checkpoint
from forecaster.errors import TransientBrokerError
from forecaster.formats.checkpoints import write_checkpoint
from forecaster.formats.models import drift_message
from forecaster.learning.child_process import ExitKind
from forecaster.learning.coordinator import CoordinatorConfig, TrainingCoordinator
from forecaster.learning.dependencies import Dependencies
from forecaster.learning.kinds import RunKind
from forecaster.learning.next_run import TrainingRules
from forecaster.learning.run import FILE, RunResult
from forecaster.records import PollResult, Transaction
from forecaster.registry.registry import ModelRegistry

CONFIG = pipeline_config()
CHALLENGER = random_checkpoint(CONFIG, seed=7)
PROMOTED = RunResult(CHALLENGER.id, True, 0.5, 0.9, 1_000, "better")  # noqa: FBT003
REJECTED = RunResult(CHALLENGER.id, False, 0.95, 0.9, 1_000, "not better")  # noqa: FBT003


class World:
    """Everything that a coordinator depends on; a test sets what happens next.

    Attributes:
        assigned, revoked: partitions of the next poll.
        readings: the count of the history topic.
        is_current: the backlog is counted.
        due: kinds of runs that the schedule asks for next.
        is_stable: the trainers' group counts this process as a member.
        reconnected: the next poll says that the brokers have other addresses.
        fails: transactions are refused.
        away: checkpoints cannot be read, since the broker is away.
        stop: ends the coordinator.
    """

    def __init__(self, folder: Path) -> None:
        self.registry, self.champion = ModelRegistry(), NO_CHECKPOINT
        self.assigned: list[int] = []
        self.revoked: list[int] = []
        self.generation = 1
        self.is_stable, self.reconnected = True, False
        self.readings, self.due = 0, set[RunKind]()
        self.fails, self.away, self.is_current = False, False, True
        self.restarts = self.counted_from = 0
        self.transactions: list[Transaction] = []
        self.children: list[FakeChild] = []
        self.clock, self.stop = FakeClock(), threading.Event()
        self._folder = folder

    def coordinator(self) -> TrainingCoordinator:
        config = CoordinatorConfig("models", TrainingRules(100, 10), self._folder / "work", self._start)
        dependencies = Dependencies(self, self, FakeCounter(self), self, self, self.clock)  # type: ignore[arg-type]
        return TrainingCoordinator(config, dependencies, self.stop)

    def _start(self, kind: RunKind, folder: Path) -> FakeChild:
        self.children.append(FakeChild(kind, folder))
        return self.children[-1]

    def poll(self, *, wait: bool) -> PollResult:
        assert wait, "the loop must not spin"
        assigned, revoked, self.assigned, self.revoked = self.assigned, self.revoked, [], []
        reconnected, self.reconnected = self.reconnected, False
        member, stable = Member(generation_id=self.generation), self.is_stable
        return PollResult([], {}, {}, member, revoked, assigned, stable=stable, reconnected=reconnected)

    def refresh(self) -> None:
        """Do nothing: a test changes the registry itself."""

    def checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        if self.away:
            raise TransientBrokerError("away")
        return random_checkpoint(CONFIG) if checkpoint_id != NO_CHECKPOINT else None

    def commit(self, transaction: Transaction) -> bool:
        if self.fails:
            return False
        self.transactions.append(transaction)
        for message in transaction.messages["models"]:
            self.registry.add(message.key, message.value, 0)
        if self.registry.serve is not None:
            self.champion = self.registry.serve.checkpoint
        return True

    def report_drift(self) -> None:
        message = drift_message(0)
        self.registry.add(message.key, message.value, 0)

    def restart(self) -> None:
        self.restarts += 1

    def take(self) -> set[RunKind]:
        due, self.due = self.due, set()
        return due


class FakeCounter:
    """The count of readings, as the world has it."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def is_current(self) -> bool:
        return self._world.is_current

    def restart(self) -> None:
        self._world.counted_from = self._world.readings

    def count(self) -> int:
        return self._world.readings


class FakeChild:
    """A child at work, until a test ends it."""

    output_tail = "oh"

    def __init__(self, kind: RunKind, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.exit: ExitKind | None = None
        self.killed = False

    def poll(self) -> ExitKind | None:
        return self.exit

    def kill(self) -> None:
        self.killed = True

    def finish(self, result: RunResult) -> None:
        folder = self.folder / "result"
        folder.mkdir()
        (folder / FILE).write_bytes(msgspec.json.encode(result))
        write_checkpoint(CHALLENGER, folder)
        self.exit = ExitKind.OK
