"""Checkpoints as bytes and as folders: weights as safetensors, everything else as JSON; never pickle."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from safetensors.numpy import save

from forecaster.core.checkpoint_ids import NO_CHECKPOINT, body_of
from forecaster.core.network.local_readouts import GroupPlaces
from forecaster.core.network.model import Checkpoint, stored_shapes
from forecaster.core.network.network import NetworkConfig
from forecaster.core.network.trial import refuse_untrustworthy
from forecaster.errors import CheckpointError, FatalError
from forecaster.formats.weights import read_weights, refuse_absurd_network

SCHEMA = 1
WEIGHTS, DESCRIPTION = "weights.safetensors", "checkpoint.json"
PARTIAL = ".partial-"
"""Prefix of folders that are being written."""
ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}"
"""Pattern of the ids of checkpoints, which are names of folders, too."""
SEEN_UNTIL = "seen_until_ms"
"""Fact of a checkpoint: the time of the newest reading that it, its readout included, has learned from, epoch ms."""
MAX_NESTING = 16
"""Largest depth of the facts."""
HEADER_BYTES = 1_048_576
"""Most bytes that the weights of a checkpoint take in addition to the numbers."""


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

    @property
    def places(self) -> GroupPlaces | None:
        """The series with local readouts, as the core names them."""
        local = self.local
        return None if local is None else GroupPlaces(local.series_ids, local.member, local.members)

    @property
    def largest_size(self) -> int:
        """Most bytes that the weights can take; raises CheckpointError if the local readouts fit no group."""
        numbers = sum(math.prod(shape) for shape in stored_shapes(self.network, self.places).values())
        return 4 * numbers + HEADER_BYTES


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
    """Return the checkpoint, whose weights are finite and do not overflow in a trial.

    Names, types and shapes of the weights are compared with the network before memory is taken for any of them.

    Args:
        packed: description and weights, from a folder or the models topic.
        where: place of the checkpoint, for error messages.

    Raises:
        CheckpointError: the checkpoint is damaged, or must not serve.
    """
    refuse_damage(packed, where)
    description, places = packed.description, packed.description.places
    try:
        arrays = read_weights(packed.weights, description.network, places)
        checkpoint = Checkpoint.from_arrays(description.id, description.network, arrays, description.facts, places)
        refuse_untrustworthy(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error
    return checkpoint


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
        CheckpointError: the description has another schema, does not fit this one, or no checkpoint can have it.
    """
    schema = body.get("schema") if isinstance(body, dict) else None
    if schema != SCHEMA:
        raise CheckpointError(
            f"{where}: checkpoint schema {schema!r:.100}; this version reads {SCHEMA}: train it again"
        )
    try:
        description = msgspec.convert(body, Description)
        refuse_absurd_network(description.network)
        _refuse_absurd(description)
    except (msgspec.ValidationError, RecursionError, FatalError) as error:
        raise CheckpointError(f"{where}: {error}") from error
    return description


def _refuse_absurd(description: Description) -> None:
    """Raise CheckpointError for an id or facts that no checkpoint has."""
    if re.fullmatch(ID, description.id) is None or body_of(description.id) == NO_CHECKPOINT:
        raise CheckpointError(f"{description.id!r:.100} is no id of a checkpoint")
    if not is_shallow(description.facts, MAX_NESTING):
        raise CheckpointError(f"its facts are nested more than {MAX_NESTING} deep")
    seen_ms = description.facts.get(SEEN_UNTIL, 0)
    if type(seen_ms) is not int or abs(seen_ms) >= 2**62:
        raise CheckpointError(f"its fact {SEEN_UNTIL} is {seen_ms!r:.100}: epoch milliseconds are needed")


def is_shallow(value: Any, depth: int) -> bool:
    """Return whether JSON is nested at most this deep."""
    if not isinstance(value, dict | list):
        return True
    children = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(is_shallow(child, depth - 1) for child in children)


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
    except (
        OSError,
        ValueError,
        RecursionError,
    ) as error:  # msgspec's DecodeError and UnicodeDecodeError are ValueErrors
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
