"""The state that the inputs of a series are made from, and the settings that shape it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.core.series.denoising import DenoiseConfig, DenoiseState
from forecaster.core.series.grid import AGREEING, GridConfig
from forecaster.core.series.scaling import ScalerState
from forecaster.records import F32, F64


@dataclass(frozen=True, slots=True)
class ObservationConfig:
    """Settings that shape a series' inputs.

    Attributes:
        interval_ms: spacing of the grid; 0 = learned for each series.
        max_gap_ms: a longer gap resets hidden state, context and pending forecasts.
        context: number of ticks of denoised inputs that are kept, W.
        denoise: the chain of filters.
        ttl_ms: time to live: a series that was idle for longer starts again with its next reading.
    """

    interval_ms: int = 0
    max_gap_ms: int = 86_400_000
    context: int = 96
    denoise: DenoiseConfig = DenoiseConfig()
    ttl_ms: int = 30 * 86_400_000

    @property
    def grid(self) -> GridConfig:
        """Limits of the grids."""
        return GridConfig(self.interval_ms, self.max_gap_ms, self.ttl_ms)


@dataclass
class InputState:
    """Values, scale and filters of N series, one row a series.

    Attributes:
        reference: value that is subtracted from `last` and `context`, so that 32 bits resolve a small change of a large
            value; in units of the series; NaN until there was a valid value; (N,).
        last: last valid value, minus the reference; NaN until there was one; (N,).
        context: denoised inputs by tick, newest first, minus the reference; NaN where there was none; (N, W).
        warming: denoised inputs of the readings before the interval was known, newest first, in units of the series;
            (N, AGREEING).
        scaler: scale and levels.
        denoise: states of the filters.
    """

    reference: F64
    last: F32
    context: F32
    warming: F64
    scaler: ScalerState
    denoise: DenoiseState

    @classmethod
    def empty(cls, n: int, config: ObservationConfig) -> InputState:
        """Return n series without a reading."""
        return cls(
            reference=np.full(n, np.nan),
            last=np.full(n, np.nan, np.float32),
            context=np.full((n, config.context), np.nan, np.float32),
            warming=np.full((n, AGREEING), np.nan),
            scaler=ScalerState.empty(n),
            denoise=DenoiseState.empty(n, config.denoise),
        )
