"""A history goes through the serving pipeline, without a broker; what serves may change on the way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from forecaster.core.model import Checkpoint, Model
from forecaster.core.rewarm import rewarm
from forecaster.core.state import SeriesState
from forecaster.files import History
from forecaster.learning.refresh import body_of
from forecaster.records import Outputs
from forecaster.serving.pipeline import GENESIS, Batch, PipelineConfig, advance

SLICE = 2_000
"""Readings that are served at a time."""


class Replay:
    """The rows of all series of a history, and how far they are.

    Args:
        pipeline: what is forecast, from what.
        history: goes through it from its beginning.
        checkpoint: what serves at first; None = before any training.
    """

    def __init__(self, pipeline: PipelineConfig, history: History, checkpoint: Checkpoint | None) -> None:
        self._pipeline = pipeline
        self._history = history
        self._groups = _groups(history)
        self._model = None if checkpoint is None else Model(checkpoint)
        self._state: SeriesState = pipeline.shape(self._model).empty(len(history.series_ids))
        self._position = 0

    @property
    def checkpoint(self) -> str:
        """The id of what serves."""
        return GENESIS if self._model is None else self._model.id

    def until(self, end: int) -> Iterator[tuple[int, Outputs]]:
        """Yields the position of the first reading, and the outputs, of every batch up to position `end`."""
        while self._position < end:
            first = self._position
            last = self._history.record_end(min(first + SLICE, end))
            self._position = last
            yield first, self._serve(first, last)

    def swap(self, checkpoint: Checkpoint) -> None:
        """The checkpoint serves from the next reading on; hidden states stay where they are of the same body."""
        same = body_of(self.checkpoint) == body_of(checkpoint.id)
        self._model = Model(checkpoint)
        if not same:
            self._state.hidden = np.zeros((len(self._state), self._model.state_size), np.float32)
            rewarm(self._model, self._state, self._groups)

    def _serve(self, first: int, last: int) -> Outputs:
        batch = Batch(self._history.readings(first, last), self._history.row[first:last])
        return advance(self._pipeline, self._model, self._state, batch)


def _groups(history: History) -> list[str]:
    """Returns the group of each series: the first series that has come in one record with it."""
    begins = np.flatnonzero(np.diff(history.records, prepend=-1))
    leader = np.arange(len(history.series_ids))
    if len(begins):
        lowest = np.minimum.reduceat(history.row, begins)
        of_record = np.repeat(lowest, np.diff(begins, append=len(history)))
        np.minimum.at(leader, history.row, of_record)
    return [history.series_ids[row] for row in leader.tolist()]
