"""A partition's rows come back before it is served: stored blocks, then the input from the floor on, outputs off.

    1. the group's committed offset, then the state topic's high watermark: in this order, since a commit returns before
       its markers are everywhere
    2. the state topic up to that mark
    3. the verdict: what is done with what was found
    4. the rows of the blocks, re-warmed where another network or other settings made them
    5. the input from the floor to the committed offset; each row skips what its block includes

Every step is a slice of a generator: the partitions that serve already go on between the slices, and a partition that
is taken away in the middle is forgotten with its generator.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import structlog
from msgspec.structs import replace
from numpy.typing import NDArray

from forecaster.core.network.model import NO_CHECKPOINT
from forecaster.core.state import SeriesState
from forecaster.errors import TransientBrokerError
from forecaster.formats.state import CorruptSnapshot, Floor, StoredBlock, Swap, adapted_state, loaded_state
from forecaster.pipeline import Batch, PipelineConfig, advance
from forecaster.records import I64, Decoded, Readings, SourceRecord
from forecaster.serving.state.keeping import StateConfig
from forecaster.serving.state.partition import Partition
from forecaster.serving.state.partitions import Partitions
from forecaster.serving.state.recovery import Bounds, OnLostInput, Recovery, RecoveryPlan, Stored, plan_recovery
from forecaster.serving.state.swaps import Checkpoints, assign_models, can_serve

CHUNK_READINGS = 400
"""So many readings are replayed in a slice: about 20 ms."""
PROGRESS_SECONDS = 5.0
RETRY_SECONDS = 0.5
CONFIRM_SECONDS = 2.0
_log = structlog.get_logger()


class Reader(Protocol):
    """What a restore asks of `LogReader`; tests have their own."""

    def committed(self, topic: str, partition: int) -> int | None: ...
    def bounds(self, topic: str, partition: int) -> tuple[int, int]: ...
    def seek(self, topic: str, partition: int, offset: int) -> None: ...
    def read(self) -> list[SourceRecord]: ...
    @property
    def position(self) -> int: ...


class RecordDecoder(Protocol):
    """What a restore asks of `wire.Decoder`."""

    def decode(self, records: list[SourceRecord]) -> Decoded: ...


@dataclass(frozen=True, slots=True)
class RestoreConfig:
    """Plain values of a restore.

    Attributes:
        source: the input topic.
        state: the topic of blocks and floors.
        pipeline: what replays the input.
        state_config: how rows are kept.
        on_lost_input: what is done where the state cannot be made whole.
    """

    source: str
    state: str
    pipeline: PipelineConfig
    state_config: StateConfig
    on_lost_input: OnLostInput = "fail"


@dataclass(frozen=True, slots=True)
class Restored:
    """A partition that is whole, and how it came to be; its position is where serving begins.

    Attributes:
        partition: with its rows.
        plan: what was done.
        replayed: readings.
        seconds: it took, from the first question on.
    """

    partition: Partition
    plan: RecoveryPlan
    replayed: int
    seconds: float

    @property
    def must_be_written(self) -> bool:
        """What the topic holds would mislead the next one who takes over: all is written before it serves."""
        return self.plan.recovery in (Recovery.COLD, Recovery.STALE) or self.partition.is_split


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What became of readings: of `Outcome`, (N,); and the first whose series could have no row, -1 = none."""

    outcomes: NDArray[np.int8]
    refused: int


Result = TypeVar("Result")
Slices = Generator[None, None, Restored]


