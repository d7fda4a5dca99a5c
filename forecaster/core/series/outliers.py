"""Outliers among the first readings of a series: they must not dominate its scale for months.

An initial outlier is farther than OUTLIER_DEVIATIONS robust deviations from the median of the first readings.
A row with at most a few of them is learned again from its other first readings.
"""

from __future__ import annotations

import numpy as np

from forecaster.core.arrays import put, take
from forecaster.core.series import scaling
from forecaster.core.series.denoising import MAD_TO_DEVIATION, DenoiseConfig, DenoiseState, denoise
from forecaster.core.series.reference import FAR_SCALES, FIRST_READINGS
from forecaster.core.series.scaling import ScalerState
from forecaster.core.series.state import InputState
from forecaster.records import F32, F64, Bools

OUTLIER_DEVIATIONS = FAR_SCALES
"""Robust deviations from the median that make an outlier: beyond them the reference would move, too."""
MIN_READINGS = 8
"""Number of readings below which nothing counts as an outlier."""
MAX_OUTLIERS = 3
"""Largest number of outliers that are removed: more of them are no accident, and stay."""


def relearn_without_initial_outliers(config: DenoiseConfig, part: InputState, values: F64) -> Bools:
    """Remove outliers among the first readings from the rows, in place, and return the rows that had some.

    A row is examined once, at its FIRST_READINGS-th valid reading, or as soon as the readings fill a shorter context.

    Args:
        config: the chain of filters.
        part: B rows that include the values, changed in place.
        values: denoised inputs; NaN where there is none; (B,).

    Returns:
        Rows that were learned again; (B,).
    """
    outliers_removed = np.zeros(len(values), np.bool_)
    first = min(FIRST_READINGS, part.context.shape[1])
    rows = np.flatnonzero((part.scaler.count == first) & ~np.isnan(values))
    if not len(rows) or first < MIN_READINGS:
        return outliers_removed
    outliers = _outliers(part.context[rows], part.reference[rows])
    affected = outliers.any(axis=1) & ~outliers[:, 0]
    if affected.any():
        rows = rows[affected]
        copy = take(part, rows)
        copy.context[outliers[affected]] = np.nan
        _learn_from_context(config, copy)
        put(part, rows, copy)
        outliers_removed[rows] = True
    return outliers_removed


def _outliers(context: F32, reference: F64) -> Bools:
    """Return the outliers of each row; (B, W); none if there are too many, or too few values are known.

    If more than half of a row is equal, the size of its values stands in for their deviation.
    """
    centre = np.nanmedian(context, axis=1)
    distance = np.abs(context - centre[:, None]).astype(np.float64)
    deviation = MAD_TO_DEVIATION * np.nanmedian(distance, axis=1)
    unit = np.where(deviation > 0, deviation, np.abs(reference + centre))[:, None]
    outliers: Bools = (distance > OUTLIER_DEVIATIONS * unit) & (unit > 0)
    known = np.count_nonzero(~np.isnan(context), axis=1)
    outliers[(known < MIN_READINGS) | (np.count_nonzero(outliers, axis=1) > MAX_OUTLIERS)] = False
    return outliers


def _learn_from_context(config: DenoiseConfig, part: InputState) -> None:
    """Rebuild the states of filters and scaler from the context alone, in place."""
    part.scaler, part.denoise = ScalerState.empty(len(part.reference)), DenoiseState.empty(len(part.reference), config)
    for column in reversed(range(part.context.shape[1])):
        values = part.context[:, column] + part.reference
        if not np.isnan(values).all():
            part.denoise, inputs, _ = denoise(config, part.denoise, values)
            scaling.update(part.scaler, inputs)
