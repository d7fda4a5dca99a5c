"""What the HTTP server knows of the daemon: plain references, filled while it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from forecaster.app.watchdog import Watchdog
from forecaster.learning.coordinator import TrainingCoordinator
from forecaster.registry.follower import RegistryFollower
from forecaster.serving.inspect.monitor import Monitor, WorkerStatus

STALE_SECONDS = 15.0
"""A worker that has shown nothing of itself for so long serves nobody."""


@dataclass(slots=True)
class Service:
    """One daemon.

    Attributes:
        role: worker, trainer or both.
        topic: the input.
        group: of the consumers.
        watchdog: of the loop.
        monitor: of the worker; None = it has not started, or there is none.
        watch: of the models topic; the worker's thread alone asks it.
        learner: of the trainer; None = it has not started, or there is none.
        started: wall clock, seconds.
    """

    role: str
    topic: str
    group: str
    watchdog: Watchdog
    monitor: Monitor | None = None
    follower: RegistryFollower | None = None
    coordinator: TrainingCoordinator | None = None
    started: float = field(default_factory=time.time)

    @property
    def worker(self) -> WorkerStatus | None:
        """The newest copy of the worker; None = there is none yet."""
        return None if self.monitor is None else self.monitor.status

    @property
    def status_age(self) -> float:
        """Seconds since the worker's newest copy was made; it makes one a second, unless it waits for a broker."""
        return 0.0 if self.monitor is None else self.monitor.age_seconds

    @property
    def unready(self) -> str:
        """Why it does not do its work; empty = it does."""
        if self.role == "trainer":
            return "not connected yet" if self.coordinator is None else self.coordinator.unready
        status, age = self.worker, self.status_age
        if status is None:
            return "not connected yet"
        if age > STALE_SECONDS:
            return f"no batch was finished for {age:.0f} s: it waits for the broker, or has too much to do"
        return status.unready
