"""What a series is to become: the experts' forecasts, combined, gated, with intervals around the point.

experts ── weights by matured losses ── mix ── gate ── dead zone ── point ── + offsets + shifts ── quantiles
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from forecaster.core.ensemble import combination, conformal
from forecaster.core.ensemble.combination import CombinationState, Combined, MaturedPairs
from forecaster.core.ensemble.conformal import CalibrationState
from forecaster.core.ensemble.experts import SimpleExperts, TickContext, expert_names
from forecaster.core.ensemble.pending import Matured, PendingState
from forecaster.core.ensemble.seasonal import ProfileState, Seasons
from forecaster.records import F32, F64, I64

LARGEST_USUAL = 4.0
"""Intervals move, and small changes are left out, as if usual errors were no larger than so many scales: the first
scales say little. How far out an offset is believed knows no such limit.
"""
LARGEST_SIZE = 1e3
"""A scale counts as at most so many deviations of the series, and as at least the inverse."""
MANY = 30
"""The best of several experts looks better than it is until so many truths have come."""
DEAD_ZONE = 0.3
"""Of a series that often stays as it is no change is forecast that is smaller than this share of a usual error."""
STAYS, STAYS_OFTEN = 0.2, 0.5
"""A horizon's dead zone begins where so many readings equal the one as long before, and is whole where so many do."""


@dataclass(frozen=True, slots=True)
class EnsembleConfig:
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
    def network(self) -> int:
        """Which expert the shared readout of the network is; the series' own ones follow."""
        return len(self.experts) - self.heads

    @property
    def kinds(self) -> int:
        """K, the kinds of forecasts that wait for their truth: point, quantiles, mix, heads."""
        return 2 + len(self.levels) + self.heads

    def nothing_pending(self, n: int) -> PendingState:
        """Returns n series without a forecast that waits."""
        return PendingState.empty(n, self.horizons, self.kinds, len(self.seasons.lengths_ms))

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
    def empty(cls, n: int, config: EnsembleConfig) -> ExpertState:
        """Returns n series that nothing was forecast of."""
        horizons = len(config.horizons)
        return cls(
            ProfileState.empty(n, config.seasons),
            CombinationState.empty(n, len(config.experts), horizons),
            CalibrationState.empty(n, len(config.levels), horizons),
        )


