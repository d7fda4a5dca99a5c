"""The content of the models topic: the checkpoints, the decisions, and which checkpoint is to be served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from forecaster.core.checkpoint_ids import body_of
from forecaster.errors import CheckpointError
from forecaster.formats.checkpoints import Description, PackedCheckpoint, parse_description, refuse_damage
from forecaster.formats.models import (
    DRIFT,
    KEY,
    SCHEMA,
    SERVE,
    TRAINING,
    Decision,
    ServeOrder,
    model_message,
    tombstones,
)
from forecaster.records import Message

MAX_PENDING_BYTES = 67_108_864
"""Most bytes of incomplete checkpoints that are held; a larger checkpoint is read again when it is needed."""
ORPHAN_MS = 3_600_000
"""Chunks without a description that are older than this were left behind by a writer that died."""
DECISIONS_KEPT = 200
"""Number of newest decisions that are kept."""
SUPERSEDED_MS = 24 * 3_600_000
"""Least time that a checkpoint stays after it has served: floors name it, and can be as old as a snapshot interval."""
Record = TypeVar("Record", Decision, ServeOrder)


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint that is complete on the topic; its weights are not in memory.

    Attributes:
        description: id, hash, network and facts.
        chunks: number of chunks of its weights.
        size: size of its weights, bytes.
        published_ms: timestamp of its description's record, epoch ms.
    """

    description: Description
    chunks: int
    size: int
    published_ms: int


@dataclass(slots=True)
class _Entry:
    """The records of one checkpoint, complete or not.

    Attributes:
        description: description of the checkpoint; None = its record has not come.
        chunks: number of chunks that the description asks for.
        published_ms: timestamp of the description's record, epoch ms.
        seen_ms: timestamp of the newest record, epoch ms.
        sizes: sizes of the chunks on the topic, bytes, by number.
        pending: chunks that are held until the hash over all of them can be checked, by number.
        fault: reason why the checkpoint must not be served; empty = no fault is known.
    """

    description: Description | None = None
    chunks: int = 0
    published_ms: int = 0
    seen_ms: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    pending: dict[int, bytes] = field(default_factory=dict)
    fault: str = ""

    @property
    def is_complete(self) -> bool:
        return self.description is not None and all(number in self.sizes for number in range(self.chunks))

    @property
    def held_bytes(self) -> int:
        return sum(map(len, self.pending.values()))

    def assemble(self) -> PackedCheckpoint | None:
        """Return the checkpoint and forget its chunks; None while a record is missing."""
        if self.description is None or any(number not in self.pending for number in range(self.chunks)):
            return None
        weights = b"".join(self.pending[number] for number in range(self.chunks))
        self.pending.clear()
        return PackedCheckpoint(self.description, weights)


def _assemble_undamaged(entry: _Entry) -> PackedCheckpoint | None:
    """Return the checkpoint if it is complete and its hash fits; record a wrong hash as a fault of the entry."""
    packed = None if entry.fault else entry.assemble()
    if packed is None:
        return None
    try:
        refuse_damage(packed, "weights on the topic")
    except CheckpointError as error:
        entry.fault = str(error)
        return None
    return packed


