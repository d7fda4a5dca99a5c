"""The ensemble: the experts' forecasts combined and gated to a point, with intervals around it.

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

RMS_ERROR_CLIP = 4.0
"""RMS errors are clipped to this many scales for the steps of the shifts and for the dead zone, because the first
scales are unreliable. The bound of the offsets uses them unclipped.
"""
MAX_RELATIVE_SCALE = 1e3
"""Scales are clipped to between 1 / this and this many deviations of the series."""
RELIABLE_TRUTHS = 30
"""Truths from which on RMS errors bound the offsets: with fewer, the best of several experts looks too good."""
DEAD_ZONE = 0.3
"""For a series that often stays unchanged, changes smaller than this share of an RMS error are not forecast."""
STAYS, STAYS_OFTEN = 0.2, 0.5
"""Shares of readings equal to the one a horizon before, from which the dead zone starts, and at which it is full."""


@dataclass(frozen=True, slots=True)
class EnsembleConfig:
    """Horizons, quantile levels and experts.

    Attributes:
        horizons: ticks ahead, ascending; J.
        quantile_levels: quantile levels in (0, 1), ascending; Q.
        heads: number of forecasts of the network: 1, or 3 with local readouts; H.
        seasons: seasons that the simple experts know.
    """

    horizons: tuple[int, ...]
    quantile_levels: tuple[float, ...]
    heads: int
    seasons: Seasons

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts; E."""
        return expert_names(self.heads, self.seasons)

    @property
    def network(self) -> int:
        """Index of the network's shared readout among the experts; the local readouts follow."""
        return len(self.experts) - self.heads

    @property
    def kinds(self) -> int:
        """K, the number of kinds of pending forecasts: point, quantiles, mix, heads."""
        return 2 + len(self.quantile_levels) + self.heads

    def nothing_pending(self, n: int) -> PendingState:
        """Return n series without a pending forecast."""
        return PendingState.empty(n, self.horizons, self.kinds, len(self.seasons.lengths_ms))

    @property
    def quantiles(self) -> slice:
        """Indices of the quantiles among the kinds."""
        return slice(1, 1 + len(self.quantile_levels))


@dataclass
class ExpertState:
    """The experts' state of N series, one row a series: seasonal means, losses, gates and shifts of the intervals."""

    profile: ProfileState
    combination: CombinationState
    calibration: CalibrationState

    @classmethod
    def empty(cls, n: int, config: EnsembleConfig) -> ExpertState:
        """Return n series without a forecast."""
        horizons = len(config.horizons)
        return cls(
            ProfileState.empty(n, config.seasons),
            CombinationState.empty(n, len(config.experts), horizons),
            CalibrationState.empty(n, len(config.quantile_levels), horizons),
        )


@dataclass(frozen=True, slots=True)
class NetworkForecast:
    """The network's forecasts, as (forecast - last) / scale.

    Attributes:
        heads: forecast of each readout; NaN where it makes none; (B, H, J).
        offsets: quantiles minus the point; (B, Q, J).
    """

    heads: F32
    offsets: F32


@dataclass(frozen=True, slots=True)
class Forecast:
    """The ensemble's forecasts, as (forecast - last) / scale.

    Attributes:
        values: forecasts of every kind, in the order of the ring; (B, K, J).
        combined: mix, gate and weights that the point was made from.
        phase_mean: mean of each season's current phase, minus the reference; (B, S).
    """

    values: F32
    combined: Combined
    phase_mean: F32


