"""Restore: a partition's rows come back before it is served, from its stored blocks and a replay of the input.

    1. facts           the ids of the cluster and of the input topic, and its partition count, which state belongs to
    2. input_bounds    the group's committed offset, then the ends of both logs: in this order, since a commit returns
                       before its markers are everywhere
    3. read_state      the state topic up to its end, and whether records that the floor needs were deleted from it
    4. read_outputs    the newest outputs, only if offset or state is missing: they show where the group was
    5. plan_recovery   the decision
    6. load            the rows of the blocks; rows of another network or of other settings are re-warmed later
    7. replay          the input from the floor to the committed offset; each row skips what its block includes
    8. facts           again: a restore during which the input was created again is dropped

A restore is a generator. Between its slices the worker serves the partitions that are open already; a partition that
is revoked in the middle of its restore is dropped together with its generator.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog
from msgspec.structs import replace as with_fields

from forecaster.clock import Clock, monotonic
from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.core.state import SeriesState
from forecaster.errors import TransientBrokerError
from forecaster.formats.sources import short_topic_id
from forecaster.formats.state import (
    CorruptState,
    Floor,
    Identity,
    StoredBlock,
    Swap,
    adapted_state,
    loaded_state,
    refuse_invalid,
)
from forecaster.interfaces import RecordDecoder
from forecaster.pipeline import PipelineConfig
from forecaster.serving.state.config import StateConfig
from forecaster.serving.state.outputs import InputPartition, read_output_position
from forecaster.serving.state.partition import Partition
from forecaster.serving.state.progress import ProgressLog, RestoreProgress
from forecaster.serving.state.recovery import OnLostInput, Recovery, RecoveryPlan, plan_recovery
from forecaster.serving.state.replay import Replayer
from forecaster.serving.state.stored import (
    InputBounds,
    InputReader,
    StoredState,
    first_written_ms,
    input_bounds,
    read_state,
)
from forecaster.serving.state.swaps import Checkpoints, can_serve

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RestoreConfig:
    """How partitions are restored.

    Attributes:
        input_topic: topic of the readings.
        state_topic: topic of blocks and floors; empty = it does not exist yet.
        output_topics: topics whose records name the input record that they were made of.
        pipeline: pipeline that the replayed readings go through.
        state_config: how the rows are kept; each restore reads cluster, topic and partition count of their identity.
        on_lost_input: policy for state that cannot be restored in full.
    """

    input_topic: str
    state_topic: str
    pipeline: PipelineConfig
    state_config: StateConfig
    output_topics: Sequence[str] = ()
    on_lost_input: OnLostInput = "fail"


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored partition, and how it was restored.

    Attributes:
        partition: the partition; serving begins at its position.
        plan: how its rows came back.
        identity: what the input was when it was restored.
        replayed: number of replayed readings.
        missing: number of replayed offsets at which a compacted input holds no record any more.
        seconds: duration of the restore.
    """

    partition: Partition
    plan: RecoveryPlan
    identity: Identity
    replayed: int
    missing: int
    seconds: float

    @property
    def must_be_written(self) -> bool:
        """Whether all blocks must be written before it serves.

        Otherwise the stored ones would mislead the next restore, or Kafka would still have no committed offset.
        """
        is_other = self.plan.recovery in (Recovery.COLD, Recovery.STALE)
        return is_other or self.plan.is_offset_lost or self.partition.is_split


Result = TypeVar("Result")
RestoreSlices = Generator[RestoreProgress | None, None, Result]


