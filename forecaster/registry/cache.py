"""Checkpoints on disk that also are on the models topic: nothing is lost with them, and no fault here stops anyone."""

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
"""A folder that has been in the making for so long was left behind by a process that died."""
_log = structlog.get_logger()


class CheckpointCache:
    """A folder for each checkpoint, written whole or not at all, looked at by its hash when it is read.

    Args:
        folder: where; made when it is missing; None = nothing is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._said = False

    def holds(self, checkpoint_id: str, sha256: str) -> bool:
        """Returns whether such a checkpoint seems to be there; its weights are not looked at."""
        if self._folder is None:
            return False
        try:
            return read_description(self._folder / checkpoint_id).sha256 == sha256
        except CheckpointError:
            return False

    def read(self, checkpoint_id: str, sha256: str) -> PackedCheckpoint | None:
        """Returns the checkpoint with this hash; None where there is none, or it is damaged."""
        if self._folder is None or not self.holds(checkpoint_id, sha256):
            return None
        folder = self._folder / checkpoint_id
        try:
            packed = read_packed(folder)
            refuse_damage(packed, str(folder))
        except CheckpointError as error:
            self._say(str(error))
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return packed

    def write(self, packed: PackedCheckpoint) -> None:
        """The checkpoint is there; where it cannot be, that is said once, and it is read from the topic each time."""
        name = packed.description.id
        if self._folder is None or self.holds(name, packed.description.sha256):
            return
        shutil.rmtree(self._folder / name, ignore_errors=True)
        try:
            write_packed(packed, self._folder, durable=False)
        except CheckpointError as error:
            self._say(str(error))
        else:
            self._said = False

    def keep(self, checkpoint_ids: Collection[str]) -> None:
        """Other checkpoints are gone, and what a process that died left behind."""
        if self._folder is None:
            return
        try:
            for path in list(self._folder.iterdir()):
                left = path.name.startswith(PARTIAL) and time.time() - path.stat().st_mtime > PARTIAL_SECONDS
                if left or not (path.name.startswith(PARTIAL) or path.name in checkpoint_ids):
                    shutil.rmtree(path, ignore_errors=True)
        except OSError:  # no such folder, or another process was faster
            return

    def _say(self, what: str) -> None:
        if not self._said:
            self._said = True
            _log.warning("a checkpoint is read from the models topic: see FORECASTER_CACHE__DIRECTORY", error=what)


@contextmanager
def opened_cache(directory: str, topic: str) -> Iterator[CheckpointCache]:
    """Yields the cache of a topic's checkpoints.

    Args:
        directory: where each topic has a folder of its own; empty = a temporary folder that is gone afterwards.
        topic: whose checkpoints; others of the folder are removed when they are not on it any more.
    """
    if directory:
        yield CheckpointCache(Path(directory) / topic)
        return
    try:
        temporary = tempfile.TemporaryDirectory(prefix="forecaster-", ignore_cleanup_errors=True)
    except OSError as error:
        _log.warning("no temporary folder: checkpoints are read from the models topic each time", error=str(error))
        yield CheckpointCache(None)
        return
    with temporary as folder:
        yield CheckpointCache(Path(folder))