class Restorer:
    """Restores one partition after the other.

    Args:
        config: plain values.
        checkpoints: what replays.
        decoder: of the input's records.
        reader: of both topics.
    """

    def __init__(self, config: RestoreConfig, checkpoints: Checkpoints, decoder: RecordDecoder, reader: Reader) -> None:
        self.config = config
        self._checkpoints = checkpoints
        self._decoder = decoder
        self._reader = reader
        self._waiting: list[int] = []
        self._slices: Slices | None = None
        self._not_before = 0.0
        self._said = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def waiting(self) -> list[int]:
        """Partitions that are not whole yet."""
        return list(self._waiting)

    def add(self, partitions: Collection[int]) -> None:
        """The partitions are to be restored, from the beginning."""
        self.cancel(partitions)
        self._waiting += partitions

    def cancel(self, partitions: Collection[int]) -> None:
        """The partitions are restored no more; nothing happens where they are not."""
        if self._waiting and self._waiting[0] in partitions:
            self._slices = None
        self._waiting = [number for number in self._waiting if number not in partitions]

    def work(self, seconds: float) -> Restored | None:
        """Goes on for about that long; returns a partition as soon as it is whole.

        Raises:
            StateError: the state cannot be made whole, and ON_LOST_INPUT is `fail`; or a newer version wrote it.
            TopicError: the input has other partitions than the state was made with.
        """
        deadline = time.monotonic() + seconds
        while self._waiting and time.monotonic() >= self._not_before:
            if self._slices is None:
                self._slices = self._restore(self._waiting[0])
            try:
                next(self._slices)
            except StopIteration as done:
                self._slices = None
                del self._waiting[0]
                restored: Restored = done.value
                return restored
            except TransientBrokerError as error:
                _log.warning("restore begins again", partition=self._waiting[0], error=str(error))
                self._slices = None
                self._waiting.append(self._waiting.pop(0))  # what cannot be read holds nobody else up
                self._not_before = time.monotonic() + RETRY_SECONDS
            if time.monotonic() >= deadline:
                break
        return None

    def log_start(self, number: int) -> int:
        """Returns the first offset of a partition's input; raises TransientBrokerError where the broker is away."""
        return self._reader.bounds(self.config.source, number)[0]

    def first_written_ms(self, number: int) -> int | None:
        """Returns when the first record of a partition's input was written; None where it has none, or does not say.

        Raises:
            TransientBrokerError: not this time.
        """
        begin, end = self._reader.bounds(self.config.source, number)
        if begin == end:
            return None
        self._reader.seek(self.config.source, number, begin)
        deadline = time.monotonic() + CONFIRM_SECONDS
        while self._reader.position < end and time.monotonic() < deadline:
            for record in self._reader.read():
                return record.timestamp if record.timestamp > 0 else None
        return None

    def plan(self, number: int) -> RecoveryPlan:
        """Returns what a restore of the partition would do; for `forecaster check`."""
        return _result(self._examine(number))[1]

    def restored(self, number: int) -> Restored:
        """Returns the partition, whole, however long it takes; for commands, which serve nothing meanwhile.

        Raises:
            TransientBrokerError: not this time.
            StateError: as `work`.
            TopicError: as `work`.
        """
        return _result(self._restore(number))

    def replay_batch(self, partition: Partition, readings: Readings, offsets: I64) -> ReplayResult:
        """The readings are in the rows as service would have put them there, and nothing is published.

        Args:
            partition: its swaps say what forecasts.
            readings: N of them.
            offsets: of their records; (N,).
        """
        alone = Partitions(self.config.state_config)
        alone.open(partition)
        numbers = np.full(len(readings), partition.number, np.int64)
        taken = alone.checkout(readings, numbers)
        serving = assign_models(
            self._checkpoints, {partition.number: partition.floor.swaps}, numbers, offsets, readings
        )
        batch = Batch(readings, taken.row, serving.which)
        outputs = advance(self.config.pipeline, serving.models, taken.state, batch)
        alone.adopt(taken, {}, [partition.number])
        return ReplayResult(outputs.outcomes, taken.parts[partition.number].refused)

    def _restore(self, number: int) -> Slices:
        begin = time.monotonic()
        stored, plan = yield from self._examine(number)
        partition = Partition(number, self.config.state_config, plan.begin)
        partition.replay(plan.replay_from, self._floor(stored, plan))
        if plan.recovery != Recovery.NEW:  # until our floor is written, the topic's one needs what it names
            partition.blocks.reserve(stored.numbers)
        if plan.recovery.uses_blocks:
            yield from self._load(partition, stored, plan)
        partition.pending_tombstones |= stored.numbers - set(partition.blocks)
        if plan.recovery == Recovery.REBUILT:
            partition.serving(stored=False)
        replayed = yield from self._replay(partition, plan)
        partition.move_to(plan.begin)
        if plan.recovery == Recovery.STALE:
            partition.blocks.mark_all_dirty(plan.begin)
        partition.serving(stored=plan.recovery == Recovery.RESTORED and not partition.is_split)
        say = _log.info if plan.recovery in (Recovery.NEW, Recovery.RESTORED) else _log.warning
        say(
            "partition restored",
            partition=number,
            how=plan.recovery.value,
            reason=plan.reason,
            series=len(partition.table),
            blocks=len(partition.blocks),
            replayed=replayed,
            offset=plan.begin,
        )
        return Restored(partition, plan, replayed, time.monotonic() - begin)

    def _floor(self, stored: Stored, plan: RecoveryPlan) -> Floor:
        """Returns the stored floor where the replay obeys it, else one without events, served by the champion."""
        if stored.floor is not None and plan.recovery == Recovery.RESTORED:
            return stored.floor
        champion = self._checkpoints.champion
        if not can_serve(self._checkpoints, champion, self.config.state_config.shape.hidden):
            champion = NO_CHECKPOINT
        anew = Floor(self.config.state_config.identity, plan.replay_from, swaps=[Swap(plan.replay_from, champion)])
        if stored.floor is not None and plan.recovery == Recovery.REWARMED:
            return replace(anew, full=stored.floor.full, events=stored.floor.events)
        return anew

    def _examine(self, number: int) -> Generator[None, None, tuple[Stored, RecoveryPlan]]:
        """Steps 1 to 3."""
        config, reader = self.config, self._reader
        committed = reader.committed(config.source, number)
        first, after = reader.bounds(config.source, number)
        if committed is not None and committed > after:
            after = self._confirmed_end(number, after, committed)
        begin, end = reader.bounds(config.state, number)
        stored = Stored()
        if begin < end:
            reader.seek(config.state, number, begin)
            records: Sequence[SourceRecord] = ()
            while records or reader.position < end:
                records = reader.read()
                self._keep(stored, records)
                self._say(number, "reading stored state", reader.position, end)
                yield
        stored.missing = self._missing(stored)
        if stored.missing:  # or has what serves been published a moment ago?
            self._checkpoints.catch_up()
            stored.missing = self._missing(stored)
        where = f"{config.source} partition {number}"
        return stored, plan_recovery(
            config.state_config.identity, stored, Bounds(committed, first, after), config.on_lost_input, where
        )

    def _missing(self, stored: Stored) -> list[str]:
        """Returns the checkpoints that the floor names and that cannot serve here."""
        hidden, swaps = self.config.state_config.shape.hidden, stored.floor.swaps if stored.floor is not None else []
        return [one.checkpoint for one in swaps if not can_serve(self._checkpoints, one.checkpoint, hidden)]

    def _confirmed_end(self, number: int, after: int, committed: int) -> int:
        """Returns the committed offset where the record before it can be read, since a broker may tell its end late."""
        self._reader.seek(self.config.source, number, committed - 1)
        deadline = time.monotonic() + CONFIRM_SECONDS
        try:
            while self._reader.position < committed and time.monotonic() < deadline:
                self._reader.read()
        except TransientBrokerError:  # Kafka says so when the offset is beyond the end
            return after
        return max(after, min(committed, self._reader.position))

    def _keep(self, stored: Stored, records: Sequence[SourceRecord]) -> None:
        """Of each key the newest record is kept; other groups' keys are none of ours."""
        for record in records:
            prefix, _, name = (record.key or b"").decode(errors="replace").rpartition("/")
            if prefix == f"{self.config.state_config.key_prefix}/{record.partition}":
                stored.add(name, record.value)

    def _load(self, partition: Partition, stored: Stored, plan: RecoveryPlan) -> Generator[None, None, None]:
        """The rows of the blocks are the partition's; the later a block, the earlier it comes."""
        numbers = sorted(stored.blocks, key=lambda number: stored.blocks[number].offset, reverse=True)
        for number in numbers:
            block = stored.blocks.pop(number)
            state = self._state(block)
            if state is not None:
                partition.load(number, block, state)
                if plan.recovery == Recovery.REWARMED and number in partition.blocks:
                    partition.mark_dirty(number)
            yield

    def _state(self, block: StoredBlock) -> SeriesState | None:
        """Returns the rows of a block; None where they mean nothing to this version and its settings."""
        ours, shape, why = (
            self.config.state_config.identity,
            self.config.state_config.shape,
            "the interval is another one",
        )
        if block.identity.pipeline == ours.pipeline:
            return loaded_state(block, shape)
        if block.identity.interval_ms == ours.interval_ms:
            try:
                return adapted_state(block, shape)
            except CorruptSnapshot as error:
                why = f"another version kept them otherwise: {error}"
        _log.warning("rows begin cold", series=len(block.series_ids), why=why)
        return None

    def _replay(self, partition: Partition, plan: RecoveryPlan) -> Generator[None, None, int]:
        """The input up to where serving begins is in the rows; returns how many readings went in."""
        replayed = 0
        if plan.replay_from >= plan.begin:
            return 0
        self._reader.seek(self.config.source, partition.number, plan.replay_from)
        while self._reader.position < plan.begin:
            records = [record for record in self._reader.read() if record.offset < plan.begin]
            while records:
                chunk = self._chunk(partition, records)
                replayed += self._advance(partition, chunk)
                records = records[len(chunk) :]
                self._say(partition.number, "replaying", chunk[-1].offset, plan.begin)
                yield
            yield
        return replayed

    def _chunk(self, partition: Partition, records: Sequence[SourceRecord]) -> list[SourceRecord]:
        """Returns the records up to the next event; the position is at their first."""
        partition.move_to(records[0].offset)
        event = partition.next_event()
        return [record for record in records[:CHUNK_READINGS] if record.offset < event]

    def _advance(self, partition: Partition, records: list[SourceRecord]) -> int:
        """The readings that are not in the rows' blocks yet are in the rows, and nothing is published."""
        readings = self._decoder.decode(records).readings
        offsets = np.array([record.offset for record in records], np.int64)[readings.records]
        unseen = partition.unseen(readings.series_ids, offsets)
        readings, offsets = readings.among(unseen), offsets[unseen]
        if len(readings):
            refused = self.replay_batch(partition, readings, offsets).refused
            if refused >= 0:
                partition.mark_full(records[int(readings.records[refused])].offset)
        partition.move_to(records[-1].offset + 1)
        return len(readings)

    def _say(self, number: int, what: str, offset: int, end: int) -> None:
        now = time.monotonic()
        if now - self._said > PROGRESS_SECONDS:
            self._said = now
            _log.info(what, partition=number, offset=offset, end=end, partitions_waiting=len(self._waiting[1:]))


def _result(slices: Generator[None, None, Result]) -> Result:
    """Returns what the slices come to, all of them at once."""
    while True:
        try:
            next(slices)
        except StopIteration as done:
            result: Result = done.value
            return result
