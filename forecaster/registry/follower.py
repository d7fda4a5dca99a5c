"""A follower of the models topic: the checkpoint to serve, and the models in use."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import structlog

from forecaster.backoff import Backoff
from forecaster.clock import Clock, monotonic
from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.core.network.model import Checkpoint, Model
from forecaster.core.network.network import NetworkConfig
from forecaster.errors import CheckpointError, TransientBrokerError
from forecaster.formats.checkpoints import PackedCheckpoint, refuse_other_network, unpack
from forecaster.formats.models import PARTITION
from forecaster.interfaces import PartitionReader
from forecaster.records import SourceRecord
from forecaster.registry.cache import CheckpointCache
from forecaster.registry.registry import ModelRegistry

REFRESH_SECONDS = 1.0
"""Least time between two reads of new records, and the pause after a first failure."""
MAX_PAUSE_SECONDS = 60.0
"""Longest pause after failures: batches wait while an attempt is made."""
STALLED_SECONDS = 10.0
"""A read that should return records, and returns none for this long, is given up."""
MAX_LOGGED = 10_000
"""Number of newest problems that are remembered as logged."""
_REFRESH = "refresh"
_log = structlog.get_logger()


class RegistryFollower:
    """Follows the models topic; one thread only.

    Args:
        reader: reader of the topic, for this follower alone.
        topic: name of the models topic.
        cache: copies of its checkpoints on disk.
        network: configuration that the settings ask for; a checkpoint with another network is not served.
        fixed: checkpoint that is served whatever the topic holds; None = the topic decides.
        clock: clock for pauses.
    """

    def __init__(
        self,
        reader: PartitionReader,
        topic: str,
        cache: CheckpointCache,
        network: NetworkConfig,
        fixed: Checkpoint | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self._reader, self._topic, self._cache = reader, topic, cache
        self._network, self._fixed, self._clock = network, fixed, clock
        self._registry = ModelRegistry()
        self._next: int | None = None
        self._end = 0
        self._must_seek = True
        self._has_changes = self._is_outage_logged = False
        self._champion = fixed.id if fixed else NO_CHECKPOINT
        self._models: dict[str, Model] = {}
        self._logged: dict[tuple[str, str, str], None] = {}
        self._refresh_at = 0.0
        self._backoffs: dict[str, Backoff] = {}

    @property
    def registry(self) -> ModelRegistry:
        """The content of the topic as of the last read."""
        return self._registry

    @property
    def champion(self) -> str:
        """Id of the checkpoint to serve; `none` if the topic names no usable one."""
        return self._champion

    def catch_up(self) -> None:
        """Read everything that is on the topic now.

        Raises:
            TransientBrokerError: the broker failed; the next call continues at the next record.
        """
        self._seek_next()
        for record in _records_before(self._reader, self._end, self._clock):
            self._apply(record)
        self._apply_changes()

    def refresh(self) -> None:
        """Read new records, once a second at most, without waiting for any.

        An outage of the broker is logged once; champion and models stay as they are.
        """
        if self._clock() < self._refresh_at:
            return
        after_seek = self._must_seek
        try:
            if after_seek:
                self._seek_next()
            records = self._reader.read(wait=False)
            is_at_end = self._reader.position >= self._end
        except TransientBrokerError as error:
            self._record_outage(error)
            return
        self._refresh_at = self._clock() + REFRESH_SECONDS
        if not after_seek:  # a seek can succeed during an outage; two reads in a row cannot
            self._is_outage_logged = False
            self._backoffs.pop(_REFRESH, None)
        for record in records:
            self._apply(record)
        if self._has_changes and is_at_end:
            self._apply_changes()

    def checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        """Return a checkpoint; None if neither cache nor topic has it, or it must not be used.

        Raises:
            TransientBrokerError: the cache does not have it, and the topic could not be read this time.
        """
        if self._fixed is not None and self._fixed.id == checkpoint_id:
            return self._fixed
        published = self._registry.published(checkpoint_id)
        if published is None:
            return None
        packed = self._cache.read(checkpoint_id, published.description.sha256)
        if packed is not None and packed.description != published.description:
            packed = None  # the description in the cache was changed
        try:
            return unpack(packed or self._read_from_topic(checkpoint_id), f"checkpoint {checkpoint_id}")
        except CheckpointError as error:
            self._registry.refuse(checkpoint_id, str(error))
            self._log_once("checkpoint_refused", checkpoint_id, str(error))
            self._choose_champion()
            return None

    def champion_model(self) -> Model | None:
        """Return the model of the champion, having fallen back to another champion if the first cannot be loaded.

        Raises:
            TransientBrokerError: as `checkpoint`.
        """
        while (model := self.model(champion := self._champion)) is None and self._champion != champion:
            pass
        return model

    def model(self, checkpoint_id: str) -> Model | None:
        """Return the model of a checkpoint, the same object while it is kept; None as `checkpoint`, and for `none`.

        Raises:
            TransientBrokerError: as `checkpoint`.
        """
        if checkpoint_id not in self._models:
            checkpoint = self.checkpoint(checkpoint_id)
            if checkpoint is None:
                return None
            self._models[checkpoint_id] = Model(checkpoint)
        return self._models[checkpoint_id]

    def keep_only(self, checkpoint_ids: Collection[str]) -> None:
        """Remove the models of all other checkpoints from memory."""
        self._models = {name: model for name, model in self._models.items() if name in checkpoint_ids}

    def _seek_next(self) -> None:
        """Seek the record after the last one that was applied; the first one, if the topic was created again."""
        begin, self._end = self._reader.bounds(self._topic, PARTITION)
        if self._next is None or not begin <= self._next <= self._end:
            self._next = begin
            self._registry = ModelRegistry()
        self._reader.seek(self._topic, PARTITION, self._next)
        self._must_seek = False

    def _apply(self, record: SourceRecord) -> None:
        """Apply a record to the registry; write the checkpoint that it completes to the cache."""
        self._next, self._has_changes = record.offset + 1, True
        packed = self._registry.add(record.key, record.value, record.timestamp)
        if packed is not None:
            self._cache.write(packed)

    def _apply_changes(self) -> None:
        """Act on the changed registry: at the end of the topic only, since later records can undo earlier ones."""
        self._has_changes = False
        for name, fault in self._registry.faults.items():
            self._log_once("checkpoint_refused", name, fault)
        for key, problem in self._registry.problems.items():
            self._log_once("registry_record_ignored", key, problem)
        self._cache.keep_only(self._registry.checkpoints.keys())
        self._choose_champion()

    def _choose_champion(self) -> None:
        """Choose the checkpoint that is to be served, if it can be, else the one before it, else none."""
        serve = self._registry.serve
        if self._fixed is None:
            named = () if serve is None else (serve.checkpoint, serve.previous)
            self._champion = next((name for name in named if self._can_serve(name)), NO_CHECKPOINT)

    def _can_serve(self, checkpoint_id: str) -> bool:
        """Return whether a checkpoint can be served; log why not."""
        if checkpoint_id == NO_CHECKPOINT:
            return True
        published = self._registry.published(checkpoint_id)
        if published is None:
            self._log_once("checkpoint_unusable", checkpoint_id, self._registry.why_unavailable(checkpoint_id))
            return False
        try:
            refuse_other_network(published.description.network, self._network, f"checkpoint {checkpoint_id}")
        except CheckpointError as error:
            self._log_once("checkpoint_unusable", checkpoint_id, str(error))
            return False
        return True

    def _read_from_topic(self, checkpoint_id: str) -> PackedCheckpoint:
        """Return a checkpoint from the topic.

        Raises:
            CheckpointError: it is incomplete there, or damaged.
            TransientBrokerError: the topic could not be read, now or a moment ago.
        """
        backoff = self._backoff(checkpoint_id)
        if backoff.lasts(self._clock()):
            raise TransientBrokerError(f"checkpoint {checkpoint_id}: the models topic could not be read a moment ago")
        registry = ModelRegistry(only=checkpoint_id)
        try:
            for record in records_to_end(self._reader, self._topic, self._clock):
                packed = registry.add(record.key, record.value, record.timestamp)
                if packed is not None:
                    self._cache.write(packed)
                    self._backoffs.pop(checkpoint_id, None)
                    return packed
        except TransientBrokerError:
            self._backoffs[checkpoint_id] = backoff.after_failure(self._clock())
            raise
        finally:
            self._must_seek = True  # the next refresh continues where the last one ended
        raise CheckpointError(f"checkpoint {checkpoint_id}: {registry.why_unavailable(checkpoint_id)}")

    def _backoff(self, key: str) -> Backoff:
        return self._backoffs.get(key, Backoff(REFRESH_SECONDS, MAX_PAUSE_SECONDS))

    def _record_outage(self, error: TransientBrokerError) -> None:
        self._must_seek = True
        backoff = self._backoffs[_REFRESH] = self._backoff(_REFRESH).after_failure(self._clock())
        self._refresh_at = backoff.until
        if not self._is_outage_logged:
            self._is_outage_logged = True
            _log.warning("models_topic_unavailable", topic=self._topic, error=str(error))

    def _log_once(self, event: str, key: str, reason: str) -> None:
        """Log a problem of a checkpoint, or of the record with this key, unless it was logged before."""
        if (event, key, reason) not in self._logged:
            self._logged[event, key, reason] = None
            if len(self._logged) > MAX_LOGGED:
                del self._logged[next(iter(self._logged))]
            _log.warning(event, key=key, reason=reason, topic=self._topic)


def read_registry(reader: PartitionReader, topic: str, only: str = "") -> ModelRegistry:
    """Return the present content of the models topic.

    Args:
        reader: reader of the topic.
        topic: name of the models topic.
        only: as for `ModelRegistry`.

    Raises:
        TransientBrokerError: the broker failed.
    """
    registry = ModelRegistry(only)
    for record in records_to_end(reader, topic):
        registry.add(record.key, record.value, record.timestamp)
    return registry


def records_to_end(reader: PartitionReader, topic: str, clock: Clock = monotonic) -> Iterator[SourceRecord]:
    """Yield all records that are on the topic now.

    Raises:
        TransientBrokerError: the broker failed, or the records did not come.
    """
    begin, end = reader.bounds(topic, PARTITION)
    if begin < end:
        reader.seek(topic, PARTITION, begin)
        yield from _records_before(reader, end, clock)


def _records_before(reader: PartitionReader, end: int, clock: Clock) -> Iterator[SourceRecord]:
    deadline = clock() + STALLED_SECONDS
    while reader.position < end:
        records = reader.read()
        yield from records
        if records:
            deadline = clock() + STALLED_SECONDS
        elif clock() > deadline:
            raise TransientBrokerError(
                f"models topic: no records came at offset {reader.position}, before offset {end}"
            )
