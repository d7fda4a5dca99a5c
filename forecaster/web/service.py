"""The daemon as the HTTP server sees it: references that the composition root fills while the daemon starts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from forecaster.learning.coordinator import TrainingCoordinator
from forecaster.registry.follower import RegistryFollower
from forecaster.serving.inspect.monitor import Monitor
from forecaster.serving.inspect.status import WorkerStatus

STALE_SECONDS = 15.0
"""A worker whose newest status is older than this is not ready."""


class Liveness(Protocol):
    """Whether the daemon's loop makes progress; the watchdog of the daemon knows."""

    @property
    def is_alive(self) -> bool:
        """Whether the loop makes progress, or was silent for a short time only."""

    @property
    def silent_seconds(self) -> float:
        """Time since the loop last showed a sign of life."""


@dataclass(slots=True)
class Service:
    """References to the parts of one daemon.

    Attributes:
        role: worker, trainer or both.
        topic: name of the input topic.
        group: name of the consumer group.
        liveness: progress of the loop.
        monitor: answers questions about the worker; None = no worker, or not started yet.
        follower: follows the models topic; only the worker's thread may call it. None = no worker, or not started yet.
        coordinator: runs the trainings; None = no trainer, or not started yet.
        started: time of the start, epoch seconds.
    """

    role: str
    topic: str
    group: str
    liveness: Liveness
    monitor: Monitor | None = None
    follower: RegistryFollower | None = None
    coordinator: TrainingCoordinator | None = None
    started: float = field(default_factory=time.time)

    @property
    def worker(self) -> WorkerStatus | None:
        """Newest status of the worker; None = there is none yet."""
        return None if self.monitor is None else self.monitor.status

    @property
    def status_age(self) -> float:
        """Seconds since the newest status; the worker makes one every second, unless it waits for a broker."""
        return 0.0 if self.monitor is None else self.monitor.age_seconds

    @property
    def unready(self) -> str:
        """Reason why the daemon does not do its work; empty = it is ready."""
        if self.role == "trainer":
            return "not connected yet" if self.coordinator is None else self.coordinator.unready
        status, age = self.worker, self.status_age
        if status is None:
            return "not connected yet"
        if age > STALE_SECONDS:
            waits = f"no batch was finished for {age:.0f} s: the worker waits for the broker, or the batch is large"
            return "; ".join(filter(None, [waits, status.trouble.reason]))
        return status.unready
