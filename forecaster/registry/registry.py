"""The content of the models topic: the checkpoints, the decisions, and which checkpoint is to be served."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from forecaster.core.checkpoint_ids import NO_CHECKPOINT, body_of
from forecaster.formats.checkpoints import ID, MAX_NESTING, PackedCheckpoint, is_shallow
from forecaster.formats.models import (
    DRIFT_KEY,
    KEY,
    MAX_TIME_MS,
    SCHEMA,
    SERVE,
    TRAINING,
    Decision,
    ServeOrder,
    model_message,
    tombstones,
)
from forecaster.records import Message
from forecaster.registry.entry import Entry, Published

MAX_PENDING_BYTES = 67_108_864
"""Most bytes of incomplete checkpoints that are held; a larger checkpoint is read again when it is needed."""
MAX_ONLY_BYTES = 2**30
"""Most bytes of a checkpoint that is read alone."""
ORPHAN_MS = 3_600_000
"""Chunks without a description that are older than this were left behind by a writer that died."""
DECISIONS_KEPT = 200
"""Number of newest decisions that are kept."""
SUPERSEDED_MS = 24 * 3_600_000
"""Least time that a checkpoint stays after it has served: floors name it, and can be as old as a snapshot interval."""
MAX_KNOWN = 10_000
"""Most checkpoints, decisions, drift alarms and superseded ids that are known at a time, the newest of each."""
MAX_CHUNKS_KNOWN = 100_000
"""Most chunks that are known of all checkpoints together."""
MAX_REMOVED = 100
"""Most checkpoints that one clean-up removes."""
Record = TypeVar("Record", Decision, ServeOrder)


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
        self._entries: dict[str, Entry] = {}
        self._held_bytes = self._chunks = 0
        self._decisions: dict[str, Decision] = {}
        self._now_ms = 0
        self.serve: ServeOrder | None = None
        self._drifts: dict[str, None] = {}
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
        """Return a checkpoint; None if it is missing, incomplete, or must not be served."""
        entry = self._entries.get(checkpoint_id)
        return None if entry is None else entry.published

    def refuse(self, checkpoint_id: str, reason: str) -> None:
        """Note why a checkpoint must not be served, until it is published again."""
        entry = self._entries.get(checkpoint_id)
        if entry is not None:
            entry.fault = reason

    def why_unavailable(self, checkpoint_id: str) -> str:
        """Return why there is no such checkpoint, for people."""
        entry = self._entries.get(checkpoint_id)
        if entry is None:
            return "it is not on the topic"
        return entry.fault or "it is incomplete: some of its records are missing"

    def add(self, key: bytes | None, value: bytes | None, timestamp_ms: int) -> PackedCheckpoint | None:
        """Apply a record; return the checkpoint that it completes, if it may be served, else None.

        The registry itself keeps no weights of complete checkpoints.

        Args:
            key: key of the record; a record with an unknown key is ignored.
            value: value of the record; None = a tombstone.
            timestamp_ms: timestamp of the record, epoch ms.
        """
        name = (key or b"").decode(errors="replace")
        if 0 <= timestamp_ms <= MAX_TIME_MS:
            self._now_ms = max(self._now_ms, timestamp_ms)
        if name == SERVE:
            self._apply_serve(value)
        elif DRIFT_KEY.fullmatch(name):
            self._apply_drift(name, value)
        elif (match := KEY.fullmatch(name)) is not None:
            kind, checkpoint_id, number = match.groups()
            if kind == "checkpoint":
                chunk = None if number is None else int(number)
                return self._apply_checkpoint(checkpoint_id, chunk, value, timestamp_ms)
            if number is None:
                self._apply_decision(name, checkpoint_id, value)
        return None

    def to_remove(self, keep: int, superseded_ms: int = SUPERSEDED_MS) -> dict[str, list[int]]:
        """Return the ids of checkpoints to remove, `MAX_REMOVED` at most, each with the numbers of its chunks.

        Each of the `keep` newest bodies keeps its first checkpoint and its newest readout. The checkpoint to serve, the
        one before it, and every checkpoint that served within the last `superseded_ms` stay, too, since floors may name
        them.
        """
        bodies: dict[str, list[str]] = {}
        for name in [name for name, entry in self._entries.items() if entry.description is not None]:
            body = body_of(name)
            bodies[body] = [*bodies.pop(body, []), name]  # the body with the newest checkpoint is the last
        by_age = list(bodies.values())
        stay = {name for names in by_age[max(0, len(by_age) - keep) :] for name in (names[0], names[-1])}
        stay |= {name for name, at_ms in self._superseded_ms.items() if self._now_ms - at_ms < superseded_ms}
        if self.serve is not None:
            stay |= {self.serve.checkpoint, self.serve.previous}
        remove = [
            name
            for name, entry in self._entries.items()
            if name not in stay and (entry.description is not None or self._now_ms - entry.seen_ms > ORPHAN_MS)
        ]
        return {name: sorted(self._entries[name].sizes) for name in remove[:MAX_REMOVED]}

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
        entry = self._entries.setdefault(name, Entry())
        before = entry.held_bytes, len(entry.sizes)
        entry.seen_ms = timestamp_ms
        if number is None:
            self._entries[name] = self._entries.pop(name)  # the newest is the last
            entry.published_ms = timestamp_ms
            entry.describe(name, value)
        else:
            entry.add_chunk(number, value, hold=self._only in ("", name))
        packed = entry.take()
        self._held_bytes += entry.held_bytes - before[0]
        self._chunks += len(entry.sizes) - before[1]
        if entry.is_empty:
            self._forget(name)
        self._limit_memory()
        return packed

    def _limit_memory(self) -> None:
        """Drop the oldest chunks that wait to be checked, and the oldest entries, until the rest is within limits."""
        limit = MAX_ONLY_BYTES if self._only else MAX_PENDING_BYTES
        if self._held_bytes > limit:
            for entry in [entry for entry in self._entries.values() if entry.pending]:
                self._held_bytes -= entry.held_bytes
                entry.drop_chunks()
                if self._held_bytes <= limit:
                    break
        while len(self._entries) > MAX_KNOWN or self._chunks > MAX_CHUNKS_KNOWN:
            needed = {self._only} if self.serve is None else {self._only, self.serve.checkpoint, self.serve.previous}
            self._forget(next((name for name in self._entries if name not in needed), next(iter(self._entries))))

    def _forget(self, name: str) -> None:
        entry = self._entries.pop(name)
        self._held_bytes -= entry.held_bytes
        self._chunks -= len(entry.sizes)

    def _apply_drift(self, name: str, value: bytes | None) -> None:
        self._drifts.pop(name, None)
        if value is not None:
            self._drifts[name] = None
            _keep_newest(self._drifts)

    def _apply_serve(self, value: bytes | None) -> None:
        """Apply an order to serve; one that cannot be read changes nothing."""
        if value is None:
            self.serve = None
            return
        order = self._decode(SERVE, value, ServeOrder)
        if order is None:
            return
        if not (_is_id(order.checkpoint) and _is_id(order.previous)):
            self._note_problem(SERVE, "it names no checkpoints")
            return
        self.serve = order
        self._supersede(order.previous)

    def _apply_decision(self, key: str, name: str, value: bytes | None) -> None:
        self._decisions.pop(name, None)
        decision = None if value is None else self._decode(key, value, Decision)
        if decision is None:
            return
        if not is_shallow(decision.facts, MAX_NESTING):
            self._note_problem(key, f"its facts are nested more than {MAX_NESTING} deep")
            return
        self._decisions[name] = decision
        _keep_newest(self._decisions)
        if decision.work == TRAINING:
            self._drifts.clear()
        if decision.promoted and _is_id(decision.champion):
            self._supersede(decision.champion)

    def _supersede(self, name: str) -> None:
        """Record that a checkpoint no longer serves, as the most recent one."""
        self._superseded_ms.pop(name, None)
        self._superseded_ms[name] = self._now_ms
        _keep_newest(self._superseded_ms)

    def _decode(self, key: str, value: bytes, kind: type[Record]) -> Record | None:
        """Return the decoded record; None, with an entry in `problems`, if it cannot be read."""
        try:
            record = msgspec.json.decode(value, type=kind)
        except (ValueError, RecursionError) as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
            self._note_problem(key, f"cannot be read: {error}")
            return None
        if record.schema > SCHEMA:
            self._note_problem(key, f"schema {record.schema}; this version reads {SCHEMA}: update the software")
            return None
        self.problems.pop(key, None)
        return record

    def _note_problem(self, key: str, reason: str) -> None:
        self.problems[key] = reason
        _keep_newest(self.problems)


def _is_id(name: str) -> bool:
    return name == NO_CHECKPOINT or re.fullmatch(ID, name) is not None


def _keep_newest(known: dict[str, Any]) -> None:
    """Remove the oldest entry of a dict that has just grown beyond `MAX_KNOWN`."""
    if len(known) > MAX_KNOWN:
        del known[next(iter(known))]
