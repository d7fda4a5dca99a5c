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
    """Yields a record for each reading whose truth has met a forecast: what the forecast of each horizon was worth.

    Args:
        scores: M of them.
        readings: whose truths they are.
        records: where the readings came from.
        levels: of the quantiles.
    """
    scored = score(scores, levels)
    errors, last_errors, losses = (
        np.ascontiguousarray(values)  # the encoder takes rows of no others
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
