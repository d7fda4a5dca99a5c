"""Records of the models topic: checkpoints from the trainer for all workers, and the decisions about them.

| key | value |
|---|---|
| `checkpoint/<id>/<n>` | chunk n of the weights |
| `checkpoint/<id>` | the description and the number of chunks; written after the chunks |
| `decision/<id>` | a `Decision` about the checkpoint |
| `serve` | a `ServeOrder`: the checkpoint that the fleet is to serve; the newest record counts |
| `drift/<partition>` | a worker's alarm that its live loss has drifted |

The topic has one partition and is compacted: the order of its records is decisive. A checkpoint is complete when its
description and all its chunks have been read, and is served only if the hash of its weights matches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from forecaster.core.network.model import Checkpoint
from forecaster.errors import CheckpointError
from forecaster.formats.checkpoints import ID, pack
from forecaster.records import Message

SCHEMA = 1
PARTITION = 0
CHUNK_BYTES = 524_288
SERVE = "serve"
DRIFT = "drift/"
TRAINING = "training"
"""`Decision.work` of a challenger with a new body."""
MAX_CHUNKS = 10_000
"""Most chunks of a checkpoint."""
KEY = re.compile(rf"(checkpoint|decision)/({ID})(?:/(0|[1-9][0-9]{{0,3}}))?")
"""Keys of checkpoints and decisions; a checkpoint has fewer than MAX_CHUNKS chunks."""
DRIFT_KEY = re.compile(rf"{DRIFT}(0|[1-9][0-9]{{0,8}})")
"""Keys of drift alarms."""
MAX_TIME_MS = 253_402_300_799_999
"""Last timestamp of the year 9999: records with a later one, or one before 1970, come from a wrong clock."""


class Decision(msgspec.Struct, frozen=True):
    """A decision about a challenger.

    Attributes:
        checkpoint: id of the challenger.
        champion: id of the checkpoint that served at the time; `none` = before any training.
        promoted: the challenger is to serve.
        challenger_loss: loss of the challenger's scored forecasts; None = unknown.
        champion_loss: loss of the champion's scored forecasts; None = unknown.
        scored: number of forecasts of each that were compared.
        reason: explanation for people.
        at: time of the decision, ISO 8601.
        work: `training` if body and readout are new, `readout` if only the readout is.
        facts: further notes.
    """

    checkpoint: str
    champion: str
    promoted: bool
    challenger_loss: float | None
    champion_loss: float | None
    scored: int
    reason: str
    at: str
    work: str = TRAINING
    facts: dict[str, Any] = {}
    schema: int = SCHEMA


class ServeOrder(msgspec.Struct, frozen=True):
    """The checkpoint that the fleet is to serve.

    Attributes:
        checkpoint: id of the checkpoint; `none` = the simple experts alone.
        previous: id that a rollback returns to, and that serves if the checkpoint cannot be used.
        by: origin of the request.
        at: time of the request, ISO 8601.
        reason: explanation for people.
    """

    checkpoint: str
    previous: str
    by: Literal["trainer", "operator"]
    at: str
    reason: str
    schema: int = SCHEMA


def publication(checkpoint: Checkpoint) -> list[Message]:
    """Return the records of a checkpoint, in the order in which they must be written.

    Raises:
        CheckpointError: the id cannot be used in a key, or the weights are too large.
    """
    packed, name = pack(checkpoint), checkpoint.id
    if KEY.fullmatch(f"checkpoint/{name}") is None:
        raise CheckpointError(f"checkpoint {name!r}: an id consists of letters, digits, dots, dashes and underscores")
    chunks = [packed.weights[at : at + CHUNK_BYTES] for at in range(0, len(packed.weights), CHUNK_BYTES)]
    if len(chunks) > MAX_CHUNKS:
        raise CheckpointError(f"checkpoint {name}: {len(packed.weights)} bytes are too many for the models topic")
    manifest = {**msgspec.to_builtins(packed.description), "chunks": len(chunks)}
    return [
        *(model_message(f"checkpoint/{name}/{number}", chunk) for number, chunk in enumerate(chunks)),
        model_message(f"checkpoint/{name}", msgspec.json.encode(manifest)),
    ]


def decision_message(decision: Decision) -> Message:
    """Return the record of a decision."""
    return model_message(f"decision/{decision.checkpoint}", msgspec.json.encode(decision))


def serve_message(serve: ServeOrder) -> Message:
    """Return the record that names the checkpoint to serve."""
    return model_message(SERVE, msgspec.json.encode(serve))


def drift_message(partition: int) -> Message:
    """Return the record by which a worker asks for a training because its live loss has drifted.

    Args:
        partition: an input partition of the worker; several workers may report at once.
    """
    return model_message(f"{DRIFT}{partition}", msgspec.json.encode({"schema": SCHEMA}))


def tombstones(checkpoint_id: str, chunks: Iterable[int]) -> list[Message]:
    """Return the records that delete a checkpoint: the description first, so that no reader waits for a missing chunk.

    Args:
        checkpoint_id: id of the checkpoint.
        chunks: numbers of its chunks.
    """
    keys = [f"checkpoint/{checkpoint_id}", *(f"checkpoint/{checkpoint_id}/{number}" for number in chunks)]
    return [model_message(key, None) for key in keys]


def model_message(key: str, value: bytes | None) -> Message:
    """Return a record of the topic; without a value it is a tombstone."""
    return Message(PARTITION, key.encode(), value, [])


def iso_time(timestamp_ms: int) -> str:
    """Return a timestamp in epoch ms as ISO 8601 in UTC, to the second; the nearest one from 1970 to 9999."""
    return datetime.fromtimestamp(min(max(timestamp_ms, 0), MAX_TIME_MS) // 1000, UTC).isoformat()
