"""Checkpoints in folders are read as they were written, or refused with the reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import pipeline_config, random_checkpoint, with_local_readouts

from forecaster.core.network.features import FeatureConfig
from forecaster.errors import CheckpointError
from forecaster.formats.checkpoints import DESCRIPTION, WEIGHTS, read_checkpoint, refuse_other_network, write_checkpoint


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