class Ensemble:
    """The experts of B series at one tick: call `learn` with the tick's truth first, then `forecast`.

    Args:
        config: horizons, quantile levels and experts.
        state: B rows, changed in place.
        tick: the series at the current tick.
        unit: a fixed deviation of each series, positive; (B,).
    """

    def __init__(self, config: EnsembleConfig, state: ExpertState, tick: TickContext, unit: F32) -> None:
        self._config, self._state, self._tick, self._unit = config, state, tick, unit[:, None]
        self._quantile_levels = np.array(config.quantile_levels, np.float32)
        self._horizons = np.array(config.horizons, np.int64)
        self._simple = SimpleExperts(config.seasons, self._horizons, tick, state.profile)

    def learn(self, truth: F32, matured: Matured) -> F32:
        """Update losses, gate and intervals by the truths of this tick; a masked truth updates the intervals only.

        Args:
            truth: (truth - last) / scale at the time of the forecast; NaN where there is none; (B, J).
            matured: forecasts made for this tick.

        Returns:
            The forecast of each expert for this tick, in scales from the last value at the time of the forecast;
            (B, E, J).
        """
        config, state = self._config, self._state
        heads = [matured.values[:, kind] for kind in range(config.kinds - config.heads, config.kinds)]
        experts = np.stack([*self._simple.matured(matured), *heads], axis=1)
        if not np.isnan(truth).all():
            mix = matured.values[:, config.kinds - config.heads - 1]
            relative_scale = self._relative_scale(matured.scale)
            rms_error = np.minimum(self._rms_error(relative_scale), np.float32(RMS_ERROR_CLIP))
            conformal.learn(
                state.calibration, self._quantile_levels, truth, matured.values[:, config.quantiles], rms_error
            )
            unmasked = np.where(np.isnan(self._tick.value)[:, None], np.float32(np.nan), truth)
            pairs = MaturedPairs(unmasked, experts, mix, relative_scale)
            combination.learn(state.combination, self._horizons, pairs)
        return experts

    def forecast(self, network_forecast: NetworkForecast, record: I64) -> Forecast:
        """Add this tick to the seasonal means, in place, and return the forecasts.

        Args:
            network_forecast: forecasts of the network.
            record: index of each row's record in the batch, ascending; series of one record belong to one group; (B,).
        """
        heads = [network_forecast.heads[:, head] for head in range(self._config.heads)]
        experts = np.stack([*self._simple.forecasts(), *heads], axis=1)
        combined = combination.combine(self._state.combination, experts, record)
        rms_error = self._rms_error(self._relative_scale(self._tick.scale[:, None]))
        zone = self._dead_zone(np.minimum(rms_error, np.float32(RMS_ERROR_CLIP)))
        if zone is not None:
            point = np.where(np.abs(combined.point) < zone, np.float32(0.0), combined.point)
            combined = replace(combined, point=point)
        offsets = conformal.bounded(network_forecast.offsets, self._config.quantile_levels, self._reliable(rms_error))
        quantiles = combined.point[:, None] + offsets + self._state.calibration.shift
        values = np.concatenate(
            [combined.point[:, None], quantiles, combined.mix[:, None], network_forecast.heads],
            axis=1,
            dtype=np.float32,
        )
        return Forecast(values, combined, self._simple.phase_means())

    def _relative_scale(self, scale: F32) -> F32:
        """Return scales in deviations of the series, clipped; in the shape of the scales, (B, ...)."""
        return np.asarray(np.clip(scale / self._unit, 1.0 / MAX_RELATIVE_SCALE, MAX_RELATIVE_SCALE), np.float32)

    def _rms_error(self, relative_scale: F32) -> F32:
        """Return the root mean square error of the best expert, in scales; NaN = unknown; (B, J)."""
        best = np.fmin.reduce(self._state.combination.slow, axis=1)
        return np.asarray(np.sqrt(best) / relative_scale, np.float32)

    def _reliable(self, rms_error: F32) -> F32:
        """Return the RMS errors that rest on at least RELIABLE_TRUTHS truths, NaN in place of the others; (B, J)."""
        first_count = self._state.combination.truth_count[:, combination.LAST_VALUE_INDEX, None]
        truth_count = first_count - (self._horizons - self._horizons[0])
        return np.where(truth_count < RELIABLE_TRUTHS, np.float32(np.nan), rms_error)

    def _dead_zone(self, rms_error: F32) -> F32 | None:
        """Return the smallest change that is forecast, in scales; (B, J); None if no series often stays unchanged.

        Most of the small changes forecast for such a series do not happen: the median of its changes is zero.
        """
        rows = np.flatnonzero(_share_of_stays(self._tick.context, 1) > STAYS)
        if not len(rows):
            return None
        share = np.zeros((len(self._tick.last), len(self._horizons)), np.float32)
        context = self._tick.context[rows]
        spans = 2 ** np.log2(self._horizons).astype(np.int64)  # the share changes slowly: powers of two are enough
        for span in np.unique(spans).tolist():
            share[np.ix_(rows, spans == span)] = _share_of_stays(context, span)[:, None]
        share = np.clip((share - STAYS) / (STAYS_OFTEN - STAYS), 0.0, 1.0)
        return np.asarray(DEAD_ZONE * share * np.nan_to_num(rms_error), np.float32)


def _share_of_stays(context: F32, ticks: int) -> F64:
    """Return the share of values equal to the value `ticks` before; 0 if none can be compared; (B,)."""
    newer, older = context[:, :-ticks], context[:, ticks:]
    known = np.count_nonzero(~np.isnan(newer) & ~np.isnan(older), axis=1)
    return np.asarray(np.count_nonzero(newer == older, axis=1) / np.maximum(known, 1))


def current_weights(state: ExpertState) -> Combined:
    """Return weights and gate as if every expert made a forecast and each series were alone in its group."""
    nothing = np.zeros_like(state.combination.slow)
    return combination.combine(state.combination, nothing, np.arange(len(nothing)))
