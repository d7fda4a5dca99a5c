"""The cache holds complete checkpoints only; its faults stop nobody and are logged once."""

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


def read(cache: CheckpointCache, checkpoint: PackedCheckpoint) -> PackedCheckpoint | None:
    return cache.read(checkpoint.description.id, checkpoint.description.sha256)


def test_a_written_checkpoint_is_read_by_the_next_process(tmp_path: Path) -> None:
    checkpoint = packed()
    CheckpointCache(tmp_path / "new").write(checkpoint)
    cache = CheckpointCache(tmp_path / "new")
    assert cache.holds(checkpoint.description.id, checkpoint.description.sha256)
    assert read(cache, checkpoint) == checkpoint


def test_a_checkpoint_with_another_hash_is_not_returned(tmp_path: Path) -> None:
    cache, checkpoint = CheckpointCache(tmp_path), packed()
    cache.write(checkpoint)
    assert cache.read(checkpoint.description.id, "another") is None


def test_a_damaged_checkpoint_is_not_read_and_can_be_written_again(tmp_path: Path) -> None:
    cache, checkpoint = CheckpointCache(tmp_path), packed()
    cache.write(checkpoint)
    weights = tmp_path / checkpoint.description.id / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    assert read(cache, checkpoint) is None
    cache.write(checkpoint)
    assert read(cache, checkpoint) == checkpoint


def test_a_cache_that_cannot_be_written_is_logged_once_and_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = CheckpointCache(tmp_path / "file")
    with capture_logs() as logs:
        for seed in range(3):
            cache.write(packed(seed))
            assert read(cache, packed(seed)) is None
        cache.keep_only([])
    assert len(logs) == 1


def test_a_failed_write_leaves_no_partial_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    cache, checkpoint = CheckpointCache(tmp_path), packed()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", full)
        cache.write(checkpoint)
    assert list(tmp_path.iterdir()) == []
    cache.write(checkpoint)
    assert read(cache, checkpoint) == checkpoint


def test_keep_only_removes_other_checkpoints_and_old_partial_folders(tmp_path: Path) -> None:
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
    checkpoint = packed()
    with opened_cache("", "readings.models") as cache:
        cache.write(checkpoint)
        assert read(cache, checkpoint) == checkpoint
    assert read(cache, checkpoint) is None


def test_topics_that_share_a_directory_do_not_share_their_checkpoints(tmp_path: Path) -> None:
    checkpoint = packed()
    with opened_cache(str(tmp_path), "a.models") as cache, opened_cache(str(tmp_path), "b.models") as other:
        cache.write(checkpoint)
        other.keep_only([])
        assert read(other, checkpoint) is None
        assert read(cache, checkpoint) == checkpoint


def test_without_a_temporary_folder_the_cache_stays_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    with opened_cache("", "readings.models") as cache:
        cache.write(packed())
        cache.keep_only([])
        assert read(cache, packed()) is None
