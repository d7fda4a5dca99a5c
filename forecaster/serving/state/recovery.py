"""What becomes of a partition's stored state when somebody takes the partition over: one pure decision.

| found | done |
|---|---|
| no committed offset | begins new at the beginning of the input |
| blocks and floor of ours, input from the floor on | restored: blocks, then replay from the floor |
| the same, of other settings, or of a checkpoint that is nowhere | restored, each row re-warmed from its context |
| no floor, or a block that cannot be read; the input is there from offset 0 | rebuilt from the input |
| the committed offset lies before the state | the group's offset was moved back: begins new there |
| another cluster, another topic, input gone that is needed | as ON_LOST_INPUT says |
| another partition count | the same, and `fail` is exit code 4 |

The group's offset stands behind the markers of transactions that were read, so that a hole before the input's first
record is a loss, be it of a single offset.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from forecaster.errors import FatalError, StateError, TopicError
from forecaster.formats.state import FLOOR, CorruptSnapshot, Floor, Identity, StoredBlock, decode_block, decode_floor

OnLostInput = Literal["fail", "resume-cold", "resume-stale"]


class Recovery(StrEnum):
    """How a partition's rows come back."""

    NEW = "begins new"
    RESTORED = "restored"
    REWARMED = "restored, re-warmed from context"
    REBUILT = "rebuilt from the input"
    REWOUND = "offset moved back, begins new"
    COLD = "state lost, resumes cold"
    STALE = "input lost, resumes from stale state"

    @property
    def uses_blocks(self) -> bool:
        """The rows come from the stored blocks."""
        return self in (Recovery.RESTORED, Recovery.REWARMED, Recovery.STALE)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Offsets of the input: the group's committed one (None = none), the first and the next of the log."""

    committed: int | None
    log_start: int
    log_end: int


@dataclass
class Stored:
    """What the state topic holds of a partition.

    Attributes:
        blocks: by number.
        floor: None = there is none, or it cannot be read.
        corrupt: what cannot be read, for a person.
        numbers: of all blocks, readable or not.
        missing: checkpoints that the floor names and that cannot serve here.
    """

    blocks: dict[int, StoredBlock] = field(default_factory=dict)
    floor: Floor | None = None
    corrupt: dict[str, str] = field(default_factory=dict)
    numbers: set[int] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)

    def add(self, name: str, value: bytes | None) -> None:
        """The newest record of a key counts; one that cannot be read is noted.

        Args:
            name: the last part of the key: a block's number, or the floor's.
            value: None = a tombstone.

        Raises:
            StateError: a newer version wrote it.
        """
        self.corrupt.pop(name, None)
        try:
            if name == FLOOR:
                self.floor = None
                self.floor = None if value is None else decode_floor(value)
            elif name.isdigit():
                self._add_block(int(name), value)
        except CorruptSnapshot as error:
            self.corrupt[name] = str(error)

    def _add_block(self, number: int, value: bytes | None) -> None:
        self.blocks.pop(number, None)
        self.numbers.discard(number)
        if value is not None:
            self.numbers.add(number)
            self.blocks[number] = decode_block(value)


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """What is done with a partition.

    Attributes:
        recovery: how its rows come back.
        replay_from: the input is replayed from here, outputs off ...
        begin: ... up to here, where serving begins.
        reason: said in the log.
    """

    recovery: Recovery
    replay_from: int
    begin: int
    reason: str = ""


