"""One of all processes trains, and who is deposed publishes nothing."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from builders import pipeline_config, random_checkpoint
from fake_kafka import Member

from forecaster.broker.consumer import Polled
from forecaster.broker.producer import Transaction
from forecaster.catalogue import Catalogue
from forecaster.checkpoints import write_checkpoint
from forecaster.core.model import GENESIS, Checkpoint
from forecaster.errors import CheckpointError, TransientBrokerError
from forecaster.learning import learner as learner_module
from forecaster.learning.learner import Learner, LearnerConfig, Outside
from forecaster.learning.lesson import FILE, Lesson
from forecaster.learning.plan import Rules
from forecaster.learning.process import Ended
from forecaster.learning.schedule import Work
from forecaster.models import drift_message

CONFIG = pipeline_config()
CHALLENGER = random_checkpoint(CONFIG, seed=7)
PROMOTED = Lesson(CHALLENGER.id, True, 0.5, 0.9, 1_000, "better")  # noqa: FBT003
REJECTED = Lesson(CHALLENGER.id, False, 0.95, 0.9, 1_000, "not better")  # noqa: FBT003


class World:
    """Everything that a learner knows, as plain objects; a child ends when it is told how."""

    def __init__(self, folder: Path) -> None:
        self.catalogue, self.champion = Catalogue(), GENESIS
        self.opened: list[int] = []
        self.closed: list[int] = []
        self.generation = 1
        self.readings, self.due = 0, set[Work]()
        self.fail, self.away, self.is_current = False, False, True
        self.restarts = 0
        self.transactions: list[Transaction] = []
        self.children: list[FakeChild] = []
        self._folder = folder

    def learner(self) -> Learner:
        config = LearnerConfig("models", Rules(100, 10), self._folder / "work", self._start)
        return Learner(config, Outside(self, self, Counter(self), self, self))  # type: ignore[arg-type]

    def _start(self, work: Work, folder: Path) -> FakeChild:
        self.children.append(FakeChild(work, folder))
        return self.children[-1]

    def poll(self, *, wait: bool) -> Polled:
        assert wait, "the loop must not spin"
        opened, closed, self.opened, self.closed = self.opened, self.closed, [], []
        return Polled([], {}, {}, Member(generation_id=self.generation), closed, opened)  # type: ignore[arg-type]

    def look(self) -> None:
        """The catalogue is what the test makes of it."""

    def checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        if self.away:
            raise TransientBrokerError("away")
        return random_checkpoint(CONFIG) if checkpoint_id != GENESIS else None

    def commit(self, transaction: Transaction) -> bool:
        if self.fail:
            return False
        self.transactions.append(transaction)
        for message in transaction.messages["models"]:
            self.catalogue.add(message.key, message.value, 0)
        if self.catalogue.serve is not None:
            self.champion = self.catalogue.serve.checkpoint
        return True

    def restart(self) -> None:
        self.restarts += 1

    def take(self) -> set[Work]:
        due, self.due = self.due, set()
        return due


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(learner_module.time, "monotonic", lambda: self.now)


class Counter:
    """The count of readings."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def is_current(self) -> bool:
        return self._world.is_current

    def look(self) -> int:
        return self._world.readings


class FakeChild:
    """A child at work, until a test ends it."""

    last_words = "oh"

    def __init__(self, work: Work, folder: Path) -> None:
        self.work, self.folder = work, folder
        self.ended: Ended | None = None
        self.dropped = False

    def poll(self) -> Ended | None:
        return self.ended

    def end(self) -> None:
        self.dropped = True

    def finish(self, lesson: Lesson) -> None:
        result = self.folder / "result"
        result.mkdir()
        (result / FILE).write_bytes(msgspec.json.encode(lesson))
        write_checkpoint(CHALLENGER, result)
        self.ended = Ended.WELL


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def leading(world: World) -> Learner:
    """A learner whose first training is under way."""
    world.opened, world.readings = [0], 100
    learner = world.learner()
    learner.iterate()
    assert [child.work for child in world.children] == [Work.TRAINING]
    return learner


def test_who_is_not_elected_does_nothing(world: World) -> None:
    world.readings = 10_000
    world.learner().iterate()
    assert not world.children


