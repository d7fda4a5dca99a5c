"""What a series is to become: the experts' forecasts, combined, gated, with intervals around the point.

experts ── weights by matured losses ── mix ── gate ── point ── + offsets + shifts ── quantiles
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.core import calibration, combination
from forecaster.core.calibration import CalibrationState
from forecaster.core.combination import CameTrue, CombinationState, Combined
from forecaster.core.experts import Now, SimpleExperts, expert_names
from forecaster.core.pending import Matured
from forecaster.core.seasons import ProfileState, Seasons
from forecaster.records import Integers

Singles = NDArray[np.float32]
LARGEST_USUAL = 4.0
"""Intervals move as if usual errors were no larger than so many scales: the first scales say little."""
LARGEST_SIZE = 1e3
"""A scale counts as at most so many deviations of the series, and as at least the inverse."""


@dataclass(frozen=True, slots=True)
class OutlookConfig:
    """What is forecast, by whom.

    Attributes:
        horizons: ticks ahead, ascending; J of them.
        levels: of the quantiles, ascending, in (0, 1); Q of them.
        heads: of the network; H of them.
        seasons: that the simple experts know.
    """

    horizons: tuple[int, ...]
    levels: tuple[float, ...]
    heads: int
    seasons: Seasons

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts; E of them."""
        return expert_names(self.heads, self.seasons)

    @property
    def kinds(self) -> int:
        """K, the kinds of forecasts that wait for their truth: point, quantiles, mix, heads."""
        return 2 + len(self.levels) + self.heads

    @property
    def quantiles(self) -> slice:
        """Where the quantiles are among the kinds."""
        return slice(1, 1 + len(self.levels))


@dataclass
class ExpertState:
    """One row a series: what the experts know, what they were worth, and how the intervals held."""

    profile: ProfileState
    combination: CombinationState
    calibration: CalibrationState

    @classmethod
    def empty(cls, n: int, config: OutlookConfig) -> ExpertState:
        """Returns n series that nothing was forecast of."""
        horizons = len(config.horizons)
        return cls(
            ProfileState.empty(n, config.seasons),
            CombinationState.empty(n, len(config.experts), horizons),
            CalibrationState.empty(n, len(config.levels), horizons),
        )


@dataclass(frozen=True, slots=True)
class Opinions:
    """What the network says, as (forecast - last) / scale: `heads` (B, H, J), NaN where it has nothing to say, and
    `offsets` of the quantiles from the point (B, Q, J).
    """

    heads: Singles
    offsets: Singles


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is forecast, as (forecast - last) / scale.

    Attributes:
        values: of every kind, as the ring takes them; (B, K, J).
        combined: how the point came to be.
    """

    values: Singles
    combined: Combined


class Outlook:
    """B series at one tick: first they learn from what came true, then they forecast.

    Args:
        config: what is forecast.
        state: B rows, changed in place.
        now: the series.
    """

    def __init__(self, config: OutlookConfig, state: ExpertState, now: Now) -> None:
        self._config, self._state = config, state
        self._levels = np.array(config.levels, np.float32)
        self._horizons = np.array(config.horizons, np.int64)
        self._simple = SimpleExperts(config.seasons, self._horizons, now, state.profile)

    def learn(self, truth: Singles, matured: Matured, unit: Singles, seen: Integers) -> Singles:
        """Losses, gate and intervals include what came true.

        Args:
            truth: (truth - last) / scale of then; NaN where there is none; (B, J).
            matured: what was forecast for now.
            unit: a deviation of the series that does not change; positive; (B,).
            seen: truths that each horizon may have met so far; (B, J).

        Returns:
            What each expert had forecast for now, in scales from the last value of then; (B, E, J).
        """
        config, state = self._config, self._state
        heads = [matured.values[:, kind] for kind in range(config.kinds - config.heads, config.kinds)]
        experts = np.stack([*heads, *self._simple.matured(matured)], axis=1)
        if not np.isnan(truth).all():
            mix = matured.values[:, config.kinds - config.heads - 1]
            size = np.clip(matured.scale / unit[:, None], 1.0 / LARGEST_SIZE, LARGEST_SIZE)
            usual = np.minimum(np.sqrt(np.fmin.reduce(state.combination.slow, axis=1)) / size, LARGEST_USUAL)
            calibration.learn(state.calibration, self._levels, truth, matured.values[:, config.quantiles], usual)
            came = CameTrue(truth, experts, mix, size, seen)
            combination.learn(state.combination, config.heads, self._horizons, came)
        return experts

    def forecast(self, opinions: Opinions, record: Integers) -> Forecast:
        """Returns what is forecast; the profile includes this tick.

        Args:
            opinions: of the network.
            record: ascending; series of one record are of one group; (B,).
        """
        heads = [opinions.heads[:, head] for head in range(self._config.heads)]
        experts = np.stack([*heads, *self._simple.forecasts()], axis=1)
        combined = combination.combine(self._state.combination, self._config.heads, experts, record)
        quantiles = combined.point[:, None] + opinions.offsets + self._state.calibration.shift
        values = np.concatenate(
            [combined.point[:, None], quantiles, combined.mix[:, None], opinions.heads], axis=1, dtype=np.float32
        )
        return Forecast(values, combined)


def standing(config: OutlookConfig, state: ExpertState) -> Combined:
    """Returns weights and gate as if every expert had something to say, and each series were alone."""
    combined = state.combination
    nothing = np.zeros_like(combined.slow)
    return combination.combine(combined, config.heads, nothing, np.arange(len(nothing)))
