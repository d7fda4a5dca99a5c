"""The trainer of a fleet: one of all processes that could train does, by Kafka's election.

    1. poll          are we the member of the trainers' group that has the models topic?
    2. look          what serves, how many readings there are, whether the live loss has drifted
    3. follow        the child process: killed past its deadline; what it made is published, or what it found is said
    4. decide        what is due, and whether there is enough that is new

The work itself is done by a child process, which can die or hang without touching anybody. What it made is published in
a transaction that carries our membership as of the poll: who was deposed meanwhile, stopped or cut off, cannot publish.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import structlog

from forecaster.core.network.model import NO_CHECKPOINT, Checkpoint
from forecaster.errors import ForecasterError, TransientBrokerError
from forecaster.formats.checkpoints import read_checkpoint, write_checkpoint
from forecaster.formats.models import PARTITION, Decision, Serve, decision_message, publication, serve_message
from forecaster.learning.child_process import ExitKind
from forecaster.learning.decision import TrainerState, TrainingRules, next_run
from forecaster.learning.run import RunResult, read_result
from forecaster.learning.schedule import RunKind
from forecaster.records import Member, Message, PollResult, Transaction
from forecaster.registry.registry import SUPERSEDED_MS, ModelRegistry

BODIES_KEPT = 5
RETRY_SECONDS = 5.0
FIRST_REST_SECONDS, LONGEST_REST_SECONDS = 60.0, 3_600.0
"""After each training that comes to nothing the next one that nobody asked for waits twice as long."""
MOST_DOUBLINGS = 10
"""More of them change nothing, and thousands are no number any more."""
OWN_WORD_SECONDS = 60.0
"""So long the learner waits for its own decision to come back to it from the topic."""
CHAMPION, RESULT = "champion", "result"
_log = structlog.get_logger()


class TrainersGroup(Protocol):
    """What is asked of `GroupConsumer`, subscribed to the models topic; its partition is never resumed."""

    def poll(self, *, wait: bool) -> PollResult: ...


class Registry(Protocol):
    """What is asked of `RegistryFollower`."""

    @property
    def champion(self) -> str: ...
    @property
    def registry(self) -> ModelRegistry: ...
    def look(self) -> None: ...
    def checkpoint(self, checkpoint_id: str) -> Checkpoint | None: ...


class Readings(Protocol):
    """What is asked of `HistoryCounter`."""

    @property
    def is_current(self) -> bool: ...
    def begin(self) -> None: ...
    def look(self) -> int: ...


class Producer(Protocol):
    """What is asked of `TransactionalProducer`."""

    def commit(self, transaction: Transaction) -> bool: ...
    def restart(self) -> None: ...


class Child(Protocol):
    """What is asked of `ChildProcess`."""

    def poll(self) -> ExitKind | None: ...
    def end(self) -> None: ...
    @property
    def output_tail(self) -> str: ...


class DueRuns(Protocol):
    """What is asked of `Schedule`."""

    def take(self) -> set[RunKind]: ...


class RunEvent(StrEnum):
    """What happens to a run, as it is counted."""

    STARTED = "started"
    SKIPPED = "skipped"  # too little was new
    PROMOTED = "promoted"
    REJECTED = "rejected"
    NOT_BEGUN = "not_begun"
    FAILED = "failed"
    KILLED = "killed"
    NOT_READABLE = "not_readable"
    NOT_PUBLISHED = "not_published"
    OVERTAKEN = "overtaken"  # another checkpoint serves meanwhile
    DROPPED = "dropped"  # we were deposed


@dataclass(frozen=True, slots=True)
class CoordinatorConfig:
    """Plain values.

    Attributes:
        topic: the models topic.
        rules: how much there must be to learn from.
        folder: for the child's files.
        start: begins a child: what it does, and the folder that it finds the champion in and leaves its result in.
        superseded_ms: so long a checkpoint stays on the topic after it has served.
    """

    topic: str
    rules: TrainingRules
    folder: Path
    start: Callable[[RunKind, Path], Child]
    superseded_ms: int = SUPERSEDED_MS


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a learner knows of the world: one of each, and nobody else uses them."""

    group: TrainersGroup
    follower: Registry
    readings: Readings
    producer: Producer
    schedule: DueRuns


@dataclass(frozen=True, slots=True)
class _Running:
    """A child at work, on what, beginning from which champion; and when works were last done before it."""

    work: RunKind
    child: Child
    champion: str
    before: dict[RunKind, int]