def test_what_is_promoted_is_published_and_served_in_one_transaction(world: World, leading: Learner) -> None:
    world.children[0].finish(PROMOTED)
    leading.iterate()
    assert len(world.transactions) == 1
    assert world.transactions[0].offsets == {0: 0}, "with it goes our membership, which fences who is deposed"
    assert world.catalogue.serve is not None
    assert world.catalogue.serve.checkpoint == CHALLENGER.id
    assert world.catalogue.serve.previous == GENESIS
    assert set(world.catalogue.checkpoints) == {CHALLENGER.id}
    assert world.catalogue.decisions[CHALLENGER.id].challenger_loss == 0.5
    assert leading.counters["training_promoted"] == 1


def test_what_is_rejected_leaves_both_scores_and_nothing_else(world: World, leading: Learner) -> None:
    world.children[0].finish(REJECTED)
    leading.iterate()
    assert world.catalogue.serve is None
    assert not world.catalogue.checkpoints
    decision = world.catalogue.decisions[CHALLENGER.id]
    assert (decision.promoted, decision.challenger_loss, decision.champion_loss) == (False, 0.95, 0.9)


def test_who_is_deposed_ends_its_child_and_publishes_nothing(world: World, leading: Learner) -> None:
    world.children[0].finish(PROMOTED)
    world.closed = [0]
    leading.iterate()
    leading.iterate()
    assert world.children[0].dropped
    assert not world.transactions


def test_a_transaction_that_is_refused_promotes_nothing_and_the_producer_begins_anew(
    world: World, leading: Learner
) -> None:
    world.children[0].finish(PROMOTED)
    world.fail = True
    leading.iterate()
    assert world.restarts == 1
    assert leading.counters["training_not_published"] == 1
    assert world.catalogue.serve is None


@pytest.mark.parametrize("ended", [Ended.KILLED, Ended.FAILED])
def test_a_child_that_hangs_or_dies_is_counted_and_the_next_one_is_begun_when_due(
    world: World, leading: Learner, ended: Ended
) -> None:
    world.children[0].ended = ended
    leading.iterate()
    assert leading.counters[f"training_{ended}"] == 1
    world.readings, world.due = 120, {Work.TRAINING}
    leading.iterate()
    assert len(world.children) == 2


def test_what_was_learned_against_another_champion_is_dropped(world: World, leading: Learner) -> None:
    world.champion = "promoted-by-hand"
    world.children[0].finish(PROMOTED)
    leading.iterate()
    assert not world.transactions
    assert leading.counters["training_overtaken"] == 1


def test_drift_that_a_worker_reports_brings_the_next_training_forward_once(world: World, leading: Learner) -> None:
    world.children[0].finish(PROMOTED)
    leading.iterate()
    leading.iterate()
    assert len(world.children) == 1
    message = drift_message(0)
    world.catalogue.add(message.key, message.value, 0)
    world.readings = 200
    leading.iterate()
    assert len(world.children) == 2
    world.children[1].finish(REJECTED)
    leading.iterate()
    world.readings = 300
    leading.iterate()
    assert len(world.children) == 2


def test_the_champion_lies_in_the_childs_folder(world: World, leading: Learner) -> None:
    world.children[0].finish(PROMOTED)
    leading.iterate()
    world.readings, world.due = 200, {Work.READOUT}
    leading.iterate()
    assert world.children[1].work == Work.READOUT
    assert [place.name for place in (world.children[1].folder / "champion").iterdir()] == [random_checkpoint(CONFIG).id]


def test_a_broker_that_does_not_answer_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_module, "RETRY_SECONDS", 0.0)
    stop, polls = threading.Event(), list[int]()

    def poll(*, wait: bool) -> Polled:
        polls.append(len(polls))
        if len(polls) < 3:
            raise TransientBrokerError("away")
        stop.set()
        return World.poll(world, wait=wait)

    monkeypatch.setattr(world, "poll", poll)
    world.opened, world.readings = [0], 100
    world.learner().run(stop)
    assert len(polls) == 3
    assert [child.work for child in world.children] == [Work.TRAINING]
    assert world.children[0].dropped, "told to end, it leaves no child behind"


def drifted(world: World) -> None:
    message = drift_message(0)
    world.catalogue.add(message.key, message.value, 0)


