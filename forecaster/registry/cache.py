"""Copies on disk of the checkpoints on the models topic.

The topic holds everything, so that a cache that is lost or broken costs only time: its faults are logged, never raised.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from forecaster.errors import CheckpointError
from forecaster.formats.checkpoints import (
    PARTIAL,
    PackedCheckpoint,
    read_description,
    read_packed,
    refuse_damage,
    write_packed,
)

PARTIAL_SECONDS = 600.0
"""A partial folder that is older than this was left behind by a process that died."""
_log = structlog.get_logger()


class CheckpointCache:
    """A folder for each checkpoint, written completely or not at all; reading verifies the hash.

    Args:
        folder: folder of the checkpoints, created when it is missing; None = no checkpoint is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._is_fault_logged = False

    def holds(self, checkpoint_id: str, sha256: str) -> bool:
        """Return whether the cache has this checkpoint, by its description alone."""
        if self._folder is None:
            return False
        try:
            return read_description(self._folder / checkpoint_id).sha256 == sha256
        except CheckpointError:
            return False

    def read(self, checkpoint_id: str, sha256: str) -> PackedCheckpoint | None:
        """Return the checkpoint with this hash; None if it is missing or damaged."""
        if self._folder is None or not self.holds(checkpoint_id, sha256):
            return None
        folder = self._folder / checkpoint_id
        try:
            packed = read_packed(folder)
            refuse_damage(packed, str(folder))
        except CheckpointError as error:
            self._log_once(str(error))
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return packed

    def write(self, packed: PackedCheckpoint) -> None:
        """Write the checkpoint; if that fails, log it once: the checkpoint is then read from the topic each time."""
        name = packed.description.id
        if self._folder is None or self.holds(name, packed.description.sha256):
            return
        shutil.rmtree(self._folder / name, ignore_errors=True)
        try:
            write_packed(packed, self._folder, durable=False)
        except CheckpointError as error:
            self._log_once(str(error))
        else:
            self._is_fault_logged = False

    def keep_only(self, checkpoint_ids: Collection[str]) -> None:
        """Remove all other checkpoints, and partial folders that a dead process left behind."""
        if self._folder is None:
            return
        try:
            for path in list(self._folder.iterdir()):
                if path.name.startswith(PARTIAL):
                    is_unused = time.time() - path.stat().st_mtime > PARTIAL_SECONDS
                else:
                    is_unused = path.name not in checkpoint_ids
                if is_unused:
                    shutil.rmtree(path, ignore_errors=True)
        except OSError:  # no such folder, or another process was faster
            return

    def _log_once(self, error: str) -> None:
        if not self._is_fault_logged:
            self._is_fault_logged = True
            _log.warning("checkpoint_cache_failed", variable="FORECASTER_CACHE__DIRECTORY", error=error)


@contextmanager
def opened_cache(directory: str, topic: str) -> Iterator[CheckpointCache]:
    """Yield the cache of a topic's checkpoints.

    Args:
        directory: directory with a folder for each topic; empty = a temporary folder, removed afterwards.
        topic: name of the models topic; checkpoints that are no longer on it are removed from its folder.
    """
    if directory:
        yield CheckpointCache(Path(directory) / topic)
        return
    try:
        temporary = tempfile.TemporaryDirectory(prefix="forecaster-", ignore_cleanup_errors=True)
    except OSError as error:
        _log.warning("checkpoint_cache_disabled", variable="FORECASTER_CACHE__DIRECTORY", error=str(error))
        yield CheckpointCache(None)
        return
    with temporary as folder:
        yield CheckpointCache(Path(folder))
