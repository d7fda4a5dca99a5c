"""Records of the scores topic and of the denoised stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from forecaster.core.scoring import score
from forecaster.formats.forecasts import message_of_reading
from forecaster.records import Message, Outputs, Readings, Scores, SourceRecord


def encode_scores(
    scores: Scores, readings: Readings, records: Sequence[SourceRecord], levels: Sequence[float]
) -> Iterator[Message]:
    """Yield a record for each reading whose truth has met a forecast, with the scores of each horizon.

    Args:
        scores: scores of M readings.
        readings: readings that brought the truths.
        records: records that the readings came in.
        levels: quantile levels, ascending; Q.
    """
    scored = score(scores, levels)
    errors, last_errors, losses = (
        np.ascontiguousarray(values)  # the encoder accepts only contiguous rows
        for values in (scored.absolute_error, scored.last_value_error, scored.pinball_loss)
    )
    for row in np.flatnonzero(scored.met.any(axis=1)).tolist():
        body = {
            "truth": scores.truth[row],
            "absolute_error": errors[row],
            "pinball_loss": losses[row],
            "inside": [
                bool(is_inside) if is_met else None
                for is_inside, is_met in zip(scored.in_interval[row], scored.met[row], strict=True)
            ],
            "last_value_error": last_errors[row],
        }
        yield message_of_reading(body, int(scores.reading[row]), readings, records)


def encode_denoised(outputs: Outputs, readings: Readings, records: Sequence[SourceRecord]) -> Iterator[Message]:
    """Yield a record for each reading that is a step of its series, with the network's input.

    Args:
        outputs: results of the readings.
        readings: N readings.
        records: records that the readings came in.
    """
    for reading in outputs.forecasts.reading.tolist():
        body = {
            "value": float(outputs.denoised[reading]),
            "raw": float(readings.values[reading]),
            "masked": bool(outputs.masked[reading]),
        }
        yield message_of_reading(body, reading, readings, records)
