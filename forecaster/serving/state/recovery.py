"""Recovery: the pure decision how a partition is restored when a worker takes it over.

| situation | recovery |
|---|---|
| no committed offset, and neither state nor output of the group | new: begins empty at the start of the input |
| readable floor and blocks, and the input from the floor on | restored: the blocks, then a replay |
| the same with other settings, or with a checkpoint that is gone | re-warmed: each row from its context |
| as for restored, but Kafka has forgotten the committed offset | forgotten: restored to the end of outputs and state |
| no floor or a corrupt block, but the input from offset 0 on | rebuilt from the input |
| the same, as the state topic has lost records since the floor | rebuilt from the input |
| a committed offset below the state: the offset was moved back | rewound: begins empty there |
| another cluster or topic, or input that is needed and gone | as ON_LOST_INPUT says |
| state, but nothing that tells the position | as ON_LOST_INPUT says |
| another partition count | the same, but `fail` is exit code 4 |

Afterwards, a restore from a compacted input that holds fewer records than offsets counts as incomplete.

The committed offset lies after all transaction markers that were read. If the log starts beyond it, at least one record
was lost.

Without a committed offset, the position is the greatest offset up to which something was certainly committed: the
newest output names the last reading that had one, and floor, events and blocks are written at offsets that were
committed with them. Readings above it, if any were read, had no output. They are read again and have none again, and a
row skips those that its block includes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from forecaster.errors import FatalError, StateError, TopicError
from forecaster.formats.state import Identity
from forecaster.serving.state.stored import InputBounds, StoredState

OnLostInput = Literal["fail", "resume-cold", "resume-stale"]


class Recovery(StrEnum):
    """How the rows of a partition come back; the values are the words of log lines and metrics."""

    NEW = "new"
    RESTORED = "restored"
    FORGOTTEN = "forgotten"
    REWARMED = "rewarmed"
    REBUILT = "rebuilt"
    INCOMPLETE = "incomplete"
    REWOUND = "rewound"
    COLD = "cold"
    STALE = "stale"

    @property
    def sentence(self) -> str:
        """What happens, for the people who read `check` and `explain`."""
        return _SENTENCES[self]

    @property
    def uses_blocks(self) -> bool:
        """Whether the rows come from the stored blocks."""
        return self in (Recovery.RESTORED, Recovery.FORGOTTEN, Recovery.REWARMED, Recovery.STALE)

    @property
    def uses_floor(self) -> bool:
        """Whether the replay obeys the stored floor."""
        return self in (Recovery.RESTORED, Recovery.FORGOTTEN)


_SENTENCES: dict[Recovery, str] = {
    Recovery.NEW: "no committed offset; starts without state",
    Recovery.RESTORED: "restored",
    Recovery.FORGOTTEN: "restored, although Kafka has forgotten the committed offset",
    Recovery.REWARMED: "restored; each hidden state is computed again from the context",
    Recovery.REBUILT: "rebuilt from the input",
    Recovery.INCOMPLETE: "restored, but the compacted input no longer holds all readings of the replay",
    Recovery.REWOUND: "committed offset was moved back; starts there without state",
    Recovery.COLD: "state cannot be restored; starts without it",
    Recovery.STALE: "state cannot be restored in full; continues with what is left of it",
}


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """How a partition is restored.

    Attributes:
        recovery: how its rows come back.
        replay_from: first offset of the replay.
        begin: offset at which the replay ends and serving begins.
        reason: why the rows come back in this way, for the log; empty = nothing is wrong.
        is_offset_lost: Kafka has no committed offset of this partition, although it was read before.
    """

    recovery: Recovery
    replay_from: int
    begin: int
    reason: str = ""
    is_offset_lost: bool = False

    def without(self, missing: int) -> RecoveryPlan:
        """Return the plan after a replay of a compacted input that held no record at some offsets.

        Args:
            missing: number of these offsets.
        """
        lost = (
            f"the input is compacted: {missing} of {self.begin - self.replay_from} offsets of the replay hold no "
            "record any more, so up to that many readings are missing from the rows"
        )
        recovery = self.recovery if self.recovery == Recovery.STALE else Recovery.INCOMPLETE
        return replace(self, recovery=recovery, reason="; ".join(filter(None, [self.reason, lost])))


def plan_recovery(
    identity: Identity, stored: StoredState, bounds: InputBounds, policy: OnLostInput, source: str
) -> RecoveryPlan:
    """Return how a partition is restored.

    Args:
        identity: identity of this service's state.
        stored: stored state of the partition.
        bounds: bounds of its input, and what its outputs show.
        policy: what happens to state that cannot be restored in full.
        source: topic and partition, for the errors.

    Raises:
        StateError: the state cannot be restored in full, and the policy is `fail`.
        TopicError: the same, because of another partition count.
    """
    if is_new(stored, bounds):
        return RecoveryPlan(Recovery.NEW, bounds.log_start, bounds.log_start)
    loss = _find_other_input(identity, stored, bounds)
    position = bounds.committed if loss is not None else _find_position(stored, bounds)
    loss = loss or _find_loss(identity, stored, bounds, position)
    if loss is not None or position is None:
        return _apply_policy(loss or _UNKNOWN_POSITION, stored, bounds, position, policy, source)
    plan = _complete_plan(identity, stored, position)
    if bounds.committed is not None:
        return plan
    shown_by = "its newest output" if bounds.after_output == position else "its stored state"
    reason = (
        "Kafka has no committed offset of this group any more (it was away for longer than offsets.retention.minutes, "
        f"or was deleted): the partition continues where {shown_by} ends"
    )
    recovery = Recovery.FORGOTTEN if plan.recovery == Recovery.RESTORED else plan.recovery
    return replace(plan, recovery=recovery, reason="; ".join(filter(None, [reason, plan.reason])), is_offset_lost=True)


def is_new(stored: StoredState, bounds: InputBounds) -> bool:
    """Return whether nothing of the input was read yet: no committed offset, no output, and no state from readings.

    Blocks without a floor whose rows hold no reading of the input are those of a seeding that was interrupted.
    """
    if bounds.committed is not None or bounds.after_output is not None or stored.floor is not None or stored.corrupt:
        return False
    return all(block.offset <= bounds.log_start for block in stored.blocks.values())


def _complete_plan(identity: Identity, stored: StoredState, position: int) -> RecoveryPlan:
    """Return how a partition is restored whose state and input are complete."""
    if stored.floor is None or stored.corrupt or stored.loss:
        reasons = [*(f"{name}: {why}" for name, why in stored.corrupt.items()), stored.loss]
        reason = "; ".join(filter(None, reasons)) or "there is no stored state"
        return RecoveryPlan(Recovery.REBUILT, 0, position, reason)
    newest = max([stored.floor.offset, *(block.offset for block in stored.blocks.values())])
    if newest > position:
        reason = f"the stored state is at offset {newest}, above the consumer group's committed offset {position}"
        return RecoveryPlan(Recovery.REWOUND, position, position, reason)
    pipelines = {stored.floor.identity.pipeline, *(block.identity.pipeline for block in stored.blocks.values())}
    if pipelines - {identity.pipeline}:
        return RecoveryPlan(
            Recovery.REWARMED, stored.floor.offset, position, "the state was stored with other settings"
        )
    if stored.missing:
        reason = f"the state needs checkpoints that are gone or do not fit: {', '.join(stored.missing)}"
        return RecoveryPlan(Recovery.REWARMED, stored.floor.offset, position, reason)
    return RecoveryPlan(Recovery.RESTORED, stored.floor.offset, position)


def _find_position(stored: StoredState, bounds: InputBounds) -> int | None:
    """Return the committed offset, or else the greatest offset that was certainly committed; None = nothing tells.

    Blocks alone do not tell: without a floor, nothing says that no later one is gone.
    """
    if bounds.committed is not None:
        return bounds.committed
    if stored.floor is None and bounds.after_output is None:
        return None
    offsets = [block.offset for block in stored.blocks.values()]
    if stored.floor is not None:
        offsets += [stored.floor.offset, *(event.offset for event in stored.floor.events)]
    return max([*offsets, bounds.after_output or 0])


@dataclass(frozen=True, slots=True)
class _StateLoss:
    """Why the state cannot be restored in full.

    Attributes:
        reason: the cause, for a person.
        replayable: the offsets in the stored state are offsets of this input.
        from_start: stored and committed offsets belong to another topic: serving begins at the start of the input.
        error: error that the policy `fail` raises.
    """

    reason: str
    replayable: bool = True
    from_start: bool = False
    error: type[FatalError] = StateError


_UNKNOWN_POSITION = _StateLoss(
    "Kafka has no committed offset of this group, the stored state has no readable floor, and the output topics hold "
    "no record of this partition: nothing tells up to where the input was read"
)


def _find_other_input(identity: Identity, stored: StoredState, bounds: InputBounds) -> _StateLoss | None:
    """Return the loss if state, or outputs without state, belong to another cluster or to a topic that is gone."""
    records = [record for record in (stored.floor, *stored.blocks.values()) if record is not None]
    owner = records[0].identity if records else identity
    if owner.cluster != identity.cluster:
        reason = f"the state belongs to Kafka cluster {owner.cluster}, but this is cluster {identity.cluster}"
        return _StateLoss(reason, replayable=False)
    if owner.topic != identity.topic:
        reason = "the state belongs to an input topic that was deleted and created again"
        return _StateLoss(reason, replayable=False, from_start=True)
    if not records and bounds.after_output is None and bounds.has_outputs_of_other_input:
        reason = "the newest outputs were made of an input topic that was deleted and created again"
        return _StateLoss(reason, replayable=False, from_start=True)
    return None


def _find_loss(identity: Identity, stored: StoredState, bounds: InputBounds, position: int | None) -> _StateLoss | None:
    """Return why the state of this input cannot be restored in full; None = it can."""
    counts = {record.identity.partitions for record in (stored.floor, *stored.blocks.values()) if record is not None}
    if counts - {identity.partitions}:
        reason = (
            f"the state is of {min(counts - {identity.partitions})} partitions, but the topics have "
            f"{identity.partitions}: series have moved to other partitions, away from their state"
        )
        return _StateLoss(reason, error=TopicError)
    if position is None:
        return _UNKNOWN_POSITION
    if not bounds.log_start <= position <= bounds.log_end:
        what = "the consumer group's committed offset" if bounds.committed is not None else "the group's last position"
        return _StateLoss(
            f"{what} {position} is no longer in the input, which holds offsets {bounds.log_start} to {bounds.log_end}"
        )
    if stored.floor is None or stored.corrupt or stored.loss:
        reasons = [*(f"{name} ({why})" for name, why in stored.corrupt.items()), stored.loss]
        what = ", ".join(filter(None, reasons)) or "there is no floor"
        return None if bounds.log_start == 0 else _StateLoss(f"{what}, and the input from offset 0 on is gone")
    if stored.floor.offset < position and stored.floor.offset < bounds.log_start:
        return _StateLoss(
            f"the state needs the input from offset {stored.floor.offset} on, but the input begins at "
            f"{bounds.log_start}: retention has deleted the records between"
        )
    return None


def _apply_policy(
    loss: _StateLoss,
    stored: StoredState,
    bounds: InputBounds,
    position: int | None,
    policy: OnLostInput,
    source: str,
) -> RecoveryPlan:
    if policy == "fail":
        raise loss.error(
            f"{source}: {loss.reason}; set FORECASTER_STATE__ON_LOST_INPUT=resume-cold to start without the state, or "
            "resume-stale to use what is left of it"
        )
    begin = bounds.log_start if loss.from_start else _nearest(stored, bounds, position, loss)
    is_offset_lost = bounds.committed is None
    if policy == "resume-cold" or not (stored.blocks or loss.replayable):
        return RecoveryPlan(Recovery.COLD, begin, begin, loss.reason, is_offset_lost)
    floor = stored.floor.offset if stored.floor is not None else begin
    replay_from = max(floor, bounds.log_start) if loss.replayable else begin
    return RecoveryPlan(Recovery.STALE, min(replay_from, begin), begin, loss.reason, is_offset_lost)


def _nearest(stored: StoredState, bounds: InputBounds, position: int | None, loss: _StateLoss) -> int:
    """Return the offset of the input that is nearest to the position, or to the newest block if that is unknown."""
    if position is None:
        offsets = [block.offset for block in stored.blocks.values()] if loss.replayable else []
        position = max(offsets, default=bounds.log_start)
    return min(max(position, bounds.log_start), bounds.log_end)