class Restorer:
    """Restores partitions: the steps for one partition at a time.

    Args:
        config: topics, rows and policy of the restores.
        checkpoints: models that replay the input.
        decoder: decodes the records of the input.
        reader: reads both topics.
        clock: measures durations and deadlines.

    Attributes:
        replayer: applies readings to rows without outputs.
    """

    def __init__(
        self,
        config: RestoreConfig,
        checkpoints: Checkpoints,
        decoder: RecordDecoder,
        reader: InputReader,
        clock: Clock = monotonic,
    ) -> None:
        self.config = config
        self.replayer = Replayer(config.pipeline, checkpoints, decoder, reader)
        self._checkpoints = checkpoints
        self._reader = reader
        self._clock = clock
        self._progress = ProgressLog(clock)

    def log_start(self, partition_number: int) -> int:
        """Return the first offset of a partition's input; raise TransientBrokerError if the broker is away."""
        return self._reader.bounds(self.config.input_topic, partition_number)[0]

    def first_written_ms(self, partition_number: int) -> int | None:
        """Return when the first record of a partition's input was written, epoch ms; None = unknown.

        Raises:
            TransientBrokerError: the broker did not answer.
        """
        return first_written_ms(self._reader, self.config.input_topic, partition_number, self._clock)

    def plan(self, partition_number: int) -> RecoveryPlan:
        """Return how the partition would be restored, without restoring it.

        Raises:
            TransientBrokerError: the broker did not answer.
            StateError: the state cannot be restored in full and the policy is `fail`, or a newer version wrote it.
            TopicError: the same, because of another partition count.
        """
        return self._run(self._examine(partition_number))[2]

    def restore(self, partition_number: int) -> Restored:
        """Restore a partition without a pause, and return it: for commands, which serve nothing in the meantime.

        Raises:
            TransientBrokerError: the broker did not answer.
            StateError: as for `plan`.
            TopicError: as for `plan`.
        """
        return self._run(self.steps(partition_number))

    def steps(self, partition_number: int) -> RestoreSlices[Restored]:
        """Restore a partition in slices, each of about 20 ms; return it at the end of the generator."""
        begin = self._clock()
        identity, stored, plan = yield from self._examine(partition_number)
        state_config = replace(self.config.state_config, identity=identity)
        partition = Partition(partition_number, state_config, plan.begin, self._clock, stored.log)
        partition.begin_replay(plan.replay_from, self._floor(identity, stored, plan))
        if plan.recovery != Recovery.NEW:  # the stored floor needs its blocks until a new floor is written
            partition.blocks.reserve(stored.block_numbers)
        if plan.recovery.uses_blocks:
            yield from self._load(partition, stored, plan)
        partition.pending_tombstones |= stored.block_numbers - set(partition.blocks)
        if plan.recovery == Recovery.REBUILT:
            partition.end_replay(floor_stored=False)  # no event is known: new series get rows while there is room
        totals = yield from self.replayer.replay(partition, self.config.input_topic, plan.begin)
        partition.move_to(plan.begin)
        if plan.recovery == Recovery.STALE:
            partition.blocks.mark_all_dirty(plan.begin)
        partition.end_replay(floor_stored=_is_floor_stored(stored, plan) and not partition.is_split)
        missing = totals.missing if totals.missing and self._reader.is_compacted(self.config.input_topic) else 0
        if self._identity() != identity:
            raise TransientBrokerError(f"topic {self.config.input_topic} was created again during the restore")
        plan = plan.without(missing) if missing else plan
        restored = Restored(partition, plan, identity, totals.readings, missing, self._clock() - begin)
        _log_restored(restored)
        return restored

    def _run(self, steps: RestoreSlices[Result]) -> Result:
        """Return the result of all steps."""
        while True:
            try:
                self._progress.report(next(steps))
            except StopIteration as done:
                result: Result = done.value
                return result

    def _identity(self) -> Identity:
        """Return the identity of state of the input as it is now."""
        facts = self._reader.facts(self.config.input_topic)
        return with_fields(
            self.config.state_config.identity,
            cluster=facts.cluster,
            topic=facts.topic_id,
            partitions=facts.partitions,
        )

    def _examine(self, partition_number: int) -> RestoreSlices[tuple[Identity, StoredState, RecoveryPlan]]:
        """Take steps 1 to 5."""
        config, identity = self.config, self._identity()
        bounds = input_bounds(self._reader, config.input_topic, partition_number, self._clock)
        key_prefix = config.state_config.key_prefix
        stored = yield from read_state(self._reader, config.state_topic, partition_number, key_prefix)
        yield from self._refuse_invalid(stored)
        stored.missing = self._missing(stored)
        if stored.missing:  # a checkpoint that was published a moment ago may not be known yet
            self._checkpoints.catch_up()
            stored.missing = self._missing(stored)
        if (bounds.committed is None or stored.is_empty) and not (stored.is_empty and stored.has_other_groups):
            bounds = yield from self._with_outputs(
                bounds, InputPartition(config.input_topic, partition_number, short_topic_id(identity.topic))
            )
        source = f"{config.input_topic} partition {partition_number}"
        return identity, stored, plan_recovery(identity, stored, bounds, config.on_lost_input, source)

    def _refuse_invalid(self, stored: StoredState) -> RestoreSlices[None]:
        """Refuse blocks of these settings whose arrays do not fit them, or hold numbers that no series has."""
        state_config = self.config.state_config
        for block_number, block in list(stored.blocks.items()):
            if block.identity.pipeline == state_config.identity.pipeline:
                try:
                    refuse_invalid(block, state_config.shape)
                except CorruptState as error:
                    stored.refuse(block_number, str(error))
                yield None

    def _with_outputs(self, bounds: InputBounds, read_partition: InputPartition) -> RestoreSlices[InputBounds]:
        """Return the bounds with what the newest outputs show.

        A group without state ignores the outputs if other groups have state: the outputs may be theirs.
        """
        shown = yield from read_output_position(self._reader, self.config.output_topics, read_partition)
        return replace(
            bounds,
            after_output=shown.after_output,
            has_outputs_of_other_input=shown.has_outputs_of_other_input,
        )

    def _missing(self, stored: StoredState) -> list[str]:
        """Return the checkpoints that the floor names and that cannot serve here."""
        hidden, swaps = self.config.state_config.shape.hidden, stored.floor.swaps if stored.floor is not None else []
        return [swap.checkpoint for swap in swaps if not can_serve(self._checkpoints, swap.checkpoint, hidden)]

    def _floor(self, identity: Identity, stored: StoredState, plan: RecoveryPlan) -> Floor:
        """Return the stored floor if the replay obeys it, else one whose only swap is to the champion."""
        if stored.floor is not None and plan.recovery.uses_floor:
            return stored.floor
        champion = self._checkpoints.champion
        if not can_serve(self._checkpoints, champion, self.config.state_config.shape.hidden):
            champion = NO_CHECKPOINT
        floor = Floor(identity, plan.replay_from, swaps=[Swap(plan.replay_from, champion)])
        if stored.floor is not None and plan.recovery == Recovery.REWARMED:
            return with_fields(floor, full=stored.floor.full, events=stored.floor.events)
        return floor

    def _load(self, partition: Partition, stored: StoredState, plan: RecoveryPlan) -> RestoreSlices[None]:
        """Add the rows of the blocks to the partition, from the latest block to the earliest."""
        latest_first = sorted(stored.blocks, key=lambda block_number: stored.blocks[block_number].offset, reverse=True)
        for block_number in latest_first:
            block = stored.blocks.pop(block_number)
            state = self._usable_rows(block)
            if state is not None:
                partition.load_block(block_number, block, state)
                if plan.recovery == Recovery.REWARMED and block_number in partition.blocks:
                    partition.mark_dirty(block_number)
            yield None

    def _usable_rows(self, block: StoredBlock) -> SeriesState | None:
        """Return the rows of a block; None if this version or its settings cannot use them."""
        identity, shape = self.config.state_config.identity, self.config.state_config.shape
        if block.identity.pipeline == identity.pipeline:
            return loaded_state(block, shape)
        reason = "the interval of the series is another one"
        if block.identity.interval_ms == identity.interval_ms:
            try:
                return adapted_state(block, shape)
            except CorruptState as error:
                reason = f"another version stored them differently: {error}"
        _log.warning("stored_rows_dropped", series=len(block.series_ids), reason=reason)
        return None


def _is_floor_stored(stored: StoredState, plan: RecoveryPlan) -> bool:
    """Return whether the stored floor is what this partition would write; a floor of an earlier version is not."""
    is_same_log = stored.floor is not None and stored.floor.state_log == stored.log
    return plan.recovery == Recovery.RESTORED and is_same_log


def _log_restored(restored: Restored) -> None:
    plan, partition = restored.plan, restored.partition
    is_usual = plan.recovery in (Recovery.NEW, Recovery.RESTORED)
    _log.log(
        logging.INFO if is_usual else logging.WARNING,
        "partition_restored",
        partition=partition.number,
        recovery=plan.recovery.name.lower(),
        reason=plan.reason,
        series=len(partition.table),
        blocks=len(partition.blocks),
        replayed=restored.replayed,
        missing=restored.missing,
        offset=plan.begin,
    )
