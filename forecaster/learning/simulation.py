"""A history goes through the serving pipeline, without a broker; what serves may change on the way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from forecaster.core.network.model import NO_CHECKPOINT, Checkpoint, Model
from forecaster.core.state import SeriesState
from forecaster.formats.files import SeriesHistory
from forecaster.pipeline import Batch, PipelineConfig, advance
from forecaster.records import Outputs

SLICE = 2_000
"""Readings that are served at a time."""


class ServingSimulation:
    """The rows of all series of a history, and how far they are.

    Args:
        pipeline: what is forecast, from what.
        history: goes through it from its beginning.
        checkpoint: what serves at first; None = before any training.
        begin: position from which on it does; where it was trained on the readings before, it would be trusted too much
            for what it had forecast of them.
    """

    def __init__(
        self, pipeline: PipelineConfig, history: SeriesHistory, checkpoint: Checkpoint | None, begin: int = 0
    ) -> None:
        self._pipeline = pipeline
        self._history = history
        self._first, self._begin = None if checkpoint is None else Model(checkpoint), begin
        self._model: Model | None = None
        self._state: SeriesState = pipeline.shape(0).empty(len(history.series_ids))
        self._position = 0

    @property
    def checkpoint(self) -> str:
        """The id of what serves."""
        return NO_CHECKPOINT if self._model is None else self._model.id

    def until(self, end: int) -> Iterator[tuple[int, Outputs]]:
        """Yields the position of the first reading, and the outputs, of every batch up to position `end`."""
        while self._position < end:
            first = self._position
            if self._first is not None and first >= self._begin:
                self._use(self._first)
                self._first = None
            until = end if self._first is None else min(end, self._begin)
            last = self._history.record_end(min(first + SLICE, until))
            self._position = last
            yield first, self._serve(first, last)

    def swap(self, checkpoint: Checkpoint) -> None:
        """The checkpoint serves from the next reading on; hidden states stay where they are of the same body."""
        self._first = None
        self._use(Model(checkpoint))

    def _use(self, model: Model) -> None:
        self._model = model
        missing = model.state_size - self._state.hidden.shape[1]
        if missing > 0:
            self._state.hidden = np.pad(self._state.hidden, ((0, 0), (0, missing)))

    def _serve(self, first: int, last: int) -> Outputs:
        batch = Batch.of_one_model(self._history.readings(first, last), self._history.row[first:last])
        return advance(self._pipeline, [self._model], self._state, batch)
