"""Recovery: the pure decision how a partition is restored when a worker takes it over.

| situation | recovery |
|---|---|
| no committed offset | new: begins empty at the start of the input |
| readable floor and blocks, and the input from the floor on | restored: the blocks, then a replay |
| the same with other settings, or with a checkpoint that is gone | re-warmed: each row from its context |
| no floor or a corrupt block, but the input from offset 0 on | rebuilt from the input |
| a committed offset below the state: the offset was moved back | rewound: begins empty there |
| another cluster or topic, or input that is needed and gone | as ON_LOST_INPUT says |
| another partition count | the same, but `fail` is exit code 4 |

The committed offset lies after all transaction markers that were read. If the log starts beyond it, at least one record
was lost.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    REWARMED = "rewarmed"
    REBUILT = "rebuilt"
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
        return self in (Recovery.RESTORED, Recovery.REWARMED, Recovery.STALE)


_SENTENCES: dict[Recovery, str] = {
    Recovery.NEW: "no committed offset; starts without state",
    Recovery.RESTORED: "restored",
    Recovery.REWARMED: "restored; each hidden state is computed again from the context",
    Recovery.REBUILT: "rebuilt from the input",
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
    """

    recovery: Recovery
    replay_from: int
    begin: int
    reason: str = ""


def plan_recovery(
    identity: Identity, stored: StoredState, bounds: InputBounds, policy: OnLostInput, source: str
) -> RecoveryPlan:
    """Return how a partition is restored.

    Args:
        identity: identity of this service's state.
        stored: stored state of the partition.
        bounds: bounds of its input.
        policy: what happens to state that cannot be restored in full.
        source: topic and partition, for the errors.

    Raises:
        StateError: the state cannot be restored in full, and the policy is `fail`.
        TopicError: the same, because of another partition count.
    """
    if bounds.committed is None:
        return RecoveryPlan(Recovery.NEW, bounds.log_start, bounds.log_start)
    committed = bounds.committed
    loss = _find_loss(identity, stored, bounds, committed)
    if loss is not None:
        return _apply_policy(loss, stored, bounds, policy, source)
    if stored.floor is None or stored.corrupt:
        reason = "; ".join(f"{name}: {why}" for name, why in stored.corrupt.items()) or "there is no stored state"
        return RecoveryPlan(Recovery.REBUILT, 0, committed, reason)
    newest = max([stored.floor.offset, *(block.offset for block in stored.blocks.values())])
    if newest > committed:
        reason = f"the stored state is at offset {newest}, above the consumer group's committed offset {committed}"
        return RecoveryPlan(Recovery.REWOUND, committed, committed, reason)
    pipelines = {stored.floor.identity.pipeline, *(block.identity.pipeline for block in stored.blocks.values())}
    if pipelines - {identity.pipeline}:
        return RecoveryPlan(
            Recovery.REWARMED, stored.floor.offset, committed, "the state was stored with other settings"
        )
    if stored.missing:
        reason = f"the state needs checkpoints that are gone or do not fit: {', '.join(stored.missing)}"
        return RecoveryPlan(Recovery.REWARMED, stored.floor.offset, committed, reason)
    return RecoveryPlan(Recovery.RESTORED, stored.floor.offset, committed)


@dataclass(frozen=True, slots=True)
class _StateLoss:
    """Why the state cannot be restored in full.

    Attributes:
        reason: the cause, for a person.
        replayable: the offsets in the stored state are offsets of this input.
        error: error that the policy `fail` raises.
    """

    reason: str
    replayable: bool = True
    error: type[FatalError] = StateError


def _find_loss(identity: Identity, stored: StoredState, bounds: InputBounds, committed: int) -> _StateLoss | None:
    """Return why the state cannot be restored in full; None = it can."""
    records = [record for record in (stored.floor, *stored.blocks.values()) if record is not None]
    owner = records[0].identity if records else identity
    if owner.cluster != identity.cluster:
        reason = f"the state belongs to Kafka cluster {owner.cluster}, but this is cluster {identity.cluster}"
        return _StateLoss(reason, replayable=False)
    if owner.topic != identity.topic:
        return _StateLoss("the state belongs to an input topic that was deleted and created again", replayable=False)
    if owner.partitions != identity.partitions:
        reason = (
            f"the state is of {owner.partitions} partitions, but the topics have {identity.partitions}: series have "
            "moved to other partitions, away from their state"
        )
        return _StateLoss(reason, error=TopicError)
    if not bounds.log_start <= committed <= bounds.log_end:
        return _StateLoss(
            f"the consumer group's committed offset {committed} is no longer in the input, which holds offsets "
            f"{bounds.log_start} to {bounds.log_end}"
        )
    if stored.floor is None or stored.corrupt:
        what = ", ".join(f"{name} ({why})" for name, why in stored.corrupt.items()) or "there is no floor"
        return None if bounds.log_start == 0 else _StateLoss(f"{what}, and the input from offset 0 on is gone")
    if stored.floor.offset < committed and stored.floor.offset < bounds.log_start:
        return _StateLoss(
            f"the state needs the input from offset {stored.floor.offset} on, but the input begins at "
            f"{bounds.log_start}: retention has deleted the records between"
        )
    return None


def _apply_policy(
    loss: _StateLoss, stored: StoredState, bounds: InputBounds, policy: OnLostInput, source: str
) -> RecoveryPlan:
    if policy == "fail":
        raise loss.error(
            f"{source}: {loss.reason}; set FORECASTER_STATE__ON_LOST_INPUT=resume-cold to start without the state, or "
            "resume-stale to use what is left of it"
        )
    committed = bounds.committed or 0
    begin = bounds.log_start if committed < bounds.log_start else min(committed, bounds.log_end)
    if policy == "resume-cold" or not (stored.blocks or loss.replayable):
        return RecoveryPlan(Recovery.COLD, begin, begin, loss.reason)
    floor = stored.floor.offset if stored.floor is not None else begin
    replay_from = max(floor, bounds.log_start) if loss.replayable else begin
    return RecoveryPlan(Recovery.STALE, min(replay_from, begin), begin, loss.reason)
