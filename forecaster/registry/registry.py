"""What the models topic holds: learned from its records in their order; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from forecaster.core.network.model import body_of
from forecaster.errors import CheckpointError
from forecaster.formats.checkpoints import Description, PackedCheckpoint, described, refuse_damage
from forecaster.formats.models import DRIFT, KEY, SCHEMA, SERVE, TRAINING, Decision, Serve, model_message, tombstones
from forecaster.records import Message

MAX_PENDING_BYTES = 67_108_864
"""So many bytes of unfinished checkpoints are held; larger ones are read when they are asked for."""
ORPHAN_MS = 3_600_000
"""Chunks whose description has not come for so long were left behind by a writer that died."""
DECISIONS_KEPT = 200
SUPERSEDED_MS = 24 * 3_600_000
"""So long a checkpoint that served stays at least: floors name it, and are not older than the snapshot interval."""
Record = TypeVar("Record", Decision, Serve)


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint that is whole on the topic; its weights are not in memory.

    Attributes:
        description: id, hash, network and facts.
        chunks: of its weights.
        size: of its weights, bytes.
        published_ms: when its description was written, epoch ms.
    """

    description: Description
    chunks: int
    size: int
    published_ms: int


@dataclass(slots=True)
class _Entry:
    """What is known of one checkpoint.

    `sizes` of the chunks that are on the topic; `pending`: chunks that are held until their hash can be looked at;
    `fault`: why it must not be served.
    """

    description: Description | None = None
    chunks: int = 0
    published_ms: int = 0
    seen_ms: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    pending: dict[int, bytes] = field(default_factory=dict)
    fault: str = ""

    @property
    def whole(self) -> bool:
        return self.description is not None and all(number in self.sizes for number in range(self.chunks))

    @property
    def held(self) -> int:
        return sum(map(len, self.pending.values()))

    def assembled(self) -> PackedCheckpoint | None:
        """Returns what was held, and holds it no more; None while something is missing."""
        if self.description is None or any(number not in self.pending for number in range(self.chunks)):
            return None
        weights = b"".join(self.pending[number] for number in range(self.chunks))
        self.pending.clear()
        return PackedCheckpoint(self.description, weights)


def _checked(entry: _Entry) -> PackedCheckpoint | None:
    """Returns what is assembled and undamaged; the entry says so where it is damaged."""
    packed = None if entry.fault else entry.assembled()
    if packed is None:
        return None
    try:
        refuse_damage(packed, "weights on the topic")
    except CheckpointError as error:
        entry.fault = str(error)
        return None
    return packed


