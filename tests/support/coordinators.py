"""A learner, and all that it knows as plain objects."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from builders import pipeline_config, random_checkpoint
from fakes import Member

from forecaster.core.network.model import NO_CHECKPOINT, Checkpoint
from forecaster.errors import TransientBrokerError
from forecaster.formats.checkpoints import write_checkpoint
from forecaster.formats.models import drift_message
from forecaster.learning import coordinator
from forecaster.learning.child_process import ExitKind
from forecaster.learning.coordinator import CoordinatorConfig, Dependencies, TrainingCoordinator
from forecaster.learning.decision import TrainingRules
from forecaster.learning.run import FILE, RunResult
from forecaster.learning.schedule import RunKind
from forecaster.records import PollResult, Transaction
from forecaster.registry.registry import ModelRegistry

CONFIG = pipeline_config()
CHALLENGER = random_checkpoint(CONFIG, seed=7)
PROMOTED = RunResult(CHALLENGER.id, True, 0.5, 0.9, 1_000, "better")  # noqa: FBT003
REJECTED = RunResult(CHALLENGER.id, False, 0.95, 0.9, 1_000, "not better")  # noqa: FBT003


class World:
    """Everything that a learner knows, as plain objects; a child ends when it is told how."""

    def __init__(self, folder: Path) -> None:
        self.registry, self.champion = ModelRegistry(), NO_CHECKPOINT
        self.opened: list[int] = []
        self.closed: list[int] = []
        self.generation = 1
        self.readings, self.due = 0, set[RunKind]()
        self.fail, self.away, self.is_current = False, False, True
        self.restarts = self.counts_from = 0
        self.transactions: list[Transaction] = []
        self.children: list[FakeChild] = []
        self._folder = folder

    def coordinator(self) -> TrainingCoordinator:
        config = CoordinatorConfig("models", TrainingRules(100, 10), self._folder / "work", self._start)
        return TrainingCoordinator(config, Dependencies(self, self, Counter(self), self, self))  # type: ignore[arg-type]

    def _start(self, work: RunKind, folder: Path) -> FakeChild:
        self.children.append(FakeChild(work, folder))
        return self.children[-1]

    def poll(self, *, wait: bool) -> PollResult:
        assert wait, "the loop must not spin"
        opened, closed, self.opened, self.closed = self.opened, self.closed, [], []
        return PollResult([], {}, {}, Member(generation_id=self.generation), closed, opened, stable=True)

    def look(self) -> None:
        """The catalogue is what the test makes of it."""

    def checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        if self.away:
            raise TransientBrokerError("away")
        return random_checkpoint(CONFIG) if checkpoint_id != NO_CHECKPOINT else None

    def commit(self, transaction: Transaction) -> bool:
        if self.fail:
            return False
        self.transactions.append(transaction)
        for message in transaction.messages["models"]:
            self.registry.add(message.key, message.value, 0)
        if self.registry.serve is not None:
            self.champion = self.registry.serve.checkpoint
        return True

    def drift(self) -> None:
        """A worker reports it."""
        message = drift_message(0)
        self.registry.add(message.key, message.value, 0)

    def restart(self) -> None:
        self.restarts += 1

    def take(self) -> set[RunKind]:
        due, self.due = self.due, set()
        return due


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(coordinator.time, "monotonic", lambda: self.now)


class Counter:
    """The count of readings."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def is_current(self) -> bool:
        return self._world.is_current

    def begin(self) -> None:
        self._world.counts_from = self._world.readings

    def look(self) -> int:
        return self._world.readings


class FakeChild:
    """A child at work, until a test ends it."""

    output_tail = "oh"

    def __init__(self, work: RunKind, folder: Path) -> None:
        self.work, self.folder = work, folder
        self.ended: ExitKind | None = None
        self.dropped = False

    def poll(self) -> ExitKind | None:
        return self.ended

    def end(self) -> None:
        self.dropped = True

    def finish(self, result: RunResult) -> None:
        folder = self.folder / "result"
        folder.mkdir()
        (folder / FILE).write_bytes(msgspec.json.encode(result))
        write_checkpoint(CHALLENGER, folder)
        self.ended = ExitKind.WELL