class TrainingCoordinator:
    """Trains while it is elected.

    Args:
        config: plain values.
        outside: what it knows of the world.
    """

    def __init__(self, config: CoordinatorConfig, outside: Dependencies) -> None:
        self._config = config
        self._outside = outside
        self._known = TrainerState(NO_CHECKPOINT, 0)
        self._leads = False
        self._running: _Running | None = None
        self._published, self._published_at = "", 0.0
        self._has_begun = False
        self._due: set[RunKind] = set()
        self._failures, self._rests_until = 0, 0.0
        self._unready = "not a member of the trainers' group yet"
        self.counters: Counter[str] = Counter()

    @property
    def unready(self) -> str:
        """Why it could not train if it were elected; empty = it could; other threads may ask."""
        return self._unready

    @property
    def leads(self) -> bool:
        """This process is the one that trains; other threads may ask."""
        return self._leads

    @property
    def running(self) -> str | None:
        """What the child at work does; None = there is none; other threads may ask."""
        running = self._running
        return None if running is None else running.work.value

    def run(self, stop: threading.Event) -> None:
        """Trains until `stop` is set; a child at work is ended.

        Raises:
            BrokerUnavailable: no broker was there for the outage deadline.
        """
        try:
            while not stop.is_set():
                try:
                    self.iterate()
                except TransientBrokerError as error:
                    self._unready = "waiting for the broker"
                    _log.warning("trainer waits for the broker", error=str(error), wait_seconds=RETRY_SECONDS)
                    stop.wait(RETRY_SECONDS)
        finally:
            self._drop_child()

    def iterate(self) -> None:
        """One round, as the numbered steps of this module say; it takes a moment."""
        polled = self._outside.group.poll(wait=True)
        self._follow_election(polled)
        self._outside.follower.look()
        if not polled.answered:
            self._unready = "the broker does not answer"
        elif polled.stable:
            self._unready = ""
        if not self._leads or not polled.stable:
            return
        self._look()
        if self._running is not None:
            self._follow_child(self._running, polled.member)
        elif self._knows_what_serves():
            self._decide()

    def _knows_what_serves(self) -> bool:
        """Our own last decision has come back from the topic, or has not for too long."""
        if self._published not in ("", *self._outside.follower.registry.decisions):
            if time.monotonic() < self._published_at + OWN_WORD_SECONDS:
                return False
            _log.warning("our own decision is not on the models topic: was it made again?", checkpoint=self._published)
        self._published = ""
        return True

    def _follow_election(self, polled: PollResult) -> None:
        if polled.revoked and self._leads:
            self._leads, self._published = False, ""
            self._drop_child()
            _log.info("trainer deposed")
        if polled.assigned:
            self._leads, self._has_begun = True, False
            self._outside.readings.begin()
            _log.info("trainer elected", generation=polled.member.generation_id)

    def _look(self) -> None:
        known, follower = self._known, self._outside.follower
        known.champion = follower.champion
        known.readings = self._outside.readings.look()
        known.has_drifted = follower.registry.has_drifted
        known.is_resting = time.monotonic() < self._rests_until
        if follower.registry.decisions and not self._has_begun:
            # Another process has trained before: as many new readings must come as if it had been now.
            known.at = dict.fromkeys(RunKind, known.readings)
            self._has_begun = self._outside.readings.is_current

    def _decide(self) -> None:
        self._due |= self._outside.schedule.take()
        following = next_run(self._config.rules, self._known, self._due)
        if following.work is not None:
            self._begin(following.work, following.why)
        for work in following.skipped:
            self._count(work, RunEvent.SKIPPED)
        self._due.clear()  # and not before: what the broker kept from beginning is due still

    def _begin(self, work: RunKind, why: str) -> None:
        """A child is at work in a folder that holds the champion, if there is one."""
        known, champion = self._known, self._known.champion
        checkpoint = None if champion == NO_CHECKPOINT else self._outside.follower.checkpoint(champion)
        before = dict(known.at)
        self._has_begun = True
        known.at[work] = known.readings
        if work == RunKind.TRAINING:
            known.at[RunKind.READOUT] = known.readings
        self._count(work, RunEvent.STARTED)
        _log.info("trainer begins", work=work.value, why=why, readings=known.readings, champion=champion)
        try:
            self._running = _Running(work, self._start(work, checkpoint), champion, before)
        except (ForecasterError, OSError) as error:
            self._record_failed_run(work, before, RunEvent.NOT_BEGUN)
            _log.error(
                "trainer's child cannot begin", work=work.value, folder=str(self._config.folder), error=str(error)
            )

    def _start(self, work: RunKind, champion: Checkpoint | None) -> Child:
        folder = self._config.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if champion is not None:
            write_checkpoint(champion, folder / CHAMPION)
        return self._config.start(work, folder)

    def _follow_child(self, running: _Running, member: Member) -> None:
        ended = running.child.poll()
        if ended is None:
            return
        self._running = None
        if ended != ExitKind.WELL:
            self._record_failed_run(running.work, running.before, RunEvent(ended.value))
            output_tail = running.child.output_tail
            _log.error(
                "trainer's child did not end well", work=running.work.value, how=ended.value, output_tail=output_tail
            )
        elif running.champion != self._outside.follower.champion:
            self._record_failed_run(running.work, running.before, RunEvent.OVERTAKEN)
            _log.warning("what was learned is dropped: another checkpoint serves now", was=running.champion)
        else:
            self._publish(running, member)

    def _publish(self, running: _Running, member: Member) -> None:
        """The decision is on the topic, with the checkpoint and the order to serve it where it was promoted."""
        try:
            result = read_result(self._config.folder / RESULT)
            messages = self._messages(running, result)
        except (ForecasterError, OSError) as error:
            self._record_failed_run(running.work, running.before, RunEvent.NOT_READABLE)
            _log.error("what the trainer's child has left cannot be read", work=running.work.value, error=str(error))
            return
        outcome = RunEvent.PROMOTED if result.promoted else RunEvent.REJECTED
        if messages and not self._outside.producer.commit(
            Transaction({self._config.topic: messages}, {PARTITION: 0}, member)
        ):
            self._outside.producer.restart()
            outcome = RunEvent.NOT_PUBLISHED
            self._record_failed_run(running.work, running.before, outcome)
        else:
            self._published, self._published_at = result.checkpoint if messages else "", time.monotonic()
            if running.work == RunKind.TRAINING:
                self._failures, self._rests_until = 0, 0.0
            self._count(running.work, outcome)
        _log.info(
            "trainer decides",
            work=running.work.value,
            outcome=outcome.value,
            checkpoint=result.checkpoint,
            challenger_loss=result.challenger_loss,
            champion_loss=result.champion_loss,
            reason=result.reason,
        )

    def _messages(self, running: _Running, result: RunResult) -> Sequence[Message]:
        if not result.checkpoint:
            return []  # there was nothing better to be had
        now = datetime.now(UTC).isoformat(timespec="seconds")
        decision = Decision(
            checkpoint=result.checkpoint,
            champion=running.champion,
            promoted=result.promoted,
            challenger_loss=result.challenger_loss,
            champion_loss=result.champion_loss,
            scored=result.scored,
            reason=result.reason,
            at=now,
            work=running.work.value,
        )
        answered = self._outside.follower.registry.answered() if running.work == RunKind.TRAINING else []
        if not result.promoted:
            return [decision_message(decision), *answered]
        checkpoint = read_checkpoint(self._config.folder / RESULT / result.checkpoint)
        serve = Serve(result.checkpoint, running.champion, "trainer", now, result.reason)
        clearing = self._outside.follower.registry.clearing(BODIES_KEPT, self._config.superseded_ms)
        return [*publication(checkpoint), decision_message(decision), serve_message(serve), *clearing, *answered]

    def _record_failed_run(self, work: RunKind, before: dict[RunKind, int], how: RunEvent) -> None:
        """It is as if the work had not been begun, but for the rest after a training, which grows."""
        self._count(work, how)
        self._known.at = before
        if work != RunKind.TRAINING:
            return
        rest = min(FIRST_REST_SECONDS * 2.0**self._failures, LONGEST_REST_SECONDS)
        self._failures = min(self._failures + 1, MOST_DOUBLINGS)
        self._rests_until = time.monotonic() + rest

    def _count(self, work: RunKind, event: RunEvent) -> None:
        self.counters[f"{work}_{event}"] += 1

    def _drop_child(self) -> None:
        if self._running is not None:
            self._running.child.end()
            self._known.at = self._running.before
            self._count(self._running.work, RunEvent.DROPPED)
            self._running = None
