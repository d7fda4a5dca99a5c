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
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import structlog

from forecaster.broker.consumer import Member, Polled
from forecaster.broker.producer import Transaction
from forecaster.checkpoints import read_checkpoint, write_checkpoint
from forecaster.core.model import GENESIS, Checkpoint
from forecaster.errors import TransientBrokerError
from forecaster.learning.lesson import Lesson, read_lesson
from forecaster.learning.plan import Known, Rules, next_work
from forecaster.learning.process import Ended
from forecaster.learning.schedule import Work
from forecaster.models import PARTITION, Catalogue, Decision, Serve, decision_message, publication, serve_message
from forecaster.wire import Message

BODIES_KEPT = 5
RETRY_SECONDS = 5.0
CHAMPION, RESULT = "champion", "result"
_log = structlog.get_logger()


class Group(Protocol):
    """What is asked of `GroupConsumer`, subscribed to the models topic; its partition is never resumed."""

    def poll(self, *, wait: bool) -> Polled: ...


class Watch(Protocol):
    """What is asked of `ModelWatch`."""

    @property
    def champion(self) -> str: ...
    @property
    def catalogue(self) -> Catalogue: ...
    def look(self) -> None: ...
    def checkpoint(self, checkpoint_id: str) -> Checkpoint | None: ...


class Readings(Protocol):
    """What is asked of `HistoryCounter`."""

    @property
    def is_current(self) -> bool: ...
    def look(self) -> int: ...


class Producer(Protocol):
    """What is asked of `TransactionalProducer`."""

    def commit(self, transaction: Transaction) -> bool: ...
    def restart(self) -> None: ...


class Child(Protocol):
    """What is asked of `ChildProcess`."""

    def poll(self) -> Ended | None: ...
    def end(self) -> None: ...
    @property
    def last_words(self) -> str: ...


class Due(Protocol):
    """What is asked of `Schedule`."""

    def take(self) -> set[Work]: ...


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """Plain values.

    Attributes:
        topic: the models topic.
        rules: how much there must be to learn from.
        folder: for the child's files.
        start: begins a child: what it does, and the folder that it finds the champion in and leaves its result in.
    """

    topic: str
    rules: Rules
    folder: Path
    start: Callable[[Work, Path], Child]


@dataclass(frozen=True, slots=True)
class Outside:
    """What a learner knows of the world: one of each, and nobody else uses them."""

    group: Group
    watch: Watch
    readings: Readings
    producer: Producer
    schedule: Due


@dataclass(frozen=True, slots=True)
class _Running:
    """A child at work, on what, beginning from which champion."""

    work: Work
    child: Child
    champion: str


