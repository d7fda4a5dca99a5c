"""SeriesState: everything that is carried for a series from one reading to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.core.ensemble.ensemble import EnsembleConfig, ExpertState
from forecaster.core.ensemble.pending import PendingState
from forecaster.core.series.grid import TimelineState
from forecaster.core.series.state import InputState, ObservationConfig
from forecaster.records import F32, I64


@dataclass
class SeriesState:
    """N rows, one a series; a struct of arrays, and of such structs.

    Attributes:
        timeline: where on their grids the series stand.
        inputs: what their inputs are made of.
        pending: forecasts that wait for their truth.
        experts: what the forecasts were worth, and what the simple ones rest on.
        hidden: hidden states; a body that needs fewer columns uses the first ones; (N, S).
        body: code of the body that each hidden state belongs to (`model.body_code`); (N,).
    """

    timeline: TimelineState
    inputs: InputState
    pending: PendingState
    experts: ExpertState
    hidden: F32
    body: I64

    def __len__(self) -> int:
        return len(self.hidden)


@dataclass(frozen=True, slots=True)
class StateShape:
    """What the rows of a partition look like: equal shapes make compatible rows."""

    observation: ObservationConfig
    ensemble: EnsembleConfig
    hidden: int

    def empty(self, n: int) -> SeriesState:
        """Returns n series without a reading."""
        return SeriesState(
            timeline=TimelineState.empty(n, self.observation.interval_ms),
            inputs=InputState.empty(n, self.observation),
            pending=self.ensemble.nothing_pending(n),
            experts=ExpertState.empty(n, self.ensemble),
            hidden=np.zeros((n, self.hidden), np.float32),
            body=np.zeros(n, np.int64),
        )
