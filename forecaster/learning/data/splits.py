"""Three splits of a history by time: to fit on, to stop early on, and the newest one to decide on a promotion.

    begin ──── fit ──── early_stopping ──── stop early, calibrate ──── promotion ──── compare with champion ──── end

The cuts are shares of the time between the first and the last reading, so that one device with a wrong clock would move
all of them. `drop_misdated` removes such readings beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import structlog

from forecaster.errors import UsageError
from forecaster.history import SeriesHistory

MISDATED_SHARE = 0.05
"""At most this share of the readings is dropped at either end."""
MAX_SILENCE_MS = 60 * 86_400_000
"""A gap between readings that is shorter than this is no sign of a wrong clock."""
SERIES_LOGGED = 5
"""Largest number of dropped series that a log line names."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TimeSplits:
    """Begins of the splits, epoch ms; each split ends where the next one begins, the last one after `end_ms`.

    Attributes:
        early_stopping_ms: first time whose targets are not fitted.
        promotion_ms: first time whose readings are hidden from training.
        end_ms: time of the last reading.
    """

    early_stopping_ms: int
    promotion_ms: int
    end_ms: int


def drop_misdated(history: SeriesHistory) -> SeriesHistory:
    """Return the history without the few readings whose stamps are far before or far after all others.

    Far means: the gap between them and the others is longer than the time span of the others, and longer than
    `MAX_SILENCE_MS`. A series that began long before the others keeps its readings, since they leave no such gap.
    A fleet that was silent for long keeps them, too, since many of its readings lie on either side of the gap.
    """
    stamps = history.timestamp_ms
    few = int(MISDATED_SHARE * len(stamps))
    if not few:
        return history
    far_ms = max(int(stamps[-few - 1] - stamps[few]), MAX_SILENCE_MS)
    early = np.flatnonzero(np.diff(stamps[: few + 1]) > far_ms)
    late = np.flatnonzero(np.diff(stamps[-few - 1 :]) > far_ms)
    begin = int(early[-1]) + 1 if len(early) else 0
    end = len(stamps) - few + int(late[0]) if len(late) else len(stamps)
    if end - begin == len(stamps):
        return history
    kept = history.first(end).since(int(stamps[begin]))
    dropped = np.unique(np.concatenate([history.series_index[:begin], history.series_index[end:]]))
    _log.warning(
        "misdated_readings_dropped",
        readings=len(stamps) - len(kept),
        readings_kept=len(kept),
        kept_begin_ms=int(stamps[begin]),
        kept_end_ms=int(stamps[end - 1]),
        series=[history.series_ids[row] for row in dropped[:SERIES_LOGGED].tolist()],
    )
    return kept


def split_by_time(history: SeriesHistory, held_out: float, promotion: float) -> TimeSplits:
    """Return the splits of a history.

    Args:
        history: history with at least one reading.
        held_out: share of the time before the promotion split, at its end, for early stopping.
        promotion: share of all the time, at its end, for the promotion split; 0 = it begins after the end, empty.

    Raises:
        UsageError: the history is empty.
    """
    if not len(history):
        raise UsageError("nothing to train on: the history holds no readings")
    begin_ms, end_ms = int(history.timestamp_ms[0]), int(history.timestamp_ms[-1])
    promotion_ms = end_ms + 1
    if promotion > 0.0:
        promotion_ms = _first_stamp_from(history, end_ms - int(promotion * (end_ms - begin_ms)))
    early_stopping_ms = _first_stamp_from(history, promotion_ms - int(held_out * (promotion_ms - begin_ms)))
    return TimeSplits(early_stopping_ms, promotion_ms, end_ms)


def _first_stamp_from(history: SeriesHistory, time_ms: int) -> int:
    """Return the first stamp at or after `time_ms`: a cut at a reading, so that no group of readings is cut in half."""
    position = int(np.searchsorted(history.timestamp_ms, time_ms, side="left"))
    return int(history.timestamp_ms[position]) if position < len(history) else time_ms
