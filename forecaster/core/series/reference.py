"""What a row's values are counted from: so near the present that 32 bits hold the digits that matter.

    (1) |x - origin| > FAR min(scale, |x|); of the first readings, which say little of the scale, min(|x - last|, ...)
    (2) |x - last| <= |x - origin| / 2

The origin moves to the value x where (1) and (2) hold: two values in a row are far away, and near each other. One spike
does not move it, for what is counted from there would lose its own digits; of the first readings more than two thirds
must be near x where it is larger than the origin. It also moves to the second value of a series where the first is
zero, or where the second is no larger than the first, which may be anything, and zero no farther from it.
"""

from __future__ import annotations

import numpy as np

from forecaster.core.series.state import InputState
from forecaster.records import F32, F64, Bools

FAR = 256.0
"""What is stored is exact to a share of 2**-24 of its distance: to 2**-16 scales within so many of them."""
FIRST_READINGS = 16


def follow(part: InputState, values: F64) -> Bools:
    """The origins are near the values, and last value and context are counted from them; returns which moved; (B,).

    Args:
        part: B rows, the scaler with the values in it, the rest as it was before them; changed in place.
        values: denoised inputs; NaN where there is none; (B,).
    """
    count, distance = part.scaler.count, values - part.reference
    far, step = np.abs(distance), np.abs(distance - part.last)
    unit = np.minimum(part.scaler.scale(), np.abs(values))
    unit = np.where(count <= FIRST_READINGS, np.minimum(unit, step), unit)
    moved: Bools = (far > FAR * unit) & (2.0 * step <= far)
    young = np.flatnonzero(moved & (count <= FIRST_READINGS) & (np.abs(values) > np.abs(part.reference)))
    if len(young):
        moved[young] = _mostly_near(part.context[young], distance[young])
    moved |= (count == 2) & _no_better(part.reference, values)
    rows = np.flatnonzero(moved)
    if len(rows):
        part.context[rows] = part.context[rows] - distance[rows, None]
        part.last[rows] = part.last[rows] - distance[rows]
        part.reference[rows] = values[rows]
    return moved


def _mostly_near(context: F32, distance: F64) -> Bools:
    """Returns whether more than two thirds of the values, the new one among them, are near that one."""
    near = np.count_nonzero(np.abs(context - distance[:, None]) < np.abs(distance[:, None]) / 2.0, axis=1) + 1
    most: Bools = 3 * near > 2 * (np.count_nonzero(~np.isnan(context), axis=1) + 1)
    return most


def _no_better(first: F64, second: F64) -> Bools:
    """Returns where to count the second value from the first is no better than from zero, and not to be held back."""
    opposite = np.sign(first) * np.sign(second) <= 0
    found: Bools = np.where(opposite, np.abs(second) <= np.abs(first), np.abs(first) >= 2.0 * np.abs(second))
    found |= first == 0
    return found
