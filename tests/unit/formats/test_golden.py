"""Formats change only on purpose: names and bytes of stored state, checkpoints and records are pinned."""

from __future__ import annotations

import base64
import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import HOUR_MS, pipeline_config, random_checkpoint, with_local_readouts
from fakes import STATE, FakeClient, FakeKafka
from golden import FILE, golden
from setups import setup

from forecaster.core.network.model import Model
from forecaster.formats.checkpoints import read_checkpoint
from forecaster.serving.state.recovery import Recovery

BEFORE = Path(__file__).parent / "data" / "written_before_renames"
"""A checkpoint and the records of a state topic, written by the version before classes and fields were renamed."""
PINNED: dict[str, Any] = json.loads(FILE.read_text())
NOW = golden()


@pytest.mark.parametrize("topic", PINNED["records"])
def test_records_of_each_topic_are_the_pinned_bytes(topic: str) -> None:
    assert NOW["records"][topic] == PINNED["records"][topic]


@pytest.mark.parametrize("name", [name for name in PINNED if name != "records"])
def test_names_in_stored_formats_are_the_pinned_ones(name: str) -> None:
    assert NOW[name] == PINNED[name]


def test_nothing_is_left_unpinned() -> None:
    assert NOW.keys() == PINNED.keys()
    assert NOW["records"].keys() == PINNED["records"].keys()


def test_a_checkpoint_written_before_the_renames_is_read() -> None:
    expected = with_local_readouts(
        random_checkpoint(pipeline_config(chain=("range", "hampel")), cell="lstm"), [["pump-0", "pump-1"], ["pump-2"]]
    )
    checkpoint = read_checkpoint(BEFORE / expected.id)
    assert checkpoint.network == expected.network
    assert checkpoint.weights.keys() == expected.weights.keys()
    assert all(torch.equal(checkpoint.weights[name], weight) for name, weight in expected.weights.items())
    assert checkpoint.local is not None
    assert expected.local is not None
    assert torch.equal(checkpoint.local.weights, expected.local.weights)


def test_state_written_before_the_renames_is_rewarmed() -> None:
    stored = json.loads((BEFORE / "state.json").read_text())
    kafka = FakeKafka()
    for pump in range(3):
        kafka.hours(0, range(40), b"pump-%d" % pump)
    for record in stored["records"]:
        kafka.append(0, base64.b64decode(record["value"]), record["key"].encode(), STATE)
    kafka.offsets[0] = stored["offset"]
    config = pipeline_config(chain=("range", "hampel"))
    worker = setup(pipeline=config, model=Model(random_checkpoint(config))).worker(FakeClient(kafka))
    while worker._store.has_unopened:  # noqa: SLF001 - the law is about how it is restored
        worker.iterate()
    worker.iterate()
    restored = worker._store.restore_result(0)  # noqa: SLF001
    assert restored.plan.recovery == Recovery.REWARMED
    rows = restored.partition.table.state
    newest = rows.inputs.reference + rows.inputs.last
    assert sorted(newest.tolist()) == [float((39 * 7 + 3 * pump) % 11 + 100 * pump) for pump in range(3)]
    assert rows.timeline.tick.tolist() == [39, 39, 39]
    assert rows.timeline.interval_ms.tolist() == [HOUR_MS] * 3


def test_the_readme_lists_the_arrays_of_a_row() -> None:
    """Each pinned array matches exactly one name in the table of arrays, and each name matches an array."""
    text = (Path(__file__).parents[3] / "forecaster" / "formats" / "README.md").read_text()
    table = text.split("| array | type | columns | holds |")[1].split("\n\n")[0]
    patterns = {row.split("|")[1]: row.split("|")[2] for row in table.splitlines()[2:]}
    listed = {name: types for cell, types in patterns.items() for name in re.findall(r"`([^`]+)`", cell)}
    matched = {
        name: [pattern for pattern in listed if fnmatchcase(name, pattern)] for name, _, _ in PINNED["block_arrays"]
    }
    assert all(len(patterns) == 1 for patterns in matched.values()), matched
    assert {pattern for patterns in matched.values() for pattern in patterns} == listed.keys()
    for name, kind, _ in PINNED["block_arrays"]:
        assert kind in listed[matched[name][0]].replace(" ", "").split(","), f"{name} is {kind}"
