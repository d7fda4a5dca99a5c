"""Checkpoints as bytes and as folders: weights as safetensors, everything else as JSON; never pickle."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from safetensors.numpy import load, save

from forecaster.core.network.local_readouts import GroupPlaces
from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import NetworkConfig
from forecaster.errors import CheckpointError, FatalError

SCHEMA = 1
WEIGHTS, DESCRIPTION = "weights.safetensors", "checkpoint.json"
PARTIAL = ".partial-"
"""Prefix of folders that are being written."""


class LocalDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The series with local readouts.

    Attributes:
        series_ids: the series; C.
        member: place of each series in its group; C.
        members: number of series of the largest group.
    """

    series_ids: list[str]
    member: list[int]
    members: int


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The description of a checkpoint, in checkpoint.json or in its record of the models topic.

    Attributes:
        schema: schema of description and weights.
        id: id of the checkpoint.
        sha256: SHA-256 of the weights, hexadecimal.
        network: shape of the body.
        facts: notes about the training.
        local: series with local readouts; None = there are none.
    """

    schema: int
    id: str
    sha256: str
    network: NetworkConfig
    facts: dict[str, Any]
    local: LocalDescription | None = msgspec.field(default=None, name="own")


@dataclass(frozen=True, slots=True)
class PackedCheckpoint:
    """A checkpoint as bytes.

    Attributes:
        description: description of the checkpoint.
        weights: weights of body and readouts, in the format safetensors.
    """

    description: Description
    weights: bytes


def pack(checkpoint: Checkpoint) -> PackedCheckpoint:
    """Return the checkpoint as bytes; equal checkpoints give equal bytes."""
    weights = save(checkpoint.to_arrays())
    local = checkpoint.local
    description = Description(
        schema=SCHEMA,
        id=checkpoint.id,
        sha256=hashlib.sha256(weights).hexdigest(),
        network=checkpoint.network,
        facts=dict(checkpoint.facts),
        local=None if local is None else LocalDescription(list(local.series_ids), local.member.tolist(), local.members),
    )
    return PackedCheckpoint(description, weights)


def unpack(packed: PackedCheckpoint, where: str) -> Checkpoint:
    """Return the checkpoint.

    Args:
        packed: description and weights, from a folder or the models topic.
        where: place of the checkpoint, for error messages.

    Raises:
        CheckpointError: the checkpoint is damaged, or its weights do not fit its network.
    """
    refuse_damage(packed, where)
    description, local = packed.description, packed.description.local
    places = None if local is None else GroupPlaces(local.series_ids, local.member, local.members)
    try:
        return Checkpoint.from_arrays(
            description.id, description.network, load(packed.weights), description.facts, places
        )
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error


def refuse_damage(packed: PackedCheckpoint, where: str) -> None:
    """Raise CheckpointError if the hash of the weights differs from the one in the description."""
    if hashlib.sha256(packed.weights).hexdigest() != packed.description.sha256:
        raise CheckpointError(f"{where}: damaged, the SHA-256 of the weights differs from the one in the description")


def parse_description(body: Any, where: str) -> Description:
    """Return a description that was read as JSON.

    Args:
        body: decoded JSON.
        where: place of the checkpoint, for error messages.

    Raises:
        CheckpointError: the description has another schema, or does not fit this one.
    """
    schema = body.get("schema") if isinstance(body, dict) else None
    if schema != SCHEMA:
        raise CheckpointError(f"{where}: checkpoint schema {schema!r}; this version reads {SCHEMA}: train it again")
    try:
        return msgspec.convert(body, Description)
    except (msgspec.ValidationError, FatalError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def write_checkpoint(checkpoint: Checkpoint, parent: Path) -> Path:
    """Write the checkpoint to a folder named by its id, which appears complete or not at all; return the folder.

    Args:
        checkpoint: the checkpoint.
        parent: parent of the folder; created if it is missing.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    return write_packed(pack(checkpoint), parent)


