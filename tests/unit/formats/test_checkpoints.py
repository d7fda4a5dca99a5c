"""Checkpoints in folders are read as they were written, or refused with the reason."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import pipeline_config, random_checkpoint, with_local_readouts
from safetensors.numpy import load, save

from forecaster.core.network.features import FeatureConfig
from forecaster.errors import CheckpointError
from forecaster.formats.checkpoints import DESCRIPTION, WEIGHTS, read_checkpoint, refuse_other_network, write_checkpoint
from forecaster.formats.weights import CONTEXT_LIMITS, LIMITS, MAX_HORIZON
from forecaster.settings.groups import Forecast, NetworkSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(random_checkpoint(pipeline_config(), cell="lstm"), tmp_path / "new" / "folder")


def rewrite(folder: Path, **changes: object) -> None:
    description = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**description, **changes}))


def test_a_checkpoint_is_read_as_it_was_written(folder: Path) -> None:
    original, read = random_checkpoint(pipeline_config(), cell="lstm"), read_checkpoint(folder)
    assert read.id == original.id
    assert read.network == original.network
    assert torch.equal(read.readout, original.readout)
    assert read.weights.keys() == original.weights.keys()
    assert all(torch.equal(read.weights[name], weight) for name, weight in original.weights.items())


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        read_checkpoint(tmp_path)


def test_a_damaged_file_is_refused(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(folder)


def test_a_newer_schema_is_refused(folder: Path) -> None:
    rewrite(folder, schema=2)
    with pytest.raises(CheckpointError, match="schema 2"):
        read_checkpoint(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    network = json.loads((folder / DESCRIPTION).read_text())["network"]
    rewrite(folder, network={**network, "hidden_size": 24})
    with pytest.raises(CheckpointError, match="do not fit"):
        read_checkpoint(folder)


def test_an_unknown_field_is_refused(folder: Path) -> None:
    rewrite(folder, surprise=1)
    with pytest.raises(CheckpointError, match="surprise"):
        read_checkpoint(folder)


def test_local_readouts_are_read_as_they_were_written(tmp_path: Path) -> None:
    original = with_local_readouts(random_checkpoint(pipeline_config()), [["a", "b"], ["c"]])
    read = read_checkpoint(write_checkpoint(original, tmp_path)).local
    assert original.local is not None
    assert read is not None
    assert read.series_ids == ("a", "b", "c")
    assert (read.member.tolist(), read.members) == ([0, 1, 0], 2)
    assert torch.equal(read.weights, original.local.weights)


@pytest.mark.parametrize("change", [{"members": 3}, {"member": [0, 2, 0]}, {"series_ids": ["a", "b"]}, None])
def test_local_readouts_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, object] | None) -> None:
    folder = write_checkpoint(with_local_readouts(random_checkpoint(pipeline_config()), [["a", "b"], ["c"]]), tmp_path)
    body = json.loads((folder / "checkpoint.json").read_text())
    body["own"] = None if change is None else body["own"] | change
    (folder / "checkpoint.json").write_text(json.dumps(body))
    with pytest.raises(CheckpointError, match="single series do not fit"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"horizons": (1, 2)}, "the horizons 1, 2, 3, 4, FORECASTER_FORECAST__HORIZON and .* ask for 1, 2: change"),
        ({"quantile_levels": (0.5,)}, "the quantile levels 0.1, 0.5, 0.9, .*QUANTILE_LEVELS asks for 0.5: change"),
        ({"features": FeatureConfig(context=8)}, "a context of 12 ticks, .* asks for 8: change"),
        ({"carries_state": False}, r"carries its hidden state between readings \(many.* starts from zero .*\): change"),
    ],
)
def test_another_network_than_asked_for_is_refused_in_words(wanted: dict[str, Any], message: str) -> None:
    network = random_checkpoint(pipeline_config(), cell="lstm").network
    refuse_other_network(network, network, "folder")
    with pytest.raises(CheckpointError, match=message):
        refuse_other_network(network, replace(network, **wanted), "folder")


def rewrite_weights(folder: Path, content: bytes) -> None:
    """Replace the weights, and their hash in the description."""
    (folder / WEIGHTS).write_bytes(content)
    rewrite(folder, sha256=hashlib.sha256(content).hexdigest())


def with_header(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return weights whose header was changed."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


WRONG_WEIGHTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "not safetensors": (lambda _: b"\x80\x04not safetensors at all" * 10, "not in the format safetensors"),
    "empty": (lambda _: b"", "not in the format safetensors"),
    "a long header": (lambda content: (2**62).to_bytes(8, "little") + content[8:], "end within their header"),
    "deep header": (lambda _: (100_000).to_bytes(8, "little") + b"[" * 100_000, "not in the format safetensors"),
    "float64": (lambda content: save({n: a.astype(np.float64) for n, a in load(content).items()}), "type 'F64'"),
    "an extra array": (lambda content: save({**load(content), "extra": np.zeros(1, np.float32)}), "'extra'"),
    "a missing array": (lambda content: save({n: a for n, a in load(content).items() if n != "readout"}), "'readout'"),
    "another order": (
        lambda content: save({n: a.T.copy() if n == "readout" else a for n, a in load(content).items()}),
        "'readout' has the shape",
    ),
    "outside": (
        lambda content: with_header(content, lambda header: header["readout"].update(data_offsets=[0, 2**60])),
        "not where their header says",
    ),
    "overlapping": (
        lambda content: (
            with_header(
                content,
                lambda header: header["body.head.bias"].update(
                    data_offsets=header["body.encoder.bias"]["data_offsets"]
                ),
            )
            + b"more"
        ),
        "other data than",
    ),
    "a huge shape": (
        lambda content: with_header(content, lambda header: header["readout"].update(shape=[2**40, 2**40])),
        "'readout' has the shape",
    ),
    "not finite": (
        lambda content: save({n: np.full_like(a, np.nan) for n, a in load(content).items()}),
        "not finite",
    ),
    "overflowing": (lambda content: save({n: a * np.float32(1e30) for n, a in load(content).items()}), "overflows"),
}


@pytest.mark.parametrize("wrong", WRONG_WEIGHTS)
def test_weights_with_a_right_hash_and_wrong_content_are_refused(folder: Path, wrong: str) -> None:
    change, message = WRONG_WEIGHTS[wrong]
    rewrite_weights(folder, change((folder / WEIGHTS).read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 16_000},
        {"hidden_size": 2**62},
        {"layers": 10**9},
        {"layers": 0},
        {"convolution": 10**9},
        {"convolution": -1},
        {"features": {"context": 2**40}},
        {"horizons": []},
        {"horizons": [2, 1]},
        {"horizons": [0]},
        {"horizons": [1, 10**9]},
        {"quantile_levels": [0.0, 0.5]},
        {"quantile_levels": [0.5, 0.5]},
        {"quantile_levels": []},
    ],
    ids=str,
)
def test_a_network_beyond_the_limits_is_refused_before_memory_is_taken_for_it(
    folder: Path, change: dict[str, object]
) -> None:
    network = json.loads((folder / DESCRIPTION).read_text())["network"]
    rewrite(folder, network={**network, **change})
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"its (network|horizons|quantile levels)|hidden_size"):
        read_checkpoint(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize("identity", ["none", "none.1", "", "../up", "a b", "\x1b[2J"])
def test_a_description_whose_id_means_something_else_is_refused(folder: Path, identity: str) -> None:
    rewrite(folder, id=identity)
    with pytest.raises(CheckpointError, match="is no id of a checkpoint"):
        read_checkpoint(folder)


@pytest.mark.parametrize("facts", [{"seen_until_ms": "yesterday"}, {"seen_until_ms": 2**70}, {"a": [[[[]]]] * 3}])
def test_facts_that_a_training_could_not_read_are_refused(folder: Path, facts: dict[str, Any]) -> None:
    if "a" in facts:
        for _ in range(20):
            facts = {"a": facts}
    rewrite(folder, facts=facts)
    with pytest.raises(CheckpointError, match=r"seen_until_ms|nested"):
        read_checkpoint(folder)


def test_the_settings_can_ask_for_no_network_beyond_the_limits() -> None:
    for name, (low, high) in {**LIMITS, "context": CONTEXT_LIMITS}.items():
        limits = NetworkSettings.model_json_schema()["properties"][name]
        limits = next(iter(limits.get("anyOf", [limits])))
        assert low <= limits["minimum"]
        assert limits["maximum"] == high
    assert Forecast.model_json_schema()["properties"]["horizon"]["maximum"] == MAX_HORIZON