class Learner:
    """Trains while it is elected.

    Args:
        config: plain values.
        outside: what it knows of the world.
    """

    def __init__(self, config: LearnerConfig, outside: Outside) -> None:
        self._config = config
        self._outside = outside
        self._known = Known(GENESIS, 0)
        self._leads = False
        self._running: _Running | None = None
        self._published = ""
        self._has_begun = False
        self.counters: Counter[str] = Counter()

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
                    _log.warning("trainer waits for the broker", error=str(error), wait_seconds=RETRY_SECONDS)
                    stop.wait(RETRY_SECONDS)
        finally:
            self._drop_child()

    def iterate(self) -> None:
        """One round, as the numbered steps of this module say; it takes a moment."""
        polled = self._outside.group.poll(wait=True)
        self._follow_election(polled)
        self._outside.watch.look()
        if not self._leads or not polled.stable:
            return
        self._look()
        if self._running is not None:
            self._follow_child(self._running, polled.member)
        elif self._published in ("", *self._outside.watch.catalogue.decisions):  # else what serves is not known yet
            self._published = ""
            self._decide()

    def _follow_election(self, polled: Polled) -> None:
        if polled.closed and self._leads:
            self._leads = False
            self._drop_child()
            _log.info("trainer deposed")
        if polled.opened:
            self._leads = True
            _log.info("trainer elected", generation=polled.member.generation_id)

    def _look(self) -> None:
        known, watch = self._known, self._outside.watch
        known.champion = watch.champion
        known.readings = self._outside.readings.look()
        known.has_drifted = watch.catalogue.has_drifted
        if watch.catalogue.decisions and not self._has_begun:
            # Another process has trained before: as many new readings must come as if it had been now.
            known.at = dict.fromkeys(Work, known.readings)
            self._has_begun = self._outside.readings.is_current

    def _decide(self) -> None:
        following = next_work(self._config.rules, self._known, self._outside.schedule.take())
        for work in following.skipped:
            self.counters[f"{work}_skipped"] += 1
        if following.work is not None:
            self._begin(following.work, following.why)

    def _begin(self, work: Work, why: str) -> None:
        """A child is at work in a folder that holds the champion, if there is one."""
        folder, champion = self._config.folder, self._known.champion
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        checkpoint = None if champion == GENESIS else self._outside.watch.checkpoint(champion)
        if checkpoint is not None:
            write_checkpoint(checkpoint, folder / CHAMPION)
        self._has_begun = True
        self._known.at[work] = self._known.readings
        if work == Work.TRAINING:
            self._known.at[Work.READOUT] = self._known.readings
        self._running = _Running(work, self._config.start(work, folder), champion)
        self.counters[f"{work}_started"] += 1
        _log.info("trainer begins", work=work.value, why=why, readings=self._known.readings, champion=champion)

    def _follow_child(self, running: _Running, member: Member) -> None:
        ended = running.child.poll()
        if ended is None:
            return
        self._running = None
        if ended != Ended.WELL:
            self.counters[f"{running.work}_{ended}"] += 1
            self._try_again_when_due(running.work)
            _log.error(
                "trainer's child did not end well",
                work=running.work.value,
                how=ended.value,
                last_words=running.child.last_words,
            )
            return
        lesson = read_lesson(self._config.folder / RESULT)
        if running.champion != self._outside.watch.champion:
            self.counters[f"{running.work}_overtaken"] += 1
            self._try_again_when_due(running.work)
            _log.warning("what was learned is dropped: another checkpoint serves now", was=running.champion)
            return
        self._publish(running, lesson, member)

    def _publish(self, running: _Running, lesson: Lesson, member: Member) -> None:
        """The decision is on the topic, with the checkpoint and the order to serve it where it was promoted."""
        messages = self._messages(running, lesson)
        outcome = "promoted" if lesson.promoted else "rejected"
        if messages and not self._outside.producer.commit(
            Transaction({self._config.topic: messages}, {PARTITION: 0}, member)
        ):
            self._outside.producer.restart()
            self._try_again_when_due(running.work)
            outcome = "not_published"
        elif messages:
            self._published = lesson.checkpoint
        self.counters[f"{running.work}_{outcome}"] += 1
        _log.info(
            "trainer decides",
            work=running.work.value,
            outcome=outcome,
            checkpoint=lesson.checkpoint,
            challenger_loss=lesson.challenger_loss,
            champion_loss=lesson.champion_loss,
            reason=lesson.reason,
        )

    def _messages(self, running: _Running, lesson: Lesson) -> Sequence[Message]:
        if not lesson.checkpoint:
            return []  # there was nothing better to be had
        now = datetime.now(UTC).isoformat(timespec="seconds")
        decision = Decision(
            checkpoint=lesson.checkpoint,
            champion=running.champion,
            promoted=lesson.promoted,
            challenger_loss=lesson.challenger_loss,
            champion_loss=lesson.champion_loss,
            scored=lesson.scored,
            reason=lesson.reason,
            at=now,
            work=running.work.value,
        )
        answered = self._outside.watch.catalogue.answered() if running.work == Work.TRAINING else []
        if not lesson.promoted:
            return [decision_message(decision), *answered]
        checkpoint = read_checkpoint(self._config.folder / RESULT / lesson.checkpoint)
        serve = Serve(lesson.checkpoint, running.champion, "trainer", now, lesson.reason)
        clearing = self._outside.watch.catalogue.clearing(BODIES_KEPT)
        return [*publication(checkpoint), decision_message(decision), serve_message(serve), *clearing, *answered]

    def _try_again_when_due(self, work: Work) -> None:
        """Nothing came of the work: it does not wait for new readings."""
        self._known.at[work] = self._known.readings - self._config.rules.min_new_ticks

    def _drop_child(self) -> None:
        if self._running is not None:
            self._running.child.end()
            self.counters[f"{self._running.work}_dropped"] += 1
            self._running = None
