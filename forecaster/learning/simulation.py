"""Serving of a history through the pipeline, without a broker; the checkpoint can change on the way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.core.network.model import Checkpoint, Model
from forecaster.core.state import SeriesState
from forecaster.history import SeriesHistory
from forecaster.pipeline import Batch, PipelineConfig, advance
from forecaster.records import Outputs

SLICE = 2_000
"""Readings in a batch, about."""


class ServingSimulation:
    """Serves a history from its beginning; keeps the rows of all its series, and the position.

    Args:
        pipeline: configuration of the forecasts.
        history: readings of all series.
        checkpoint: first checkpoint to serve; None = none, as before any training.
        begin: position of the first reading that the checkpoint serves. If it was trained on the readings before, its
            forecasts of them would be too good, and the ensemble would trust it too much.
    """

    def __init__(
        self, pipeline: PipelineConfig, history: SeriesHistory, checkpoint: Checkpoint | None, begin: int = 0
    ) -> None:
        self._pipeline = pipeline
        self._history = history
        self._first_model, self._begin = None if checkpoint is None else Model(checkpoint), begin
        self._model: Model | None = None
        self._state: SeriesState = pipeline.shape(0).empty(len(history.series_ids))
        self._position = 0

    @property
    def checkpoint(self) -> str:
        """Id of the checkpoint that serves."""
        return NO_CHECKPOINT if self._model is None else self._model.id

    def until(self, end: int) -> Iterator[tuple[int, Outputs]]:
        """Yield the position of the first reading, and the outputs, of every batch up to position `end`."""
        while self._position < end:
            first = self._position
            if self._first_model is not None and first >= self._begin:
                self._use(self._first_model)
                self._first_model = None
            until = end if self._first_model is None else min(end, self._begin)
            batch_end = self._history.record_end(min(first + SLICE, until))
            self._position = batch_end
            yield first, self._serve(first, batch_end)

    def swap(self, checkpoint: Checkpoint) -> None:
        """Serve with another checkpoint from the next reading on; hidden states of the same body stay."""
        self._first_model = None
        self._use(Model(checkpoint))

    def _use(self, model: Model) -> None:
        self._model = model
        missing = model.state_size - self._state.hidden.shape[1]
        if missing > 0:
            self._state.hidden = np.pad(self._state.hidden, ((0, 0), (0, missing)))

    def _serve(self, first: int, end: int) -> Outputs:
        batch = Batch.of_one_model(self._history.readings(first, end), self._history.series_index[first:end])
        return advance(self._pipeline, [self._model], self._state, batch)