class ModelRegistry:
    """The content of the topic, built from its records in their order; pure, and of bounded memory.

    Args:
        only: id of the one checkpoint whose weights are assembled, however large; empty = all that are small enough.

    Attributes:
        serve: newest order to serve; None = there is none.
        problems: reasons why records are not used, by key.
    """

    def __init__(self, only: str = "") -> None:
        self._only = only
        self._entries: dict[str, _Entry] = {}
        self._decisions: dict[str, Decision] = {}
        self._now_ms = 0
        self.serve: ServeOrder | None = None
        self._drifts: set[str] = set()
        self._superseded_ms: dict[str, int] = {}
        self.problems: dict[str, str] = {}

    @property
    def has_drifted(self) -> bool:
        """Whether a worker has reported drift since the last training."""
        return bool(self._drifts)

    @property
    def decisions(self) -> Mapping[str, Decision]:
        """Decisions by the id of their challenger, the newest last."""
        return self._decisions

    @property
    def checkpoints(self) -> Mapping[str, Published]:
        """Checkpoints that are complete and not known to be damaged, by id, the newest last."""
        published = ((name, self.published(name)) for name in self._entries)
        return {name: checkpoint for name, checkpoint in published if checkpoint is not None}

    @property
    def faults(self) -> Mapping[str, str]:
        """Reasons why checkpoints must not be served, by id."""
        return {name: entry.fault for name, entry in self._entries.items() if entry.fault}

    @property
    def superseded(self) -> list[str]:
        """Ids of checkpoints that served before, the most recent first, as far as records on the topic name them."""
        return list(reversed(self._superseded_ms))

    def published(self, checkpoint_id: str) -> Published | None:
        """Return a checkpoint; None if it is missing, incomplete or damaged."""
        entry = self._entries.get(checkpoint_id)
        if entry is None or entry.description is None or not entry.is_complete or entry.fault:
            return None
        size = sum(entry.sizes[number] for number in range(entry.chunks))
        return Published(entry.description, entry.chunks, size, entry.published_ms)

    def why_unavailable(self, checkpoint_id: str) -> str:
        """Return why there is no such checkpoint, for people."""
        entry = self._entries.get(checkpoint_id)
        if entry is None:
            return "it is not on the topic"
        return entry.fault or "it is incomplete: some of its records are missing"

    def add(self, key: bytes | None, value: bytes | None, timestamp_ms: int) -> PackedCheckpoint | None:
        """Apply a record; return the checkpoint that it completes, if its hash fits, else None.

        The registry itself keeps no weights of complete checkpoints.

        Args:
            key: key of the record; a record with an unknown key is ignored.
            value: value of the record; None = a tombstone.
            timestamp_ms: timestamp of the record, epoch ms.
        """
        name = (key or b"").decode(errors="replace")
        self._now_ms = max(self._now_ms, timestamp_ms)
        if name == SERVE:
            self._apply_serve(value)
            return None
        if name.startswith(DRIFT):
            if value is None:
                self._drifts.discard(name)
            else:
                self._drifts.add(name)
            return None
        match = KEY.fullmatch(name)
        if match is None:
            return None
        kind, checkpoint_id, number = match.groups()
        if kind == "decision":
            self._apply_decision(name, checkpoint_id, value)
            return None
        return self._apply_checkpoint(checkpoint_id, int(number) if number else None, value, timestamp_ms)

    def to_remove(self, keep: int, superseded_ms: int = SUPERSEDED_MS) -> dict[str, int]:
        """Return the ids of checkpoints to remove, with the number of chunks that each may have on the topic.

        Each of the `keep` newest bodies keeps its first checkpoint and its newest readout. The checkpoint to serve, the
        one before it, and every checkpoint that served within the last `superseded_ms` stay, too, since floors may name
        them.
        """
        bodies: dict[str, list[str]] = {}
        for name, entry in self._entries.items():
            if entry.description is not None:
                bodies.setdefault(body_of(name), []).append(name)
        by_age = sorted(bodies.values(), key=lambda names: list(self._entries).index(names[-1]))
        stay = {name for names in by_age[max(0, len(by_age) - keep) :] for name in (names[0], names[-1])}
        stay |= {name for name, at_ms in self._superseded_ms.items() if self._now_ms - at_ms < superseded_ms}
        if self.serve is not None:
            stay |= {self.serve.checkpoint, self.serve.previous}
        return {
            name: 1 + max(entry.sizes, default=-1)
            for name, entry in self._entries.items()
            if name not in stay and (entry.description is not None or self._now_ms - entry.seen_ms > ORPHAN_MS)
        }

    def drift_tombstones(self) -> list[Message]:
        """Return tombstones of the workers' drift reports, for a training that answers them."""
        return [model_message(name, None) for name in sorted(self._drifts)]

    def cleanup_tombstones(self, keep: int, superseded_ms: int = SUPERSEDED_MS) -> list[Message]:
        """Return tombstones of the checkpoints to remove, and of all but the newest decisions; see `to_remove`."""
        checkpoints = [
            message
            for name, chunks in self.to_remove(keep, superseded_ms).items()
            for message in tombstones(name, chunks)
        ]
        old = list(self._decisions)[:-DECISIONS_KEPT]
        return [*checkpoints, *(model_message(f"decision/{name}", None) for name in old if name not in self._entries)]

    def _apply_checkpoint(
        self, name: str, number: int | None, value: bytes | None, timestamp_ms: int
    ) -> PackedCheckpoint | None:
        """Apply chunk `number` of a checkpoint, or its description if `number` is None."""
        entry = self._entries.setdefault(name, _Entry())
        entry.seen_ms = timestamp_ms
        if number is None:
            self._entries[name] = self._entries.pop(name)  # the newest is the last
            entry.published_ms = timestamp_ms
            self._describe(name, entry, value)
        elif value is None:
            entry.sizes.pop(number, None)
            entry.pending.pop(number, None)
        else:
            entry.sizes[number] = len(value)
            if self._only in ("", name):
                entry.pending[number] = value
        if not (entry.sizes or entry.description or entry.fault):
            del self._entries[name]
        self._limit_memory()
        return _assemble_undamaged(entry)

    def _describe(self, name: str, entry: _Entry, value: bytes | None) -> None:
        """Set the entry's description to that of the record; to None for a tombstone, or if it cannot be used."""
        entry.description, entry.chunks, entry.fault = None, 0, ""
        if value is None:
            return
        try:
            body = msgspec.json.decode(value)
            chunks = body.pop("chunks", None) if isinstance(body, dict) else None
            entry.description = parse_description(body, "the record")
            entry.chunks = msgspec.convert(chunks, int)
        except (msgspec.DecodeError, CheckpointError) as error:  # a ValidationError is a DecodeError
            entry.description, entry.fault = None, f"its description cannot be used: {error}"
            return
        if entry.description.id != name:
            entry.fault = f"its description is that of {entry.description.id}"

    def _limit_memory(self) -> None:
        """Drop the chunks of incomplete checkpoints, the oldest first, until they fit into `MAX_PENDING_BYTES`."""
        if self._only:
            return
        holding = [entry for entry in self._entries.values() if entry.pending]
        while sum(entry.held_bytes for entry in holding) > MAX_PENDING_BYTES:
            holding.pop(0).pending.clear()

    def _apply_serve(self, value: bytes | None) -> None:
        """Apply an order to serve; one that cannot be read changes nothing."""
        if value is None:
            self.serve = None
        else:
            self.serve = self._decode(SERVE, value, ServeOrder) or self.serve
            if self.serve is not None:
                self._supersede(self.serve.previous)

    def _apply_decision(self, key: str, name: str, value: bytes | None) -> None:
        self._decisions.pop(name, None)
        decision = None if value is None else self._decode(key, value, Decision)
        if decision is not None:
            self._decisions[name] = decision
            if decision.work == TRAINING:
                self._drifts.clear()
            if decision.promoted:
                self._supersede(decision.champion)

    def _supersede(self, name: str) -> None:
        """Record that a checkpoint no longer serves, as the most recent one."""
        self._superseded_ms.pop(name, None)
        self._superseded_ms[name] = self._now_ms

    def _decode(self, key: str, value: bytes, kind: type[Record]) -> Record | None:
        """Return the decoded record; None, with an entry in `problems`, if it cannot be read."""
        try:
            record = msgspec.json.decode(value, type=kind)
        except msgspec.DecodeError as error:
            self.problems[key] = f"cannot be read: {error}"
            return None
        if record.schema > SCHEMA:
            self.problems[key] = f"schema {record.schema}; this version reads {SCHEMA}: update the software"
            return None
        self.problems.pop(key, None)
        return record
