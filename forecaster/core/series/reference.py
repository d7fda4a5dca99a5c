"""The reference of a row: a value near the present ones, from which they are counted so that 32 bits are enough.

    (1) |x - reference| > FAR_SCALES min(scale, |x|)
    (2) |x - last| <= |x - reference| / 2

The reference moves to the value x where (1) and (2) hold: two values in a row are far from it and near each other. One
spike does not move it, because the values around the old reference would lose their digits. Among the first readings,
before the scale is reliable, the minimum in (1) includes |x - last|, and where x is larger than the reference, more
than two thirds of the values must be near x.

The reference also moves to the second value of a series if the first is zero, or if counting the second from the first
keeps no more digits than counting it from zero.
"""

from __future__ import annotations

import numpy as np

from forecaster.core.series.state import InputState
from forecaster.records import F32, F64, Bools

FAR_SCALES = 256.0
"""Distances are stored with a relative error of 2**-24: up to this many scales, an error of 2**-16 scales."""
FIRST_READINGS = 16
"""Number of first valid readings of a series during which its reference may move more easily."""


def move_reference(part: InputState, values: F64) -> Bools:
    """Move the references near the values, in place, and count last value and context from them.

    Args:
        part: B rows, changed in place: the scaler includes the values, the other fields do not yet.
        values: denoised inputs; NaN where there is none; (B,).

    Returns:
        Whether the reference of each row changed; (B,).
    """
    count, distance = part.scaler.count, values - part.reference
    far, step = np.abs(distance), np.abs(distance - part.last)
    unit = np.minimum(part.scaler.scale(), np.abs(values))
    unit = np.where(count <= FIRST_READINGS, np.minimum(unit, step), unit)
    has_new_reference: Bools = (far > FAR_SCALES * unit) & (2.0 * step <= far)
    young = np.flatnonzero(has_new_reference & (count <= FIRST_READINGS) & (np.abs(values) > np.abs(part.reference)))
    if len(young):
        has_new_reference[young] = _mostly_near(part.context[young], distance[young])
    has_new_reference |= (count == 2) & _no_better(part.reference, values)
    rows = np.flatnonzero(has_new_reference)
    if len(rows):
        part.context[rows] = part.context[rows] - distance[rows, None]
        part.last[rows] = part.last[rows] - distance[rows]
        part.reference[rows] = values[rows]
    return has_new_reference


def _mostly_near(context: F32, distance: F64) -> Bools:
    """Return whether more than two thirds of the values, the new one included, are near the new one; (B,)."""
    near = np.count_nonzero(np.abs(context - distance[:, None]) < np.abs(distance[:, None]) / 2.0, axis=1) + 1
    most: Bools = 3 * near > 2 * (np.count_nonzero(~np.isnan(context), axis=1) + 1)
    return most


def _no_better(first: F64, second: F64) -> Bools:
    """Return whether counting the second value from the first keeps no more digits than counting it from zero; (B,)."""
    opposite = np.sign(first) * np.sign(second) <= 0
    no_better: Bools = np.where(opposite, np.abs(second) <= np.abs(first), np.abs(first) >= 2.0 * np.abs(second))
    no_better |= first == 0
    return no_better
