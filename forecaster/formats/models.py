"""The models topic: checkpoints on their way from the trainer to all workers, and what was decided about them.

| key | value |
|---|---|
| `checkpoint/<id>/<n>` | chunk n of the weights |
| `checkpoint/<id>` | the description, and the number of chunks; written after them |
| `decision/<id>` | a `Decision` |
| `serve` | a `Serve`: what the fleet is to serve; the newest counts, whoever wrote it |
| `drift/<partition>` | a worker finds that its live loss has drifted |

The topic has one partition and is compacted: its order is the truth. A checkpoint exists when its description and all
its chunks are there, and is served only when the hash of its weights fits.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from forecaster.core.network.model import Checkpoint
from forecaster.errors import CheckpointError
from forecaster.formats.checkpoints import pack
from forecaster.records import Message

SCHEMA = 1
PARTITION = 0
CHUNK_BYTES = 524_288
SERVE = "serve"
DRIFT = "drift/"
TRAINING = "training"
"""`Decision.work` of a challenger with a body of its own."""
KEY = re.compile(r"(checkpoint|decision)/([A-Za-z0-9][A-Za-z0-9._-]{0,200})(?:/(\d{1,6}))?")
"""Ids are names of folders, too."""


class Decision(msgspec.Struct, frozen=True):
    """What was decided about a challenger.

    Attributes:
        checkpoint: the challenger.
        champion: what served when it was decided; `none` = before any training.
        promoted: the challenger is to serve.
        challenger_loss: of the scored forecasts; None = not known.
        champion_loss: of the same.
        scored: so many forecasts of each were compared.
        reason: for people.
        at: ISO 8601.
        work: `training` of a body and its readout, or `readout` alone.
        facts: whatever else is worth knowing.
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


class Serve(msgspec.Struct, frozen=True):
    """What the fleet is to serve.

    Attributes:
        checkpoint: its id; `none` = as before any training.
        previous: what a rollback goes back to, and what serves where the checkpoint cannot.
        by: who says so.
        at: ISO 8601.
        reason: for people.
    """

    checkpoint: str
    previous: str
    by: Literal["trainer", "operator"]
    at: str
    reason: str
    schema: int = SCHEMA


def publication(checkpoint: Checkpoint) -> list[Message]:
    """Returns the checkpoint's records, in the order in which they must be written.

    Raises:
        CheckpointError: its id cannot be a key of the topic.
    """
    packed, name = pack(checkpoint), checkpoint.id
    if KEY.fullmatch(f"checkpoint/{name}") is None:
        raise CheckpointError(f"checkpoint {name!r}: an id is made of letters, digits, dots, dashes and underscores")
    chunks = [packed.weights[at : at + CHUNK_BYTES] for at in range(0, len(packed.weights), CHUNK_BYTES)]
    manifest = {**msgspec.to_builtins(packed.description), "chunks": len(chunks)}
    return [
        *(model_message(f"checkpoint/{name}/{number}", chunk) for number, chunk in enumerate(chunks)),
        model_message(f"checkpoint/{name}", msgspec.json.encode(manifest)),
    ]


def decision_message(decision: Decision) -> Message:
    """Returns the decision's record."""
    return model_message(f"decision/{decision.checkpoint}", msgspec.json.encode(decision))


def serve_message(serve: Serve) -> Message:
    """Returns the record that says what is to be served."""
    return model_message(SERVE, msgspec.json.encode(serve))


def drift_message(partition: int) -> Message:
    """Returns the record that says that the live loss has drifted.

    Args:
        partition: of the input, one of those that it was found in.
    """
    return model_message(f"{DRIFT}{partition}", msgspec.json.encode({"schema": SCHEMA}))


def tombstones(checkpoint_id: str, chunks: int) -> list[Message]:
    """Returns the records after which the checkpoint is gone: the description first, so that nobody misses a chunk.

    Args:
        checkpoint_id: whose.
        chunks: so many of its chunks there may be.
    """
    keys = [f"checkpoint/{checkpoint_id}", *(f"checkpoint/{checkpoint_id}/{number}" for number in range(chunks))]
    return [model_message(key, None) for key in keys]


def model_message(key: str, value: bytes | None) -> Message:
    """Returns a record of the topic; no value = a tombstone."""
    return Message(PARTITION, key.encode(), value, [])


def iso_time(timestamp_ms: int) -> str:
    """Returns an epoch stamp as ISO 8601, to the second."""
    return datetime.fromtimestamp(timestamp_ms // 1000, UTC).isoformat()
