"""The first readings of a series: one that is nothing like the others must not rule its scale for months.

Once there are enough of them, at most a few may be outlandish: more than FAR robust deviations from their median. A row
that has such ones begins anew from the others, as if those had never come.
"""

from __future__ import annotations

import numpy as np

from forecaster.core.arrays import put, take
from forecaster.core.series import scaling
from forecaster.core.series.denoising import MAD_TO_DEVIATION, DenoiseConfig, DenoiseState, denoise
from forecaster.core.series.reference import FAR, FIRST_READINGS
from forecaster.core.series.scaling import ScalerState
from forecaster.core.series.state import InputState
from forecaster.records import F32, F64, Bools

LEAST_READINGS = 8
"""Fewer say too little about what is outlandish."""
MOST_OUTLANDISH = 3
"""More are no accident."""


def relearn_without_initial_outliers(config: DenoiseConfig, part: InputState, values: F64) -> Bools:
    """Outlandish first readings are not in the rows any more; returns which rows had some; (B,).

    A row is looked at once, with its FIRST_READINGS-th valid reading, or as soon as they fill a shorter context.

    Args:
        config: the chain of filters.
        part: B rows with the values in them; changed in place.
        values: denoised inputs; NaN where there is none; (B,).
    """
    anew = np.zeros(len(values), np.bool_)
    first = min(FIRST_READINGS, part.context.shape[1])
    rows = np.flatnonzero((part.scaler.count == first) & ~np.isnan(values))
    if not len(rows) or first < LEAST_READINGS:
        return anew
    outlandish = _outlandish(part.context[rows], part.reference[rows])
    some = outlandish.any(axis=1) & ~outlandish[:, 0]
    if some.any():
        rows = rows[some]
        mine = take(part, rows)
        mine.context[outlandish[some]] = np.nan
        _learn_again(config, mine)
        put(part, rows, mine)
        anew[rows] = True
    return anew


def _outlandish(context: F32, reference: F64) -> Bools:
    """Returns which values are nothing like the others of their row; nowhere where too many are, or few are known.

    Where more than half of a row is equal, the size of its values stands in for their deviation.
    """
    centre = np.nanmedian(context, axis=1)
    distance = np.abs(context - centre[:, None]).astype(np.float64)
    deviation = MAD_TO_DEVIATION * np.nanmedian(distance, axis=1)
    unit = np.where(deviation > 0, deviation, np.abs(reference + centre))[:, None]
    found: Bools = (distance > FAR * unit) & (unit > 0)
    known = np.count_nonzero(~np.isnan(context), axis=1)
    found[(known < LEAST_READINGS) | (np.count_nonzero(found, axis=1) > MOST_OUTLANDISH)] = False
    return found


def _learn_again(config: DenoiseConfig, part: InputState) -> None:
    """Filters and scaler are what the context alone makes of them."""
    part.scaler, part.denoise = ScalerState.empty(len(part.reference)), DenoiseState.empty(len(part.reference), config)
    for column in reversed(range(part.context.shape[1])):
        values = part.context[:, column] + part.reference
        if not np.isnan(values).all():
            part.denoise, inputs, _ = denoise(config, part.denoise, values)
            scaling.update(part.scaler, inputs)
