"""The cache of checkpoints: what is there is whole; what cannot be there stops nobody and is said once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from builders import pipeline_config, random_checkpoint
from structlog.testing import capture_logs

from forecaster.formats.checkpoints import PARTIAL, WEIGHTS, PackedCheckpoint, pack
from forecaster.registry.cache import PARTIAL_SECONDS, CheckpointCache, opened_cache


def packed(seed: int = 0) -> PackedCheckpoint:
    return pack(random_checkpoint(pipeline_config(), seed=seed))


def read(cache: CheckpointCache, one: PackedCheckpoint) -> PackedCheckpoint | None:
    return cache.read(one.description.id, one.description.sha256)


def test_what_was_written_is_read_by_the_next_process_too(tmp_path: Path) -> None:
    one = packed()
    CheckpointCache(tmp_path / "new").write(one)
    cache = CheckpointCache(tmp_path / "new")
    assert cache.holds(one.description.id, one.description.sha256)
    assert read(cache, one) == one


def test_a_checkpoint_of_another_hash_is_not_the_one(tmp_path: Path) -> None:
    cache, one = CheckpointCache(tmp_path), packed()
    cache.write(one)
    assert cache.read(one.description.id, "another") is None


def test_a_damaged_checkpoint_is_not_read_and_can_be_written_again(tmp_path: Path) -> None:
    cache, one = CheckpointCache(tmp_path), packed()
    cache.write(one)
    weights = tmp_path / one.description.id / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    assert read(cache, one) is None
    cache.write(one)
    assert read(cache, one) == one


def test_where_nothing_can_be_written_that_is_said_once_and_nothing_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = CheckpointCache(tmp_path / "file")
    with capture_logs() as logs:
        for seed in range(3):
            cache.write(packed(seed))
            assert read(cache, packed(seed)) is None
        cache.keep_only([])
    assert len(logs) == 1


def test_a_disk_that_fills_up_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    cache, one = CheckpointCache(tmp_path), packed()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", full)
        cache.write(one)
    assert list(tmp_path.iterdir()) == []
    cache.write(one)
    assert read(cache, one) == one


def test_only_what_is_kept_stays_and_what_a_dead_process_left_goes(tmp_path: Path) -> None:
    cache, first, second = CheckpointCache(tmp_path), packed(0), packed(1)
    cache.write(first)
    cache.write(second)
    (tmp_path / f"{PARTIAL}new").mkdir()
    old = tmp_path / f"{PARTIAL}old"
    old.mkdir()
    os.utime(old, (0, old.stat().st_mtime - PARTIAL_SECONDS - 1))
    cache.keep_only([second.description.id])
    assert {path.name for path in tmp_path.iterdir()} == {second.description.id, f"{PARTIAL}new"}


def test_without_a_directory_the_cache_is_gone_when_it_is_closed() -> None:
    one = packed()
    with opened_cache("", "readings.models") as cache:
        cache.write(one)
        assert read(cache, one) == one
    assert read(cache, one) is None


def test_topics_that_share_a_directory_do_not_share_their_checkpoints(tmp_path: Path) -> None:
    one = packed()
    with opened_cache(str(tmp_path), "a.models") as ours, opened_cache(str(tmp_path), "b.models") as theirs:
        ours.write(one)
        theirs.keep_only([])
        assert read(theirs, one) is None
        assert read(ours, one) == one


def test_without_any_temporary_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    with opened_cache("", "readings.models") as cache:
        cache.write(packed())
        cache.keep_only([])
        assert read(cache, packed()) is None