def plan_recovery(ours: Identity, stored: Stored, bounds: Bounds, policy: OnLostInput, where: str) -> RecoveryPlan:
    """Returns what is done with a partition.

    Args:
        ours: identity of what we would write.
        stored: what is there.
        bounds: of the input.
        policy: of what cannot be made whole again.
        where: topic and partition, for messages.

    Raises:
        StateError: the state cannot be made whole, and the policy is `fail`.
        TopicError: the same, for want of the partitions that the state was made with.
    """
    if bounds.committed is None:
        return RecoveryPlan(Recovery.NEW, bounds.log_start, bounds.log_start)
    lost = _lost(ours, stored, bounds, bounds.committed)
    if lost is not None:
        return _by_policy(lost, stored, bounds, policy, where)
    committed = bounds.committed
    if stored.floor is None or stored.corrupt:
        reason = "; ".join(f"{name}: {why}" for name, why in stored.corrupt.items()) or "there is no stored state"
        return RecoveryPlan(Recovery.REBUILT, 0, committed, reason)
    newest = max([stored.floor.offset, *(block.offset for block in stored.blocks.values())])
    if newest > committed:
        reason = f"the state is of offset {newest}, the group's offset is {committed}"
        return RecoveryPlan(Recovery.REWOUND, committed, committed, reason)
    pipelines = {stored.floor.identity.pipeline, *(block.identity.pipeline for block in stored.blocks.values())}
    if pipelines - {ours.pipeline}:
        return RecoveryPlan(Recovery.REWARMED, stored.floor.offset, committed, "the state is of other settings")
    if stored.missing:
        reason = f"the state is of checkpoints that are gone or do not fit: {', '.join(stored.missing)}"
        return RecoveryPlan(Recovery.REWARMED, stored.floor.offset, committed, reason)
    return RecoveryPlan(Recovery.RESTORED, stored.floor.offset, committed)


@dataclass(frozen=True, slots=True)
class _Lost:
    """Why the state cannot be made whole, whether its offsets still mean something, and what `fail` raises."""

    reason: str
    replayable: bool = True
    error: type[FatalError] = StateError


def _lost(ours: Identity, stored: Stored, bounds: Bounds, committed: int) -> _Lost | None:
    """Returns why the state cannot be made whole; None where it can."""
    found = next((one.identity for one in [stored.floor, *stored.blocks.values()] if one is not None), ours)
    if found.cluster != ours.cluster:
        return _Lost(f"the state is of Kafka cluster {found.cluster}, this is {ours.cluster}", replayable=False)
    if found.topic != ours.topic:
        return _Lost("the state is of an input topic that was deleted and made again", replayable=False)
    if found.partitions != ours.partitions:
        return _Lost(
            f"the state is of {found.partitions} partitions, the topics have {ours.partitions}: series have moved away "
            "from their state",
            error=TopicError,
        )
    if not bounds.log_start <= committed <= bounds.log_end:
        return _Lost(
            f"the group's offset {committed} is not in the input any more, which holds {bounds.log_start} to "
            f"{bounds.log_end}"
        )
    if stored.floor is None or stored.corrupt:
        what = ", ".join(f"{name} ({why})" for name, why in stored.corrupt.items()) or "there is no floor"
        return None if bounds.log_start == 0 else _Lost(f"{what}, and the input from offset 0 on is gone")
    if stored.floor.offset < committed and stored.floor.offset < bounds.log_start:
        return _Lost(
            f"the state needs the input from offset {stored.floor.offset} on, which begins at {bounds.log_start}: "
            "retention has passed it"
        )
    return None


def _by_policy(lost: _Lost, stored: Stored, bounds: Bounds, policy: OnLostInput, where: str) -> RecoveryPlan:
    if policy == "fail":
        raise lost.error(
            f"{where}: {lost.reason}; set FORECASTER_STATE__ON_LOST_INPUT=resume-cold to begin without the state, or "
            "resume-stale to use what is left of it"
        )
    committed = bounds.committed or 0
    begin = bounds.log_start if committed < bounds.log_start else min(committed, bounds.log_end)
    if policy == "resume-cold" or not (stored.blocks or lost.replayable):
        return RecoveryPlan(Recovery.COLD, begin, begin, lost.reason)
    floor = stored.floor.offset if stored.floor is not None else begin
    replay_from = max(floor, bounds.log_start) if lost.replayable else begin
    return RecoveryPlan(Recovery.STALE, min(replay_from, begin), begin, lost.reason)
