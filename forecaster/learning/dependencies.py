"""The interfaces that the training coordinator needs from the rest of the process; tests implement them with fakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from forecaster.clock import Clock, monotonic
from forecaster.core.network.model import Checkpoint
from forecaster.interfaces import Producer
from forecaster.learning.child_process import ExitKind
from forecaster.learning.kinds import RunKind
from forecaster.records import PollResult
from forecaster.registry.registry import ModelRegistry


class TrainersGroup(Protocol):
    """A `GroupConsumer` of the models topic in the trainers' group; its partition is never resumed."""

    def poll(self, *, wait: bool) -> PollResult:
        """Return what happened to the assignment; wait for a moment."""


class Follower(Protocol):
    """A `RegistryFollower`."""

    @property
    def champion(self) -> str:
        """Id of the checkpoint to serve."""

    @property
    def registry(self) -> ModelRegistry:
        """The content of the models topic as of the last read."""

    def refresh(self) -> None:
        """Read new records of the topic."""

    def checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        """Return a checkpoint; None if it is missing, or must not be used."""


class ReadingsCounter(Protocol):
    """A `HistoryCounter`."""

    @property
    def is_current(self) -> bool:
        """Whether everything that the topic held at the last `restart` is counted."""

    def restart(self) -> None:
        """Treat everything that the topic holds by now as a backlog."""

    def count(self) -> int:
        """Return the number of readings since the beginning of the history topic."""


class Child(Protocol):
    """A `ChildProcess`."""

    def poll(self) -> ExitKind | None:
        """Return how the child ended; None while it works."""

    def kill(self) -> None:
        """Kill the child."""

    @property
    def output_tail(self) -> str:
        """The end of its output."""


class DueRuns(Protocol):
    """A `Schedule`."""

    def take(self) -> set[RunKind]:
        """Return the kinds of runs that have become due since the last call."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Objects that a training coordinator calls.

    Attributes:
        group: membership of this process in the trainers' group.
        follower: follower of the models topic.
        counter: counter of the readings in the history topic.
        producer: producer of transactions on the models topic.
        schedule: source of due runs.
        clock: clock for pauses.
    """

    group: TrainersGroup
    follower: Follower
    counter: ReadingsCounter
    producer: Producer
    schedule: DueRuns
    clock: Clock = monotonic
