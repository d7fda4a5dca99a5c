"""The models that serve in a batch: which one forecasts at each reading, and one step of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.core.arrays import take
from forecaster.core.checkpoint_ids import NO_CHECKPOINT, NO_NETWORK
from forecaster.core.ensemble.ensemble import EnsembleConfig, NetworkForecast
from forecaster.core.ensemble.experts import HEADS
from forecaster.core.network.model import Model, ReadoutIndex, StepForecast
from forecaster.core.rewarm import rewarm
from forecaster.core.series.step_inputs import StepInputs
from forecaster.core.state import SeriesState
from forecaster.records import F32, I64


@dataclass(frozen=True, slots=True)
class BatchModels:
    """The models of a batch of N readings.

    Attributes:
        models: the models; None = no checkpoint: only the simple experts forecast.
        which: index of the model that forecasts at each reading; (N,).
        bodies: body code of each model.
        checkpoints: checkpoint id of each model.
        local: for each model, the index of each reading's series among its local readouts, (N,); None = unused.
    """

    models: Sequence[Model | None]
    which: I64
    bodies: I64
    checkpoints: NDArray[np.object_]
    local: Sequence[I64 | None]

    @classmethod
    def of(cls, models: Sequence[Model | None], which: I64, series_ids: Sequence[str], heads: int) -> BatchModels:
        """Return the models of a batch.

        Args:
            models: the models.
            which: index of the model of each reading; (N,).
            series_ids: series of each reading; N.
            heads: number of the network's forecasts that rows keep apart; local readouts are used if these are all.
        """
        bodies = [NO_NETWORK if model is None else model.body_code for model in models]
        checkpoints = [NO_CHECKPOINT if model is None else model.id for model in models]
        local = [
            None if model is None or not model.has_local or heads < len(HEADS) else model.readout_index(series_ids)
            for model in models
        ]
        return cls(models, which, np.array(bodies, np.int64), np.array(checkpoints, object), local)

    def rewarm(self, readings: I64, rows: SeriesState) -> None:
        """Re-warm the rows whose hidden state belongs to another body than that of their model, in place.

        Args:
            readings: index of each row's reading in the batch; (B,).
            rows: B rows.
        """
        which = self.which[readings]
        others = rows.body != self.bodies[which]
        if others.any():
            for index in np.unique(which[others]):
                rewarm(self.models[index], rows, np.flatnonzero(others & (which == index)))

    def step(
        self, config: EnsembleConfig, readings: I64, records: I64, inputs: StepInputs, hidden: F32
    ) -> NetworkForecast:
        """Advance the hidden states by one step, in place, and return the forecasts of each row's model.

        Args:
            config: horizons, quantile levels and heads.
            readings: index of each row's reading in the batch; (M,).
            records: record that each reading came in; (M,).
            inputs: inputs of the step; M rows.
            hidden: hidden states; (M, S).

        Returns:
            Forecasts of the M rows; all NaN where no network forecasts, or where its forecast is not finite.
        """
        count, which = len(readings), self.which[readings]
        heads = np.full((count, config.heads, len(config.horizons)), np.nan, np.float32)
        offsets = np.full((count, len(config.quantile_levels), len(config.horizons)), np.nan, np.float32)
        for model_index, (model, local) in enumerate(zip(self.models, self.local, strict=True)):
            rows = np.flatnonzero(which == model_index)
            if model is not None and len(rows):
                index = None if local is None else ReadoutIndex(local[readings], records)
                forecast = _forecast(model, inputs, hidden, rows, index)
                heads[rows, : forecast.heads.shape[1]], offsets[rows] = forecast.heads, forecast.offsets
        return NetworkForecast(heads, offsets)

    def checkpoints_of(self, readings: I64) -> NDArray[np.object_]:
        """Return the id of the checkpoint that forecasts at each of these readings of the batch; (M,)."""
        return self.checkpoints[self.which[readings]]


def _forecast(model: Model, inputs: StepInputs, hidden: F32, rows: I64, index: ReadoutIndex | None) -> StepForecast:
    """Advance the hidden states of some rows by one step, in place, and return the model's forecasts there."""
    columns = slice(None), slice(model.state_size)
    if len(rows) == len(hidden):
        step = model.forecast(inputs, hidden[columns], index)
        hidden[columns] = step.state
        return step
    step = model.forecast(take(inputs, rows), hidden[rows][columns], None if index is None else take(index, rows))
    hidden[rows, : model.state_size] = step.state
    return step