@dataclass(frozen=True, slots=True)
class NetworkForecast:
    """What the network says, as (forecast - last) / scale: `heads` (B, H, J), NaN where it has nothing to say, and
    `offsets` of the quantiles from the point (B, Q, J).
    """

    heads: F32
    offsets: F32


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is forecast, as (forecast - last) / scale.

    Attributes:
        values: of every kind, as the ring takes them; (B, K, J).
        combined: how the point came to be.
        usual: value of the phase that each season is in; (B, S).
    """

    values: F32
    combined: Combined
    usual: F32


class Ensemble:
    """B series at one tick: first they learn from what came true, then they forecast.

    Args:
        config: what is forecast.
        state: B rows, changed in place.
        now: the series.
        unit: a deviation of each series that does not change; positive; (B,).
    """

    def __init__(self, config: EnsembleConfig, state: ExpertState, now: TickContext, unit: F32) -> None:
        self._config, self._state, self._tick_context, self._unit = config, state, now, unit[:, None]
        self._levels = np.array(config.levels, np.float32)
        self._horizons = np.array(config.horizons, np.int64)
        self._simple = SimpleExperts(config.seasons, self._horizons, now, state.profile)

    def learn(self, truth: F32, matured: Matured) -> F32:
        """Losses, gate and intervals include what came true; a truth that the filters mask moves the intervals alone.

        Args:
            truth: (truth - last) / scale of then; NaN where there is none; (B, J).
            matured: what was forecast for now.

        Returns:
            What each expert had forecast for now, in scales from the last value of then; (B, E, J).
        """
        config, state = self._config, self._state
        heads = [matured.values[:, kind] for kind in range(config.kinds - config.heads, config.kinds)]
        experts = np.stack([*self._simple.matured(matured), *heads], axis=1)
        if not np.isnan(truth).all():
            mix = matured.values[:, config.kinds - config.heads - 1]
            size = self._size(matured.scale)
            usual = np.minimum(self._usual_error(size), np.float32(LARGEST_USUAL))
            conformal.learn(state.calibration, self._levels, truth, matured.values[:, config.quantiles], usual)
            trusted = np.where(np.isnan(self._tick_context.value)[:, None], np.float32(np.nan), truth)
            combination.learn(state.combination, self._horizons, MaturedPairs(trusted, experts, mix, size))
        return experts

    def forecast(self, network_forecast: NetworkForecast, record: I64) -> Forecast:
        """Returns what is forecast; the profile includes this tick.

        Args:
            opinions: of the network.
            record: ascending; series of one record are of one group; (B,).
        """
        heads = [network_forecast.heads[:, head] for head in range(self._config.heads)]
        experts = np.stack([*self._simple.forecasts(), *heads], axis=1)
        combined = combination.combine(self._state.combination, experts, record)
        usual = self._usual_error(self._size(self._tick_context.scale[:, None]))
        zone = self._dead_zone(np.minimum(usual, np.float32(LARGEST_USUAL)))
        if zone is not None:
            settled = np.where(np.abs(combined.point) < zone, np.float32(0.0), combined.point)
            combined = replace(combined, point=settled)
        offsets = conformal.believable(network_forecast.offsets, self._config.levels, self._of_many(usual))
        quantiles = combined.point[:, None] + offsets + self._state.calibration.shift
        values = np.concatenate(
            [combined.point[:, None], quantiles, combined.mix[:, None], network_forecast.heads],
            axis=1,
            dtype=np.float32,
        )
        return Forecast(values, combined, self._simple.usual())

    def _size(self, scale: F32) -> F32:
        """Returns scales in deviations of the series; the shape of the scales, (B, ...)."""
        return np.asarray(np.clip(scale / self._unit, 1.0 / LARGEST_SIZE, LARGEST_SIZE), np.float32)

    def _usual_error(self, size: F32) -> F32:
        """Returns what the best expert is usually wrong by, in scales of these sizes; NaN = not known; (B, J)."""
        best = np.fmin.reduce(self._state.combination.slow, axis=1)
        return np.asarray(np.sqrt(best) / size, np.float32)

    def _of_many(self, usual: F32) -> F32:
        """Returns the usual errors where they are of many truths, else NaN; (B, J)."""
        met = self._state.combination.met[:, combination.LAST, None] - (self._horizons - self._horizons[0])
        return np.where(met < MANY, np.float32(np.nan), usual)

    def _dead_zone(self, usual: F32) -> F32 | None:
        """Returns the smallest change that is forecast, in scales; None where no series often stays; (B, J).

        Most small changes that are forecast of such a series never come: its median change is none at all.
        """
        rows = np.flatnonzero(_share_of_stays(self._tick_context.context, 1) > STAYS)
        if not len(rows):
            return None
        often, some = (
            np.zeros((len(self._tick_context.last), len(self._horizons)), np.float32),
            self._tick_context.context[rows],
        )
        spans = 2 ** np.log2(self._horizons).astype(np.int64)  # looked at are powers of two: shares change slowly
        for span in np.unique(spans).tolist():
            often[np.ix_(rows, spans == span)] = _share_of_stays(some, span)[:, None]
        often = np.clip((often - STAYS) / (STAYS_OFTEN - STAYS), 0.0, 1.0)
        return np.asarray(DEAD_ZONE * often * np.nan_to_num(usual), np.float32)


def _share_of_stays(context: F32, ticks: int) -> F64:
    """Returns what share of the values equal those so many ticks before, by row; 0 where none can be compared."""
    newer, older = context[:, :-ticks], context[:, ticks:]
    known = np.count_nonzero(~np.isnan(newer) & ~np.isnan(older), axis=1)
    return np.asarray(np.count_nonzero(newer == older, axis=1) / np.maximum(known, 1))


def standing(state: ExpertState) -> Combined:
    """Returns weights and gate as if every expert had something to say, and each series were alone."""
    nothing = np.zeros_like(state.combination.slow)
    return combination.combine(state.combination, nothing, np.arange(len(nothing)))
