"""The simple forecasts that stand beside the network's, as (forecast - last value) / scale.

    last value       0
    naive            the value of the same phase of the season before the target's; from the context
    mean             the usual value of the target's phase; from the profile
    change           the last value, and what the usual value changes by from this phase to the target's
    level            a slow mean of the series

What an expert had forecast for now is computed anew when the truth comes, from the same numbers: only the level of
then and the usual value of the phase of then wait in the ring.
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
    """Returns the names of all experts: the last value, the other simple ones, the network's heads; E of them."""
    seasonal: list[str] = []
    for length, in_context in zip(seasons.lengths_ms, seasons.in_context, strict=True):
        seasonal += [f"naive {_name(length)}"] if in_context else []
        seasonal += [f"mean {_name(length)}", f"change {_name(length)}"]
    return (LAST_VALUE, *seasonal, "level", *HEADS[:heads])


def _name(length_ms: int) -> str:
    unit, letter = next(one for one in _UNITS if length_ms % one[0] == 0)
    return f"{length_ms // unit}{letter}"


@dataclass(frozen=True, slots=True)
class TickContext:
    """B series at this tick; values are minus the origin.

    Attributes:
        time_ms: event time of the tick; (B,).
        interval_ms: spacing of the grid; (B,).
        context: by tick, newest first; (B, W).
        last: last valid value; (B,).
        scale: one deviation; 0 = nothing has varied yet; (B,).
        level: a slow mean; (B,).
        origin: in the units of the series; (B,).
        value: the denoised input of this tick; NaN where there is none; (B,).
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
        seasons: which are kept.
        horizons: ticks ahead; (J,).
        now: the series.
        profile: B rows; `forecasts` changes it.
    """

    def __init__(self, seasons: Seasons, horizons: I64, now: TickContext, profile: ProfileState) -> None:
        self._horizons, self._tick_context, self._profile = horizons, now, profile
        self._seasons = [Season(seasons, number, now.interval_ms) for number in range(len(seasons.lengths_ms))]
        self._known = [season.known(horizons) for season in self._seasons]
        self._usual = np.empty((len(now.last), len(self._seasons)), np.float32)
        rebase(profile, now.reference)

    def matured(self, matured: Matured) -> list[F32]:
        """Returns what each had forecast for now; NaN where one had nothing to say; each (B, J)."""
        unit = _unit(matured.scale)
        found = [_zeros_like(matured.last)]
        for number, season in enumerate(self._seasons):
            mean = season.mean_at(self._profile, self._tick_context.time_ms)
            means = season.mean_before(mean, self._tick_context.context, self._horizons)
            if season.in_context:
                found.append((self._naive(season, ahead=False) - matured.last) / unit)
            means = np.where(self._known[number], means, np.float32(np.nan))
            found += [(means - matured.last) / unit, (means - matured.usual[:, number]) / unit]
        found.append((matured.level - matured.last) / unit)
        return found

    def forecasts(self) -> list[F32]:
        """Returns what each forecasts from now on, this tick included; each (B, J)."""
        now = self._tick_context
        last, unit = now.last[:, None], _unit(now.scale)[:, None]
        target_ms = now.time_ms[:, None] + self._horizons * now.interval_ms[:, None]
        shape = (len(now.last), len(self._horizons))
        found = [np.zeros(shape, np.float32)]
        for number, season in enumerate(self._seasons):
            season.add(self._profile, now.time_ms, now.value)
            means = np.where(self._known[number], season.mean_at(self._profile, target_ms), np.float32(np.nan))
            usual = season.mean_at(self._profile, now.time_ms)[:, None]
            self._usual[:, number] = usual[:, 0]
            if season.in_context:
                found.append((self._naive(season, ahead=True) - last) / unit)
            found += [(means - last) / unit, (means - usual) / unit]
        found.append(np.broadcast_to((now.level[:, None] - last) / unit, shape))
        return found

    def usual(self) -> F32:
        """Returns the usual value of the phase that each season is in, as `forecasts` took it; NaN = none; (B, S)."""
        return self._usual

    def _naive(self, season: Season, *, ahead: bool) -> F32:
        """Returns the value a whole number of seasons before the target, which is now, or the horizon `ahead`."""
        context = self._tick_context.context
        ticks = season.ticks[:, None]
        back = ticks * -(-self._horizons // np.maximum(ticks, 1))
        usable = (back < context.shape[1]) & (ticks > 1)
        if not usable.any():
            return np.full(usable.shape, np.nan, np.float32)
        place = np.where(usable, back - self._horizons if ahead else back, 0)
        return np.where(usable, np.take_along_axis(context, place, axis=1), np.float32(np.nan))


def _unit(scale: F32) -> F32:
    return np.where(scale > 0, scale, np.float32(np.inf))


def _zeros_like(last: F32) -> F32:
    """Returns zeros where there was a forecast, NaN elsewhere."""
    return np.where(np.isnan(last), last, np.float32(0.0))
