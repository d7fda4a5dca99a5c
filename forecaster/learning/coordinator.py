"""The trainer of a fleet: every process that may train runs a coordinator, and Kafka elects one of them.

    1. poll      learn whether this process owns the partition of the models topic in the trainers' group: is elected
    2. observe   which checkpoint serves, how many readings there are, whether a worker has reported drift
    3. follow    the child process of the present run: kill it past its deadline, publish its result
    4. start     the next run, if one is due and enough readings are new

`iterate` does these steps once; all but the first wait until the process is elected. A child process does the training,
so that it can die or hang without harm. Its result is published in a transaction that carries the group membership of
the last poll: a coordinator that was deposed meanwhile, because its process was stopped or cut off, cannot publish.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from forecaster.backoff import Backoff
from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.core.network.model import Checkpoint
from forecaster.errors import ForecasterError, TransientBrokerError
from forecaster.formats.checkpoints import write_checkpoint
from forecaster.formats.models import PARTITION
from forecaster.learning.child_process import ExitKind
from forecaster.learning.dependencies import Child, Dependencies
from forecaster.learning.kinds import RunEvent, RunKind
from forecaster.learning.lifecycle import CoordinatorPhase
from forecaster.learning.next_run import TrainerState, TrainingRules, next_run
from forecaster.learning.publication import decision_messages, decision_of
from forecaster.learning.run import RunResult, read_result
from forecaster.records import Member, Message, PollResult, Transaction
from forecaster.registry.registry import SUPERSEDED_MS

RETRY_SECONDS = 5.0
"""Pause before the coordinator tries again to reach the broker."""
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 60.0, 3_600.0
"""Pauses after failed trainings; a scheduled run does not wait for them."""
DECISION_SECONDS = 60.0
"""Longest wait of the coordinator for its own decision, which it reads back from the topic."""
CHAMPION, RESULT = "champion", "result"
NO_MEMBER = "not a member of the trainers' group yet"
_NO_FAILURE = Backoff(FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CoordinatorConfig:
    """Settings of a training coordinator, as plain values.

    Attributes:
        topic: name of the models topic.
        rules: conditions of a run.
        folder: folder for the files of the child.
        start: function that starts a child for a kind of run; the child finds the champion in the folder, and leaves
            its result there.
        superseded_ms: time that a checkpoint stays on the topic after it has served.
    """

    topic: str
    rules: TrainingRules
    folder: Path
    start: Callable[[RunKind, Path], Child]
    superseded_ms: int = SUPERSEDED_MS


@dataclass(frozen=True, slots=True)
class _Run:
    """A run whose child is at work.

    Attributes:
        kind: kind of the run.
        child: process that trains.
        champion: id of the checkpoint that served at the start.
        readings_at: `TrainerState.readings_at` before the run, to restore when it fails.
    """

    kind: RunKind
    child: Child
    champion: str
    readings_at: dict[RunKind, int]


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A published decision: the id of its checkpoint, and until when to wait for it."""

    checkpoint: str
    until: float


