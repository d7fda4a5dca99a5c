"""What the inputs of a series are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.core.series.denoising import DenoiseConfig, DenoiseState
from forecaster.core.series.grid import AGREEING, GridConfig
from forecaster.core.series.scaling import ScalerState
from forecaster.records import F32, F64


@dataclass(frozen=True, slots=True)
class ObservationConfig:
    """What shapes a series' inputs.

    Attributes:
        interval_ms: spacing of the grid; 0 = learned for each series.
        max_gap_ms: a longer gap begins hidden state, context and pending forecasts anew.
        context: ticks of denoised inputs that are kept.
        denoise: the chain of filters.
        ttl_ms: a series idle for longer begins anew with its next reading.
    """

    interval_ms: int = 0
    max_gap_ms: int = 86_400_000
    context: int = 96
    denoise: DenoiseConfig = DenoiseConfig()
    ttl_ms: int = 30 * 86_400_000

    @property
    def grid(self) -> GridConfig:
        """What the grids may do."""
        return GridConfig(self.interval_ms, self.max_gap_ms, self.ttl_ms)


@dataclass
class InputState:
    """What a series' inputs are made of; one row a series.

    Attributes:
        origin: what context and last are counted from, so that 32 bits resolve a small change of a large value; NaN
            until there was a valid value.
        last: last valid value, minus the origin; NaN until there was one.
        context: denoised inputs by tick, newest first, minus the origin; NaN where there was none; (N, W).
        warming: denoised inputs of the readings before the interval was known, newest first; (N, AGREEING).
        scaler: scale and levels.
        denoise: the filters' states.
    """

    reference: F64
    last: F32
    context: F32
    warming: F64
    scaler: ScalerState
    denoise: DenoiseState

    @classmethod
    def empty(cls, n: int, config: ObservationConfig) -> InputState:
        """Returns n series without a reading."""
        return cls(
            reference=np.full(n, np.nan),
            last=np.full(n, np.nan, np.float32),
            context=np.full((n, config.context), np.nan, np.float32),
            warming=np.full((n, AGREEING), np.nan),
            scaler=ScalerState.empty(n),
            denoise=DenoiseState.empty(n, config.denoise),
        )