def test_a_first_training_that_came_to_nothing_is_begun_again_after_a_rest_that_grows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    world.opened, world.readings = [0], 100
    learner = world.learner()
    begun = []
    for second in range(1_000):
        clock.now += 1.0
        learner.iterate()
        if world.children[-1].ended is None:
            begun.append(second)
            world.children[-1].ended = Ended.FAILED
    assert len(begun) == 5
    assert [round((after - one) / 60) for one, after in pairwise(begun)] == [1, 2, 4, 8]
    world.due = {Work.TRAINING}
    learner.iterate()
    assert len(world.children) == 6, "what the schedule asks for does not wait"


def test_drift_waits_for_the_rest_after_a_run_that_came_to_nothing(
    world: World, leading: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    world.children[0].finish(PROMOTED)
    leading.iterate()
    drifted(world)
    world.readings = 200
    leading.iterate()
    world.children[1].ended = Ended.KILLED
    for _ in range(5):
        leading.iterate()
    assert len(world.children) == 2
    clock.now += learner_module.FIRST_REST_SECONDS + 1.0
    leading.iterate()
    assert len(world.children) == 3


def test_who_is_elected_again_begins_what_it_had_to_drop(world: World, leading: Learner) -> None:
    world.closed = [0]
    leading.iterate()
    world.opened = [0]
    leading.iterate()
    assert len(world.children) == 2


def test_what_is_due_is_not_forgotten_while_the_broker_is_away(world: World, leading: Learner) -> None:
    world.children[0].finish(PROMOTED)
    leading.iterate()
    world.readings, world.due, world.away = 200, {Work.READOUT}, True
    with pytest.raises(TransientBrokerError):
        leading.iterate()
    world.away = False
    leading.iterate()
    assert [child.work for child in world.children] == [Work.TRAINING, Work.READOUT]


def test_a_decision_that_never_comes_back_from_the_topic_is_not_waited_for_for_ever(
    world: World, leading: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    world.children[0].finish(REJECTED)
    leading.iterate()
    world.catalogue = Catalogue()
    world.readings, world.due = 200, {Work.TRAINING}
    leading.iterate()
    assert len(world.children) == 1
    clock.now += learner_module.OWN_WORD_SECONDS + 1.0
    leading.iterate()
    assert len(world.children) == 2


def test_a_disk_that_is_full_ends_the_run_and_not_the_trainer(
    world: World, leading: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.children[0].ended = Ended.WELL  # and has left nothing
    leading.iterate()
    assert leading.counters["training_not_readable"] == 1

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    for _ in range(1_100):
        world.due = {Work.TRAINING}
        leading.iterate()
    assert leading.counters["training_not_begun"] == 1_100, "for weeks, if it must be"
    monkeypatch.undo()

    def unwritable(*_: object) -> None:
        raise CheckpointError("the checkpoint cannot be written")

    world.champion, world.due = "body", {Work.TRAINING}
    monkeypatch.setattr(learner_module, "write_checkpoint", unwritable)
    leading.iterate()
    assert leading.counters["training_not_begun"] == 1_101
    monkeypatch.undo()
    world.due = {Work.TRAINING}
    leading.iterate()
    assert len(world.children) == 2


def test_the_backlog_of_a_new_leader_is_nothing_new(world: World, leading: Learner) -> None:
    world.children[0].finish(REJECTED)
    leading.iterate()
    world.opened, world.is_current = [0], False
    heir = world.learner()
    for readings in (0, 5_000, 10_000):
        world.readings, world.due = readings, {Work.TRAINING}
        heir.iterate()
    world.is_current = True
    heir.iterate()
    world.due = {Work.TRAINING}
    heir.iterate()
    assert len(world.children) == 1
    world.readings, world.due = 10_010, {Work.TRAINING}
    heir.iterate()
    assert len(world.children) == 2


def test_a_new_leader_does_not_train_again_what_another_one_has_just_trained(world: World, leading: Learner) -> None:
    world.children[0].finish(REJECTED)
    leading.iterate()
    world.opened = [0]
    heir = world.learner()
    heir.iterate()
    assert len(world.children) == 1
    world.due = {Work.TRAINING}
    heir.iterate()
    assert len(world.children) == 1
    world.readings, world.due = 110, {Work.TRAINING}
    heir.iterate()
    assert len(world.children) == 2
