"""Three stretches of a history, cut by time: to fit on, to stop early on, and the newest to promote on.

The cuts are shares of the time between the first reading and the last, so that one device with a wrong clock would move
them all: what its clock has made of its readings is left out before.

begin ──── fit ──── early_stopping ──── stop early, calibrate ──── promotion ──── champion, challenger ──── end
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import structlog

from forecaster.errors import UsageError
from forecaster.formats.files import SeriesHistory

FEW = 0.05
"""No more than this share of the readings, at either end, is ever left out."""
LONGEST_SILENCE_MS = 60 * 86_400_000
"""No shorter time without any reading says anything about a clock."""
NAMED = 5
"""So many of the series that they are of are named in the log."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TimeSplits:
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


def drop_misdated(history: SeriesHistory) -> SeriesHistory:
    """Returns the history without what few readings of it are stamped far before or far after all others.

    Far: between them and the others there is no reading for longer than the others take, and for longer than any fleet
    is silent. A series that began long before the others, or a fleet that was silent, loses nothing: the one has
    readings all the way, the other has many on either side.
    """
    stamps = history.timestamp_ms
    few = int(FEW * len(stamps))
    if not few:
        return history
    far = max(int(stamps[-few - 1] - stamps[few]), LONGEST_SILENCE_MS)
    early = np.flatnonzero(np.diff(stamps[: few + 1]) > far)
    late = np.flatnonzero(np.diff(stamps[-few - 1 :]) > far)
    begin = int(early[-1]) + 1 if len(early) else 0
    end = len(stamps) - few + int(late[0]) if len(late) else len(stamps)
    if end - begin == len(stamps):
        return history
    kept = history.first(end).since(int(stamps[begin]))
    strange = np.unique(np.concatenate([history.row[:begin], history.row[end:]]))
    _log.warning(
        "readings stamped far from all others are left out of the training: is a clock wrong?",
        readings=len(stamps) - len(kept),
        others=len(kept),
        others_begin_ms=int(stamps[begin]),
        others_end_ms=int(stamps[end - 1]),
        series=[history.series_ids[row] for row in strange[:NAMED].tolist()],
    )
    return kept


def split_by_time(history: SeriesHistory, held_out: float, promotion: float) -> TimeSplits:
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
    return TimeSplits(begin_ms, early_stopping_ms, promotion_ms, end_ms)


def _stamp_from(history: SeriesHistory, time_ms: int) -> int:
    """Returns the first stamp from `time_ms` on: at a reading, so that no neighbour is cut in half."""
    position = int(np.searchsorted(history.timestamp_ms, time_ms, side="left"))
    return int(history.timestamp_ms[position]) if position < len(history) else time_ms
