"""Checkpoints on disk: a folder with weights as safetensors and everything else as JSON; never pickle."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from safetensors.torch import load, save

from forecaster.core.model import Checkpoint
from forecaster.core.network import Network, NetworkConfig
from forecaster.errors import CheckpointError, FatalError

SCHEMA = 1
WEIGHTS, DESCRIPTION = "weights.safetensors", "checkpoint.json"
_READOUT = "readout"
_BODY = "body."


class _Description(msgspec.Struct, forbid_unknown_fields=True):
    """What checkpoint.json holds."""

    schema: int
    id: str
    sha256: str
    network: NetworkConfig
    facts: dict[str, Any]


def write_checkpoint(checkpoint: Checkpoint, parent: Path) -> Path:
    """A folder named by the checkpoint's id holds it; it appears whole or not at all. Returns the folder.

    Args:
        checkpoint: what to write.
        parent: where; made when it is missing.
    """
    tensors = {_BODY + name: weight.contiguous() for name, weight in checkpoint.weights.items()}
    weights = save({**tensors, _READOUT: checkpoint.readout.contiguous()})
    description = {
        "schema": SCHEMA,
        "id": checkpoint.id,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "network": asdict(checkpoint.network),
        "facts": dict(checkpoint.facts),
    }
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / checkpoint.id
    partial = Path(tempfile.mkdtemp(dir=parent, prefix=".partial-"))
    try:
        _write(partial / WEIGHTS, weights)
        _write(partial / DESCRIPTION, msgspec.json.format(msgspec.json.encode(description), indent=2) + b"\n")
        partial.chmod(0o755)
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"{folder}: the checkpoint cannot be written: {error}") from error
    return folder


def read_checkpoint(folder: Path) -> Checkpoint:
    """Returns the checkpoint of a folder.

    Raises:
        CheckpointError: it is missing, damaged, of another schema, or its weights do not fit its network; says which.
    """
    try:
        description = msgspec.json.decode((folder / DESCRIPTION).read_bytes())
        weights = (folder / WEIGHTS).read_bytes()
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"{folder}: no readable checkpoint: {error}") from error
    schema = description.get("schema") if isinstance(description, dict) else None
    if schema != SCHEMA:
        raise CheckpointError(f"{folder}: checkpoint schema {schema!r}; this version reads {SCHEMA}: train it again")
    try:
        described = msgspec.convert(description, _Description)
    except (msgspec.ValidationError, FatalError) as error:
        raise CheckpointError(f"{folder / DESCRIPTION}: {error}") from error
    if hashlib.sha256(weights).hexdigest() != described.sha256:
        raise CheckpointError(f"{folder / WEIGHTS}: damaged, its SHA-256 is not the one in {DESCRIPTION}")
    tensors = load(weights)
    readout = tensors.pop(_READOUT, None)
    body = {name.removeprefix(_BODY): tensor for name, tensor in tensors.items()}
    expected = {name: tensor.shape for name, tensor in Network(described.network).state_dict().items()}
    shape = (described.network.readout_size, len(described.network.horizons))
    if readout is None or readout.shape != shape or {n: t.shape for n, t in body.items()} != expected:
        raise CheckpointError(f"{folder}: weights and network of the checkpoint do not fit each other")
    return Checkpoint(described.id, described.network, body, readout, described.facts)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def refuse_other_shape(checkpoint: Checkpoint, wanted: NetworkConfig, folder: str) -> None:
    """Raises CheckpointError where a checkpoint forecasts something else than the settings ask for."""
    found = checkpoint.network
    pairs = {
        "FORECASTER_FORECAST__HORIZON and MODE": (found.horizons, wanted.horizons),
        "FORECASTER_FORECAST__QUANTILE_LEVELS": (found.quantile_levels, wanted.quantile_levels),
        "FORECASTER_NETWORK__CONTEXT": (found.features.context, wanted.features.context),
        "FORECASTER_FORECAST__MODE": (found.carries_state, wanted.carries_state),
    }
    for variables, (trained, asked) in pairs.items():
        if trained != asked:
            raise CheckpointError(
                f"{folder}: was trained for {_short(trained)}, {variables} ask for {_short(asked)}: "
                "change them, or train again"
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:25]} ... {text[-25:]}"