class TrainingCoordinator:
    """Starts and follows training runs, and publishes their results, while it is elected.

    Args:
        config: settings, as plain values.
        dependencies: objects that the coordinator calls.
        stop: event that ends `run`.

    Attributes:
        counters: numbers of events, by `<kind of run>_<event>`.
    """

    def __init__(self, config: CoordinatorConfig, dependencies: Dependencies, stop: threading.Event) -> None:
        self._config, self._stop, self._clock = config, stop, dependencies.clock
        self._group, self._follower, self._producer = dependencies.group, dependencies.follower, dependencies.producer
        self._counter, self._schedule = dependencies.counter, dependencies.schedule
        self._phase = CoordinatorPhase.NOT_ELECTED
        self._state = TrainerState(NO_CHECKPOINT, 0)
        self._has_baseline = False
        self._due: set[RunKind] = set()
        self._run: _Run | None = None
        self._awaited = _Awaited("", 0.0)
        self._backoff = _NO_FAILURE
        self._unready = NO_MEMBER
        self.counters: Counter[str] = Counter()

    @property
    def unready(self) -> str:
        """Reason why this process is not ready to train; empty = ready; safe for other threads to read."""
        return self._unready

    @property
    def is_elected(self) -> bool:
        """Whether this process is elected; safe for other threads to read."""
        return self._phase is not CoordinatorPhase.NOT_ELECTED

    @property
    def running(self) -> str | None:
        """Kind of the present run; None = there is none; safe for other threads to read."""
        run = self._run
        return None if run is None else run.kind.value

    def run(self) -> None:
        """Train until `stop` is set; then kill the child of the present run.

        Raises:
            BrokerUnavailable: no broker was there for the outage deadline.
        """
        try:
            while not self._stop.is_set():
                try:
                    self.iterate()
                except TransientBrokerError as error:
                    self._unready = "waiting for the broker"
                    _log.warning("trainer_waits_for_broker", error=str(error), wait_seconds=RETRY_SECONDS)
                    self._stop.wait(RETRY_SECONDS)
        finally:
            self._drop_run()

    def iterate(self) -> None:
        """Do each step once, quickly; the numbers are those of the module's docstring.

        Raises:
            TransientBrokerError: a step failed; the next call repeats it.
        """
        polled = self._poll()  # 1
        if not self.is_elected or not polled.stable:
            return
        self._observe()  # 2
        if self._run is not None:
            self._follow_run(self._run, polled.member)  # 3
        elif not self._awaits_decision():
            self._start_due_run()  # 4

    def _poll(self) -> PollResult:
        polled = self._group.poll(wait=True)
        self._follow_election(polled)
        if polled.reconnected:
            self._producer.restart()  # it knows former addresses only
        self._follower.refresh()
        outside = "" if polled.stable else NO_MEMBER
        self._unready = outside if polled.answered else "the broker does not answer"
        return polled

    def _follow_election(self, polled: PollResult) -> None:
        if polled.revoked and self.is_elected:
            self._drop_run()
            self._enter(CoordinatorPhase.NOT_ELECTED)
            _log.info("trainer_deposed")
        if polled.assigned:
            self._has_baseline = False
            self._counter.restart()
            if not self.is_elected:
                self._settle()
            _log.info("trainer_elected", generation=polled.member.generation_id)

    def _observe(self) -> None:
        """Learn which checkpoint serves, how many readings there are, and whether a worker has reported drift."""
        state, registry = self._state, self._follower.registry
        state.champion = self._follower.champion
        state.readings = self._counter.count()
        state.has_drifted = registry.has_drifted
        if registry.decisions and not self._has_baseline:
            # Another process trained before this one was elected. How many readings there were then is unknown, so that
            # new ones are counted from now on.
            state.readings_at = dict.fromkeys(RunKind, state.readings)
            self._has_baseline = self._counter.is_current

    def _follow_run(self, run: _Run, member: Member) -> None:
        exit_kind = run.child.poll()
        if exit_kind is None:
            return
        self._run = None
        if exit_kind != ExitKind.OK:
            self._record_failed_run(run.kind, run.readings_at, RunEvent(exit_kind.value))
            _log.error(
                "training_run_failed",
                kind=run.kind.value,
                exit=exit_kind.value,
                output_tail=run.child.output_tail,
            )
        elif run.champion != self._follower.champion:
            self._record_failed_run(run.kind, run.readings_at, RunEvent.OVERTAKEN)
            champion = self._follower.champion
            _log.warning("training_run_overtaken", kind=run.kind.value, started_from=run.champion, champion=champion)
        else:
            self._publish(run, member)

    def _awaits_decision(self) -> bool:
        """Return whether the last decision has still to be read back from the topic; give up on it after a while."""
        if self._phase is not CoordinatorPhase.AWAITING_DECISION:
            return False
        if self._awaited.checkpoint in self._follower.registry.decisions:
            return False
        if self._clock() < self._awaited.until:
            return True
        _log.warning("decision_not_read_back", checkpoint=self._awaited.checkpoint, topic=self._config.topic)
        return False

    def _start_due_run(self) -> None:
        self._settle()
        self._state.is_backing_off = self._phase is CoordinatorPhase.BACKING_OFF
        self._due |= self._schedule.take()
        upcoming = next_run(self._config.rules, self._state, self._due)
        if upcoming.kind is not None:
            self._start(upcoming.kind, upcoming.reason)
        for kind in upcoming.skipped:
            self._count(kind, RunEvent.SKIPPED)
        self._due.clear()  # only here: a run that the broker kept from starting stays due

    def _start(self, kind: RunKind, reason: str) -> None:
        """Start a child in a folder that holds the champion, if there is one."""
        state, champion = self._state, self._state.champion
        checkpoint = None if champion == NO_CHECKPOINT else self._follower.checkpoint(champion)
        readings_at = state.mark_started(kind)
        self._has_baseline = True
        self._count(kind, RunEvent.STARTED)
        _log.info("training_run_started", kind=kind.value, reason=reason, readings=state.readings, champion=champion)
        try:
            child = self._start_child(kind, checkpoint)
        except (ForecasterError, OSError) as error:
            self._record_failed_run(kind, readings_at, RunEvent.NOT_STARTED)
            _log.error("training_run_not_started", kind=kind.value, folder=str(self._config.folder), error=str(error))
        else:
            self._run = _Run(kind, child, champion, readings_at)
            self._enter(CoordinatorPhase.RUNNING)

    def _start_child(self, kind: RunKind, champion: Checkpoint | None) -> Child:
        folder = self._config.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if champion is not None:
            write_checkpoint(champion, folder / CHAMPION)
        return self._config.start(kind, folder)

    def _publish(self, run: _Run, member: Member) -> None:
        """Publish the decision of a run, and the checkpoint that it promotes, in one transaction."""
        try:
            result = read_result(self._config.folder / RESULT)
            messages = self._messages(run, result)
        except (ForecasterError, OSError) as error:
            self._record_failed_run(run.kind, run.readings_at, RunEvent.UNREADABLE)
            _log.error("training_result_unreadable", kind=run.kind.value, error=str(error))
            return
        event = RunEvent.PROMOTED if result.promoted else RunEvent.REJECTED
        if messages and not self._commit(messages, member):
            event = RunEvent.NOT_PUBLISHED
            self._record_failed_run(run.kind, run.readings_at, event)
        else:
            self._record_decision(run.kind, event, result.checkpoint if messages else "")
        _log.log(
            logging.WARNING if event is RunEvent.NOT_PUBLISHED else logging.INFO,
            "training_run_decided",
            kind=run.kind.value,
            outcome=event.value,
            checkpoint=result.checkpoint,
            challenger_loss=result.challenger_loss,
            champion_loss=result.champion_loss,
            reason=result.reason,
        )

    def _messages(self, run: _Run, result: RunResult) -> Sequence[Message]:
        if not result.checkpoint:  # a refit that keeps the champion's readout
            return []
        decision = decision_of(result, run.kind, run.champion, datetime.now(UTC).isoformat(timespec="seconds"))
        config, registry = self._config, self._follower.registry
        return decision_messages(decision, registry, config.folder / RESULT, config.superseded_ms)

    def _commit(self, messages: Sequence[Message], member: Member) -> bool:
        """Return whether the broker has accepted the transaction, which carries this process's membership."""
        if self._producer.commit(Transaction({self._config.topic: messages}, {PARTITION: 0}, member)):
            return True
        self._producer.restart()
        return False

    def _record_decision(self, kind: RunKind, event: RunEvent, awaited: str) -> None:
        """Count the run; if its decision was published, wait until it is read back from the topic."""
        self._count(kind, event)
        if kind == RunKind.TRAINING:
            self._backoff = _NO_FAILURE
        if awaited:
            self._awaited = _Awaited(awaited, self._clock() + DECISION_SECONDS)
            self._enter(CoordinatorPhase.AWAITING_DECISION)
        else:
            self._settle()

    def _record_failed_run(self, kind: RunKind, readings_at: dict[RunKind, int], event: RunEvent) -> None:
        """Count the run, and undo its start; after a training, delay the next one that is not scheduled."""
        self._count(kind, event)
        self._state.readings_at = readings_at
        if kind == RunKind.TRAINING:
            self._backoff = self._backoff.after_failure(self._clock())
        self._settle()

    def _drop_run(self) -> None:
        """Kill the child of the present run, if there is one, and undo the run's start."""
        if self._run is not None:
            self._run.child.kill()
            self._state.readings_at = self._run.readings_at
            self._count(self._run.kind, RunEvent.DROPPED)
            self._run = None

    def _settle(self) -> None:
        """Enter the phase between runs: backing off while the pause after a failure lasts, else idle."""
        self._enter(CoordinatorPhase.BACKING_OFF if self._backoff.lasts(self._clock()) else CoordinatorPhase.IDLE)

    def _enter(self, phase: CoordinatorPhase) -> None:
        if phase is not self._phase:
            self._phase = self._phase.to(phase)

    def _count(self, kind: RunKind, event: RunEvent) -> None:
        self.counters[f"{kind}_{event}"] += 1
