"""The simple experts, which forecast in addition to the network; forecasts are (forecast - last value) / scale.

    last value       0
    naive            value at the target's phase in the previous season, from the context
    mean             mean of the target's phase, from the profile
    change           last value + difference of the means of the target's and the current phase
    level            slow mean of the series

The forecasts of an expert are not stored but recomputed when the truth comes, from the same numbers: only the level and
the mean of the phase at the time of the forecast wait in the ring.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.core.ensemble.pending import Matured
from forecaster.core.ensemble.seasonal import ProfileState, Season, Seasons, rebase
from forecaster.records import F32, F64, I64

LAST_VALUE = "last value"
HEADS = ("network", "network, pooled", "network, cross")
_UNITS = ((7 * 86_400_000, "w"), (86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms"))


def expert_names(heads: int, seasons: Seasons) -> tuple[str, ...]:
    """Return the names of all experts: the last value, the other simple experts, the network's heads; E."""
    seasonal: list[str] = []
    for length, in_context in zip(seasons.lengths_ms, seasons.in_context, strict=True):
        seasonal += [f"naive {_name(length)}"] if in_context else []
        seasonal += [f"mean {_name(length)}", f"change {_name(length)}"]
    return (LAST_VALUE, *seasonal, "level", *HEADS[:heads])


def _name(length_ms: int) -> str:
    unit, letter = next(pair for pair in _UNITS if length_ms % pair[0] == 0)
    return f"{length_ms // unit}{letter}"


@dataclass(frozen=True, slots=True)
class TickContext:
    """B series at the current tick; values are in units of the series, minus the reference.

    Attributes:
        time_ms: event time of the tick; (B,).
        interval_ms: spacing of the grid; (B,).
        context: denoised inputs by tick, newest first; NaN where there was none; (B, W).
        last: last valid value; (B,).
        scale: one deviation; 0 = the series has not varied yet; (B,).
        level: slow mean; (B,).
        reference: value that is subtracted from the others; (B,).
        value: denoised input of this tick; NaN where there is none; (B,).
    """

    time_ms: I64
    interval_ms: I64
    context: F32
    last: F32
    scale: F32
    level: F32
    reference: F64
    value: F64


class SimpleExperts:
    """The simple experts of B series at one tick.

    Args:
        seasons: the seasons that the experts know.
        horizons: ticks ahead; (J,).
        tick: the series at the current tick.
        profile: B rows, changed in place by `forecasts`.
    """

    def __init__(self, seasons: Seasons, horizons: I64, tick: TickContext, profile: ProfileState) -> None:
        self._horizons, self._tick, self._profile = horizons, tick, profile
        self._seasons = [Season(seasons, index, tick.interval_ms) for index in range(len(seasons.lengths_ms))]
        self._known = [season.known(horizons) for season in self._seasons]
        self._phase_means = np.empty((len(tick.last), len(self._seasons)), np.float32)
        rebase(profile, tick.reference)

    def matured(self, matured: Matured) -> list[F32]:
        """Return the forecasts of each expert for the current tick; NaN where it made none; each (B, J)."""
        unit = _unit(matured.scale)
        forecasts = [_last_value_forecasts(matured.last)]
        for index, season in enumerate(self._seasons):
            mean = season.mean_at(self._profile, self._tick.time_ms)
            means = season.mean_before(mean, self._tick.context, self._horizons)
            if season.in_context:
                forecasts.append((self._naive(season, ahead=False) - matured.last) / unit)
            means = np.where(self._known[index], means, np.float32(np.nan))
            forecasts += [(means - matured.last) / unit, (means - matured.phase_mean[:, index]) / unit]
        forecasts.append((matured.level - matured.last) / unit)
        return forecasts

    def forecasts(self) -> list[F32]:
        """Add the current tick to the profile, in place, and return the forecasts of each expert; each (B, J)."""
        tick = self._tick
        last, unit = tick.last[:, None], _unit(tick.scale)[:, None]
        target_ms = tick.time_ms[:, None] + self._horizons * tick.interval_ms[:, None]
        shape = (len(tick.last), len(self._horizons))
        forecasts = [np.zeros(shape, np.float32)]
        for index, season in enumerate(self._seasons):
            season.add(self._profile, tick.time_ms, tick.value)
            means = np.where(self._known[index], season.mean_at(self._profile, target_ms), np.float32(np.nan))
            current = season.mean_at(self._profile, tick.time_ms)[:, None]
            self._phase_means[:, index] = current[:, 0]
            if season.in_context:
                forecasts.append((self._naive(season, ahead=True) - last) / unit)
            forecasts += [(means - last) / unit, (means - current) / unit]
        forecasts.append(np.broadcast_to((tick.level[:, None] - last) / unit, shape))
        return forecasts

    def phase_means(self) -> F32:
        """Return the mean of each season's current phase, as used by `forecasts`; NaN = unknown; (B, S)."""
        return self._phase_means

    def _naive(self, season: Season, *, ahead: bool) -> F32:
        """Return the value a whole number of seasons before the target; NaN = unknown; (B, J).

        Args:
            season: the season.
            ahead: True: forecast the ticks `horizons` ahead. False: repeat the forecasts that were made `horizons`
                ticks ago for the current tick.
        """
        context = self._tick.context
        ticks = season.ticks[:, None]
        back = ticks * -(-self._horizons // np.maximum(ticks, 1))
        usable = (back < context.shape[1]) & (ticks > 1)
        if not usable.any():
            return np.full(usable.shape, np.nan, np.float32)
        place = np.where(usable, back - self._horizons if ahead else back, 0)
        return np.where(usable, np.take_along_axis(context, place, axis=1), np.float32(np.nan))


def _unit(scale: F32) -> F32:
    return np.where(scale > 0, scale, np.float32(np.inf))


def _last_value_forecasts(last: F32) -> F32:
    """Return zeros where a forecast was made, NaN elsewhere."""
    return np.where(np.isnan(last), last, np.float32(0.0))