def write_packed(packed: PackedCheckpoint, parent: Path, *, durable: bool = True) -> Path:
    """Write a packed checkpoint to a folder, like `write_checkpoint`; return the folder.

    Args:
        packed: the checkpoint.
        parent: parent of the folder; created if it is missing.
        durable: wait until the files are on the disk, so that they survive a power cut.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    folder = parent / packed.description.id
    content = msgspec.json.format(msgspec.json.encode(packed.description), indent=2) + b"\n"
    partial = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=parent, prefix=PARTIAL))
        _write(partial / WEIGHTS, packed.weights, durable=durable)
        _write(partial / DESCRIPTION, content, durable=durable)
        partial.chmod(0o755)
        partial.rename(folder)
    except OSError as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"{folder}: the checkpoint cannot be written: {error}") from error
    return folder


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint in a folder.

    Raises:
        CheckpointError: it is missing, damaged, of another schema, or its weights do not fit its network.
    """
    return unpack(read_packed(folder), str(folder))


def read_packed(folder: Path) -> PackedCheckpoint:
    """Return the packed checkpoint in a folder, without checking its weights.

    Raises:
        CheckpointError: it is missing, or its description cannot be used.
    """
    try:
        weights = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder}: no readable checkpoint: {error}") from error
    return PackedCheckpoint(read_description(folder), weights)


def read_description(folder: Path) -> Description:
    """Return the description of the checkpoint in a folder.

    Raises:
        CheckpointError: it is missing, or cannot be used.
    """
    try:
        body = msgspec.json.decode((folder / DESCRIPTION).read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"{folder}: no readable checkpoint: {error}") from error
    return parse_description(body, str(folder / DESCRIPTION))


def _write(path: Path, content: bytes, *, durable: bool) -> None:
    with path.open("wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def refuse_other_network(actual: NetworkConfig, wanted: NetworkConfig, where: str) -> None:
    """Raise CheckpointError if a checkpoint's network does not forecast what the settings ask for.

    Args:
        actual: network of the checkpoint.
        wanted: network that would be trained with the settings.
        where: place of the checkpoint, for the error message.
    """
    difference = _difference(actual, wanted)
    if difference:
        raise CheckpointError(f"{where}: the checkpoint {difference}: change the settings, or train again")


def _difference(actual: NetworkConfig, wanted: NetworkConfig) -> str:
    """Return in words what differs between the networks, for operators; empty = they forecast the same."""
    if actual.horizons != wanted.horizons:
        trained, asked = _listed(actual.horizons), _listed(wanted.horizons)
        return (
            f"forecasts the horizons {trained}, FORECASTER_FORECAST__HORIZON and FORECASTER_FORECAST__MODE ask for "
            f"{asked}"
        )
    if actual.quantile_levels != wanted.quantile_levels:
        trained, asked = _listed(actual.quantile_levels), _listed(wanted.quantile_levels)
        return f"forecasts the quantile levels {trained}, FORECASTER_FORECAST__QUANTILE_LEVELS asks for {asked}"
    if actual.features.context != wanted.features.context:
        return (
            f"reads a context of {actual.features.context} ticks, FORECASTER_NETWORK__CONTEXT asks for "
            f"{wanted.features.context}"
        )
    if actual.carries_state != wanted.carries_state:
        return f"{_carrying(actual)}, but a network of the present FORECASTER_FORECAST__MODE {_carrying(wanted)}"
    return ""


def _carrying(network: NetworkConfig) -> str:
    """Return in words whether the network carries its hidden state."""
    if network.carries_state:
        return "carries its hidden state between readings (many-to-one, many-to-many)"
    return "starts from zero at each reading (one-to-one, one-to-many)"


def _listed(numbers: Sequence[float]) -> str:
    """Return the numbers as text, a long list by its first and last ones."""
    words = [str(number) for number in numbers]
    return ", ".join(words if len(words) <= 12 else [*words[:3], "...", *words[-3:]])
