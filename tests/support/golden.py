"""The pinned formats: one record of each topic, and the names in stored state, made from fixed values only.

`python tests/support/golden.py` writes them to tests/unit/formats/data/golden.json. Do that only when a format has
changed on purpose, and describe in CHANGELOG how records written before are treated.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from builders import HOUR_MS, LEVELS, START_MS, pipeline_config, readings

from forecaster.app.configs import pipeline_identity
from forecaster.core.arrays import arrays, convert
from forecaster.core.network.features import FeatureConfig
from forecaster.core.network.local_readouts import LocalReadouts
from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import NetworkConfig
from forecaster.formats.checkpoints import Description, LocalDescription, pack
from forecaster.formats.dead_letters import encode_dead_letter
from forecaster.formats.forecasts import encode_forecasts
from forecaster.formats.history import encode_history
from forecaster.formats.models import (
    Decision,
    ServeOrder,
    decision_message,
    drift_message,
    publication,
    serve_message,
    tombstones,
)
from forecaster.formats.scores import encode_denoised, encode_scores
from forecaster.formats.state import Event, Floor, Identity, StoredBlock, Swap, encode, stored_arrays
from forecaster.formats.state_log import StateLog
from forecaster.records import DeadLetter, Forecasts, InputRecord, MaturedForecasts, Message, Outputs, Reason
from forecaster.settings import load_settings

FILE = Path(__file__).parents[1] / "unit" / "formats" / "data" / "golden.json"
MAX_SHOWN_BYTES = 4_096
RECORDS = [
    InputRecord("readings", 3, 17, START_MS, b"pump-7", b'{"value": 2}'),
    InputRecord("readings", 3, 18, START_MS, b"pump-8", b"no json", [("trace", b"1")]),
]
READINGS = readings([("pump-7", START_MS, 2.0)])
INPUT_ID = "3q2-7wAA"
IDENTITY = Identity("cluster", "topic", 4, "0123456789abcdef", HOUR_MS)


def golden() -> dict[str, Any]:
    """Return all pinned values, as JSON holds them."""
    return {
        "records": {name: [_shown(message) for message in messages] for name, messages in _messages().items()},
        "history_columns": _history_columns(),
        "block_arrays": _block_arrays(),
        "checkpoint_fields": _checkpoint_fields(),
        "pipeline_identity": json.loads(msgspec.json.encode(pipeline_identity(_settings()))),
    }


def _settings() -> Any:
    return load_settings(kafka={"bootstrap_servers": "none"}, topics={"input": "none"})


def _messages() -> dict[str, list[Message]]:
    """Return records of each topic but history, whose bytes depend on the version of zlib."""
    ran = np.array([[1.0, 2.5]])
    missing = np.full((1, 2), np.nan)
    forecasts = Forecasts(
        reading=np.array([0]),
        timestamp_ms=np.array([START_MS]),
        target_ms=np.array([[START_MS + HOUR_MS, START_MS + 2 * HOUR_MS]]),
        point=ran,
        quantiles=np.stack([ran - 1.0, ran, ran + 1.0], axis=1),
        spread_known=np.array([False]),
        checkpoint=np.array(["2025-01-01T00-00-00Z-3f9a"], object),
        tick=np.array([5]),
        gap=np.array([1]),
        weights=np.zeros((1, 0, 2), np.float32),
    )
    scores = MaturedForecasts(
        reading=np.array([0]),
        truth=np.array([2.0]),
        point=np.array([[1.5, np.nan]]),
        quantiles=np.stack([np.array([[0.5, np.nan]]), np.array([[1.5, np.nan]]), np.array([[2.5, np.nan]])], axis=1),
        last_value=np.array([[1.0, np.nan]]),
        scale=np.array([1.0]),
        experts=missing[:, None][:, :0],
    )
    outputs = Outputs(np.zeros(1, np.int8), np.array([True]), np.array([np.nan]), forecasts, scores)
    letter = DeadLetter(RECORDS[1], Reason.NOT_JSON, "malformed")
    return {
        "forecasts": list(encode_forecasts(forecasts, READINGS, RECORDS, LEVELS, INPUT_ID)),
        "scores": list(encode_scores(scores, READINGS, RECORDS, LEVELS, INPUT_ID)),
        "denoised": list(encode_denoised(outputs, READINGS, RECORDS, INPUT_ID)),
        "dead-letters": [encode_dead_letter(letter, INPUT_ID)],
        "models": _models(),
        "state": _state(),
    }


def _models() -> list[Message]:
    decision = Decision(
        checkpoint="new",
        champion="old",
        promoted=True,
        challenger_loss=1.5,
        champion_loss=None,
        scored=200,
        reason="better",
        at="2025-01-01T00:00:00+00:00",
    )
    serve = ServeOrder("new", "old", "trainer", "2025-01-01T00:00:00+00:00", "better")
    orders = [decision_message(decision), serve_message(serve), drift_message(3)]
    return [*publication(checkpoint()), *orders, *tombstones("old", range(1))]


def _state() -> list[Message]:
    floor = Floor(
        IDENTITY,
        7,
        events=[Event(9, full=True, freed=["pump-1"])],
        swaps=[Swap(7, "none"), Swap(8, "new", 4, 256)],
        state_log=StateLog("state topic", 5),
    )
    shape = pipeline_config(horizon=1, context=2).shape(2)
    rows = convert(shape.empty(2), lambda array: np.arange(array.size).reshape(array.shape).astype(array.dtype))
    block = StoredBlock(IDENTITY, 7, ["pump-7/flow", "pump-7/heat"], ["pump-7", "pump-7"], stored_arrays(rows))
    return [Message(3, b"group/3/floor", encode(floor), []), Message(3, b"group/3/0", encode(block), [])]


def checkpoint() -> Checkpoint:
    """Return a checkpoint of the smallest network, with local readouts and fixed weights."""
    from forecaster.core.network.network import Network

    config = NetworkConfig((1, 2), LEVELS, hidden_size=16, features=FeatureConfig(2))
    weights = {name: torch.zeros_like(weight) for name, weight in Network(config).state_dict().items()}
    readout = torch.ones(config.readout_size, 2)
    local = LocalReadouts(("a", "b"), np.array([0, 0], np.int64), 1, torch.ones(2, 4, config.readout_size))
    return Checkpoint("golden", config, weights, readout, {"ticks": 5}, local)


def _history_columns() -> dict[str, Any]:
    """Return the headers of a history record, and its decompressed content."""
    batch = readings([("a", START_MS, 1.0), ("b", START_MS, None), ("a", START_MS + HOUR_MS, 2.0)], records=[0, 0, 1])
    (message,) = encode_history(3, batch, np.arange(3), np.array([False, True, False]))
    value = message.value or b""
    return {
        "headers": [[name, content.decode()] for name, content in message.headers],
        "schema": value[4],
        "content": zlib.decompress(value[5:]).hex(),
    }


def _block_arrays() -> list[list[Any]]:
    """Return name, type and shape of each array in a block with the default settings."""
    from forecaster.app.configs import pipeline_config as configured

    empty = configured(_settings()).shape(64).empty(1)
    return [[name, array.dtype.name, list(array.shape[1:])] for name, array in arrays(empty)]


def _checkpoint_fields() -> dict[str, Any]:
    """Return the names in checkpoint.json and in the weights."""
    return {
        "checkpoint.json": [field.encode_name for field in msgspec.structs.fields(Description)],
        "own": [field.encode_name for field in msgspec.structs.fields(LocalDescription)],
        "network": [field.name for field in fields(NetworkConfig)],
        "features": [field.name for field in fields(FeatureConfig)],
        "weights": sorted(_tensor_names(pack(checkpoint()).weights)),
    }


def _tensor_names(weights: bytes) -> list[str]:
    from safetensors.numpy import load

    return list(load(weights))


def _shown(message: Message) -> dict[str, Any]:
    """Return a record without the version of the software."""
    headers = [[name, "*" if name == "version" else (content or b"").decode()] for name, content in message.headers]
    return {
        "partition": message.partition,
        "key": None if message.key is None else message.key.decode(),
        "headers": headers,
        "value": _text(message.value),
    }


def _text(value: bytes | None) -> str | None:
    """Return a value as text, as hexadecimal digits if it is not printable, or as its hash if it is long."""
    if value is None:
        return None
    if len(value) > MAX_SHOWN_BYTES:
        return f"{len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()}"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value.hex()
    return text if text.isprintable() else value.hex()


if __name__ == "__main__":
    FILE.write_text(json.dumps(golden(), indent=1) + "\n")
