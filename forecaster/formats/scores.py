"""Records of the scores topic and of the denoised stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from forecaster.core.metrics import in_interval, pinball_loss
from forecaster.formats.forecasts import message_of_reading
from forecaster.records import Message, Outputs, Readings, Scores, SourceRecord


def encode_scores(
    scores: Scores, readings: Readings, records: Sequence[SourceRecord], levels: Sequence[float]
) -> Iterator[Message]:
    """Yields a record for each reading whose truth has met a forecast: what the forecast of each horizon was worth.

    Args:
        scores: M of them.
        readings: whose truths they are.
        records: where the readings came from.
        levels: of the quantiles.
    """
    truth = np.broadcast_to(scores.truth[:, None], scores.point.shape)
    met = ~np.isnan(truth) & ~np.isnan(scores.point)
    within = in_interval(truth, scores.quantiles[:, 0], scores.quantiles[:, -1])
    errors = np.ascontiguousarray(np.abs(truth - scores.point))
    last_errors = np.ascontiguousarray(np.abs(truth - scores.last_value))
    losses = np.ascontiguousarray(pinball_loss(scores.quantiles, truth, np.array(levels)).mean(axis=1))
    for row in np.flatnonzero(met.any(axis=1)).tolist():
        body = {
            "truth": scores.truth[row],
            "absolute_error": errors[row],
            "pinball_loss": losses[row],
            "inside": [bool(one) if known else None for one, known in zip(within[row], met[row], strict=True)],
            "last_value_error": last_errors[row],
        }
        yield message_of_reading(body, int(scores.reading[row]), readings, records)


def encode_denoised(outputs: Outputs, readings: Readings, records: Sequence[SourceRecord]) -> Iterator[Message]:
    """Yields a record for each reading that is a step of its series: what the network sees of it.

    Args:
        outputs: of the readings.
        readings: N of them.
        records: where they came from.
    """
    for reading in outputs.forecasts.reading.tolist():
        body = {
            "value": float(outputs.denoised[reading]),
            "raw": float(readings.values[reading]),
            "masked": bool(outputs.masked[reading]),
        }
        yield message_of_reading(body, reading, readings, records)
