"""What a worker knows of the models topic: which checkpoint is to be served, and the networks of those in use."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import Protocol

import structlog

from forecaster.core.network.model import NO_CHECKPOINT, Checkpoint, Model
from forecaster.core.network.network import NetworkConfig
from forecaster.errors import CheckpointError, TransientBrokerError
from forecaster.formats.checkpoints import PackedCheckpoint, refuse_other_network, unpack
from forecaster.formats.models import PARTITION
from forecaster.records import SourceRecord
from forecaster.registry.cache import CheckpointCache
from forecaster.registry.registry import ModelRegistry

LOOK_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
"""Each attempt that fails doubles the time to the next one, up to this: batches wait while it is made."""
STALLED_SECONDS = 10.0
"""A topic that should have more records, and gives none for so long, is asked again from the outside."""
_LOOKING = "looking"
_log = structlog.get_logger()


class TopicReader(Protocol):
    """What a watch asks of `LogReader`; tests have their own."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]: ...
    def seek(self, topic: str, partition: int, offset: int) -> None: ...
    def read(self, *, wait: bool = True) -> list[SourceRecord]: ...
    @property
    def position(self) -> int: ...


class Pauses:
    """How long it is before something that failed is tried again; by what it is."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._until: dict[str, float] = {}

    def lasts(self, what: str) -> bool:
        """It is not to be tried yet."""
        return time.monotonic() < self._until.get(what, 0.0)

    def failed(self, what: str) -> float:
        """Returns the seconds to the next attempt: each time twice as many."""
        seconds = min(2.0 * self._seconds.get(what, LOOK_SECONDS / 2.0), LONGEST_PAUSE_SECONDS)
        self._seconds[what], self._until[what] = seconds, time.monotonic() + seconds
        return seconds

    def went_well(self, what: str) -> None:
        """The next failure is the first one again."""
        self._seconds.pop(what, None)
        self._until.pop(what, None)


class RegistryFollower:
    """Follows the models topic; one thread only.

    Args:
        reader: an instance of its own.
        topic: the models topic.
        cache: of its checkpoints on disk.
        wanted: what a network trained with the settings looks like.
        fixed: a checkpoint that is served whatever the topic says.
    """

    def __init__(
        self,
        reader: TopicReader,
        topic: str,
        cache: CheckpointCache,
        wanted: NetworkConfig,
        fixed: Checkpoint | None = None,
    ) -> None:
        self._reader, self._topic, self._cache, self._wanted, self._fixed = reader, topic, cache, wanted, fixed
        self._registry = ModelRegistry()
        self._next: int | None = None
        self._end = 0
        self._lost = True
        self._unsettled = self._is_away = False
        self._champion = fixed.id if fixed else NO_CHECKPOINT
        self._models: dict[str, Model] = {}
        self._refused: dict[str, str] = {}
        self._said: set[tuple[str, str]] = set()
        self._look_at = 0.0
        self._pauses = Pauses()

    @property
    def registry(self) -> ModelRegistry:
        """What the topic held when it was last looked at."""
        return self._registry

    @property
    def champion(self) -> str:
        """Id of the checkpoint that is to be served; `none` where no usable one is named."""
        return self._champion

    def catch_up(self) -> None:
        """Everything that is on the topic now is known.

        Raises:
            TransientBrokerError: not this time; the next time goes on from here.
        """
        self._resume()
        for record in _records_before(self._reader, self._end):
            self._add(record)
        self._settle()

    def look(self) -> None:
        """What came since the last time is known; once a second at most, without waiting.

        Where the broker does not answer, that is said once, and what was known stays true.
        """
        if time.monotonic() < self._look_at:
            return
        resumed = self._lost
        try:
            if resumed:
                self._resume()
            records = self._reader.read(wait=False)
            settled = self._reader.position >= self._end
        except TransientBrokerError as error:
            self._note_outage(error)
            self._look_at = time.monotonic() + self._pauses.failed(_LOOKING)
            return
        self._look_at = time.monotonic() + LOOK_SECONDS
        if not resumed:  # one look after another went well
            self._is_away = False
            self._pauses.went_well(_LOOKING)
        for record in records:
            self._add(record)
        if self._unsettled and settled:
            self._settle()

    def checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        """Returns a checkpoint; None where neither cache nor topic has it, or it must not be used.

        Raises:
            TransientBrokerError: the cache does not have it, and the topic could not be read this time.
        """
        if self._fixed is not None and self._fixed.id == checkpoint_id:
            return self._fixed
        published = self._registry.published(checkpoint_id)
        if published is None or self._refused.get(checkpoint_id) == published.description.sha256:
            return None
        packed = self._cache.read(checkpoint_id, published.description.sha256)
        try:
            return unpack(packed or self._read_again(checkpoint_id), f"checkpoint {checkpoint_id}")
        except CheckpointError as error:
            self._refused[checkpoint_id] = published.description.sha256
            self._say(f"checkpoint {checkpoint_id} is not used", str(error))
            self._choose()
            return None

    def model(self, checkpoint_id: str) -> Model | None:
        """Returns the model of a checkpoint, the same one while it is kept; None as `checkpoint`, and of `none`.

        Raises:
            TransientBrokerError: as `checkpoint`.
        """
        if checkpoint_id not in self._models:
            checkpoint = self.checkpoint(checkpoint_id)
            if checkpoint is None:
                return None
            self._models[checkpoint_id] = Model(checkpoint)
        return self._models[checkpoint_id]

    def keep(self, checkpoint_ids: Collection[str]) -> None:
        """Models of other checkpoints are in memory no more."""
        self._models = {name: model for name, model in self._models.items() if name in checkpoint_ids}

    def _resume(self) -> None:
        """The next record is the one after those that are known; where the topic is another one, its first."""
        begin, self._end = self._reader.bounds(self._topic, PARTITION)
        if self._next is None or not begin <= self._next <= self._end:
            self._next = begin
            self._registry = ModelRegistry()
        self._reader.seek(self._topic, PARTITION, self._next)
        self._lost = False

    def _add(self, record: SourceRecord) -> None:
        """The record counts, and a checkpoint that is whole by it is in the cache."""
        self._next, self._unsettled = record.offset + 1, True
        packed = self._registry.add(record.key, record.value, record.timestamp)
        if packed is not None:
            self._refused.pop(packed.description.id, None)
            self._cache.write(packed)

    def _settle(self) -> None:
        """What the records say is done: it would be wrong before all are read that were there at the beginning."""
        self._unsettled = False
        for name, fault in self._registry.faults.items():
            self._say(f"checkpoint {name} is never served", fault)
        for key, problem in self._registry.problems.items():
            self._say(f"record {key} of the models topic is passed over", problem)
        self._cache.keep(self._registry.checkpoints.keys())
        self._choose()

    def _choose(self) -> None:
        """The champion is the checkpoint to be served, else the one before it, else none."""
        serve = self._registry.serve
        if self._fixed is None:
            named = () if serve is None else (serve.checkpoint, serve.previous)
            self._champion = next((name for name in named if self._fits(name)), NO_CHECKPOINT)

    def _fits(self, checkpoint_id: str) -> bool:
        """Returns whether it can be served; says why not."""
        if checkpoint_id == NO_CHECKPOINT:
            return True
        published = self._registry.published(checkpoint_id)
        if published is None:
            self._say(f"checkpoint {checkpoint_id} cannot be served", self._registry.why_not(checkpoint_id))
            return False
        try:
            refuse_other_network(published.description.network, self._wanted, f"checkpoint {checkpoint_id}")
        except CheckpointError as error:
            self._say(f"checkpoint {checkpoint_id} cannot be served", str(error))
            return False
        return self._refused.get(checkpoint_id) != published.description.sha256

    def _read_again(self, checkpoint_id: str) -> PackedCheckpoint:
        """Returns a checkpoint from the topic; raises CheckpointError where it is not whole there, or damaged."""
        if self._pauses.lasts(checkpoint_id):
            raise TransientBrokerError(f"checkpoint {checkpoint_id} could not be read a moment ago")
        registry = ModelRegistry(only=checkpoint_id)
        try:
            for record in records_to_end(self._reader, self._topic):
                packed = registry.add(record.key, record.value, record.timestamp)
                if packed is not None:
                    self._cache.write(packed)
                    self._pauses.went_well(checkpoint_id)
                    return packed
        except TransientBrokerError:
            self._pauses.failed(checkpoint_id)
            raise
        finally:
            self._lost = True  # the next look goes on where the last one ended
        raise CheckpointError(f"checkpoint {checkpoint_id}: {registry.why_not(checkpoint_id)}")

    def _note_outage(self, error: TransientBrokerError) -> None:
        self._lost = True
        if not self._is_away:
            self._is_away = True
            _log.warning("the models topic cannot be read: what was known is served", error=str(error))

    def _say(self, what: str, reason: str) -> None:
        if (what, reason) not in self._said:
            self._said.add((what, reason))
            _log.warning(what, reason=reason, topic=self._topic)


def read_registry(reader: TopicReader, topic: str) -> ModelRegistry:
    """Returns what the topic holds now.

    Raises:
        TransientBrokerError: not this time.
    """
    registry = ModelRegistry()
    for record in records_to_end(reader, topic):
        registry.add(record.key, record.value, record.timestamp)
    return registry


def records_to_end(reader: TopicReader, topic: str) -> Iterator[SourceRecord]:
    """Yields all records that are on the topic now; raises TransientBrokerError where they do not come."""
    begin, end = reader.bounds(topic, PARTITION)
    if begin < end:
        reader.seek(topic, PARTITION, begin)
        yield from _records_before(reader, end)


def _records_before(reader: TopicReader, end: int) -> Iterator[SourceRecord]:
    deadline = time.monotonic() + STALLED_SECONDS
    while reader.position < end:
        records = reader.read()
        yield from records
        if records:
            deadline = time.monotonic() + STALLED_SECONDS
        elif time.monotonic() > deadline:
            raise TransientBrokerError(f"no more records came at offset {reader.position} of {end}")