class ModelRegistry:
    """What the topic holds, learned from its records in their order; pure, and of bounded memory.

    Args:
        only: weights of this checkpoint alone are assembled, however large; empty = of each that is small enough.
    """

    def __init__(self, only: str = "") -> None:
        self._only = only
        self._entries: dict[str, _Entry] = {}
        self._decisions: dict[str, Decision] = {}
        self._now_ms = 0
        self.serve: Serve | None = None
        self._drifts: set[str] = set()
        self._superseded_ms: dict[str, int] = {}
        self.problems: dict[str, str] = {}
        """Why a record is not used, by its key."""

    @property
    def has_drifted(self) -> bool:
        """Some worker's live loss has drifted since the last body was trained."""
        return bool(self._drifts)

    @property
    def decisions(self) -> Mapping[str, Decision]:
        """By id of the challenger, the newest last."""
        return self._decisions

    @property
    def checkpoints(self) -> Mapping[str, Published]:
        """Those that are whole and not known to be damaged, by id, the newest last."""
        return {name: found for name in self._entries if (found := self.published(name)) is not None}

    @property
    def faults(self) -> Mapping[str, str]:
        """Why a checkpoint of the topic must not be served, by its id."""
        return {name: entry.fault for name, entry in self._entries.items() if entry.fault}

    @property
    def superseded(self) -> list[str]:
        """What has served and does no more, as far as the topic still says, who did last first."""
        return list(reversed(self._superseded_ms))

    def published(self, checkpoint_id: str) -> Published | None:
        """Returns a checkpoint; None where it is not there, not whole or damaged."""
        entry = self._entries.get(checkpoint_id)
        if entry is None or entry.description is None or not entry.whole or entry.fault:
            return None
        size = sum(entry.sizes[number] for number in range(entry.chunks))
        return Published(entry.description, entry.chunks, size, entry.published_ms)

    def why_not(self, checkpoint_id: str) -> str:
        """Returns why there is no such checkpoint, for people."""
        entry = self._entries.get(checkpoint_id)
        if entry is None:
            return "it is not on the topic"
        return entry.fault or "it is not whole: some of its records are missing"

    def add(self, key: bytes | None, value: bytes | None, timestamp_ms: int) -> PackedCheckpoint | None:
        """The record counts; returns the checkpoint that is whole by it, its hash looked at: nothing keeps its weights.

        Args:
            key: of the record; what is not ours is passed over.
            value: None = a tombstone.
            timestamp_ms: of the record, epoch ms.
        """
        name = (key or b"").decode(errors="replace")
        self._now_ms = max(self._now_ms, timestamp_ms)
        if name == SERVE:
            self._serve(value)
            return None
        if name.startswith(DRIFT):
            (self._drifts.discard if value is None else self._drifts.add)(name)
            return None
        match = KEY.fullmatch(name)
        if match is None:
            return None
        kind, checkpoint_id, number = match.groups()
        if kind == "decision":
            self._decide(name, checkpoint_id, value)
            return None
        return self._add(checkpoint_id, int(number) if number else None, value, timestamp_ms)

    def to_remove(self, keep: int, superseded_ms: int = SUPERSEDED_MS) -> dict[str, int]:
        """Returns the checkpoints that may go, with the number of chunks that each may have.

        There stay: of the `keep` newest bodies the first checkpoint and the newest readout; what is to be served, and
        what before it; what served until `superseded_ms` ago, since floors may name it.
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

    def answered(self) -> list[Message]:
        """Returns tombstones of what workers said of drift: a training has answered it."""
        return [model_message(name, None) for name in sorted(self._drifts)]

    def clearing(self, keep: int, superseded_ms: int = SUPERSEDED_MS) -> list[Message]:
        """Returns tombstones of the checkpoints that may go, and of all but recent decisions."""
        gone = [
            message
            for name, chunks in self.to_remove(keep, superseded_ms).items()
            for message in tombstones(name, chunks)
        ]
        old = list(self._decisions)[:-DECISIONS_KEPT]
        return [*gone, *(model_message(f"decision/{name}", None) for name in old if name not in self._entries)]

    def _add(self, name: str, number: int | None, value: bytes | None, timestamp_ms: int) -> PackedCheckpoint | None:
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
        self._bound()
        return _checked(entry)

    def _describe(self, name: str, entry: _Entry, value: bytes | None) -> None:
        """The entry has the description of the record; none where it is a tombstone or cannot be used."""
        entry.description, entry.chunks, entry.fault = None, 0, ""
        if value is None:
            return
        try:
            body = msgspec.json.decode(value)
            chunks = body.pop("chunks", None) if isinstance(body, dict) else None
            entry.description = described(body, "the record")
            entry.chunks = msgspec.convert(chunks, int)
        except (msgspec.DecodeError, CheckpointError) as error:  # a ValidationError is a DecodeError
            entry.description, entry.fault = None, f"its description cannot be used: {error}"
            return
        if entry.description.id != name:
            entry.fault = f"its description is that of {entry.description.id}"

    def _bound(self) -> None:
        """Unfinished checkpoints hold a bounded number of bytes; who has waited longest is dropped first."""
        if self._only:
            return
        holding = [entry for entry in self._entries.values() if entry.pending]
        while sum(entry.held for entry in holding) > MAX_PENDING_BYTES:
            holding.pop(0).pending.clear()

    def _serve(self, value: bytes | None) -> None:
        """What cannot be read changes nothing: what served goes on."""
        if value is None:
            self.serve = None
        else:
            self.serve = self._decoded(SERVE, value, Serve) or self.serve
            if self.serve is not None:
                self._supersede(self.serve.previous)

    def _decide(self, key: str, name: str, value: bytes | None) -> None:
        self._decisions.pop(name, None)
        decision = None if value is None else self._decoded(key, value, Decision)
        if decision is not None:
            self._decisions[name] = decision
            if decision.work == TRAINING:
                self._drifts.clear()
            if decision.promoted:
                self._supersede(decision.champion)

    def _supersede(self, name: str) -> None:
        """The checkpoint serves no more; who did last is last."""
        self._superseded_ms.pop(name, None)
        self._superseded_ms[name] = self._now_ms

    def _decoded(self, key: str, value: bytes, kind: type[Record]) -> Record | None:
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
