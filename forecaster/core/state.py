"""SeriesState: all state that is carried for each series from one reading to the next."""

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
    """The state of N series, one row a series: a struct of arrays, and of such structs.

    Attributes:
        timeline: positions of the series on their grids.
        inputs: values, scale and filters.
        pending: forecasts that wait for their truth.
        experts: losses, gates and intervals, and the means of the seasonal experts.
        hidden: hidden states; a body with fewer columns uses the first ones; (N, S).
        body: code of the body that each hidden state belongs to (`checkpoint_ids.body_code`); (N,).
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
    """The settings that rows are shaped by: rows of equal shapes are compatible.

    Attributes:
        observation: settings of the inputs.
        ensemble: settings of the forecasts.
        hidden: columns of the hidden states.
    """

    observation: ObservationConfig
    ensemble: EnsembleConfig
    hidden: int

    def empty(self, n: int) -> SeriesState:
        """Return n series without a reading."""
        return SeriesState(
            timeline=TimelineState.empty(n, self.observation.interval_ms),
            inputs=InputState.empty(n, self.observation),
            pending=self.ensemble.nothing_pending(n),
            experts=ExpertState.empty(n, self.ensemble),
            hidden=np.zeros((n, self.hidden), np.float32),
            body=np.zeros(n, np.int64),
        )
