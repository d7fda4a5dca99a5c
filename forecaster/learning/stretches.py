"""Three stretches of a history, cut by time: to fit on, to stop early on, and the newest to promote on.

begin ──── fit ──── early_stopping ──── stop early, calibrate ──── promotion ──── champion, challenger ──── end
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.errors import UsageError
from forecaster.files import History


@dataclass(frozen=True, slots=True)
class Stretches:
    """Where the stretches begin, in epoch ms; each ends where the next one begins, the last after `end_ms`.

    Attributes:
        begin_ms: of the first reading: here begins the fitting.
        early_stopping_ms: targets from here on are not fitted.
        promotion_ms: readings from here on do not exist for training.
        end_ms: of the last reading.
    """

    begin_ms: int
    early_stopping_ms: int
    promotion_ms: int
    end_ms: int


def stretches(history: History, held_out: float, promotion: float) -> Stretches:
    """Returns the cuts of a history.

    Args:
        history: at least one reading.
        held_out: share of the time before the promotion stretch, at its end, that early stopping is judged on.
        promotion: share of all the time, at its end, that promotion is judged on; 0 = none: it begins after the end.

    Raises:
        UsageError: the history is empty.
    """
    if not len(history):
        raise UsageError("nothing to train on: the history holds no readings")
    begin_ms, end_ms = int(history.timestamp_ms[0]), int(history.timestamp_ms[-1])
    promotion_ms = end_ms + 1
    if promotion > 0.0:
        promotion_ms = _stamp_from(history, end_ms - int(promotion * (end_ms - begin_ms)))
    early_stopping_ms = _stamp_from(history, promotion_ms - int(held_out * (promotion_ms - begin_ms)))
    return Stretches(begin_ms, early_stopping_ms, promotion_ms, end_ms)


def _stamp_from(history: History, time_ms: int) -> int:
    """Returns the first stamp from `time_ms` on: at a reading, so that no neighbour is cut in half."""
    position = int(np.searchsorted(history.timestamp_ms, time_ms, side="left"))
    return int(history.timestamp_ms[position]) if position < len(history) else time_ms
