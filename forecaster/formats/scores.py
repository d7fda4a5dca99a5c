"""Records of the scores topic and of the denoised stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from forecaster.core.scoring import score
from forecaster.formats.forecasts import message_of_reading
from forecaster.records import MaturedForecasts, Message, Outputs, Readings, SourceRecord


def encode_scores(
    matured: MaturedForecasts,
    readings: Readings,
    records: Sequence[SourceRecord],
    quantile_levels: Sequence[float],
    input_id: str,
) -> Iterator[Message]:
    """Yield a record for each reading whose truth has met a forecast, with the scores of each horizon.

    Args:
        matured: truths of M readings with the forecasts made for them.
        readings: readings that brought the truths.
        records: records that the readings came in.
        quantile_levels: quantile levels, ascending; Q.
        input_id: short id of the records' topic.
    """
    scores = score(matured, quantile_levels)
    errors, last_errors, losses = (
        np.ascontiguousarray(values)  # the encoder accepts only contiguous rows
        for values in (scores.absolute_error, scores.last_value_error, scores.pinball_loss)
    )
    for row in np.flatnonzero(scores.met.any(axis=1)).tolist():
        body = {
            "truth": matured.truth[row],
            "absolute_error": errors[row],
            "pinball_loss": losses[row],
            "inside": [
                bool(is_inside) if is_met else None
                for is_inside, is_met in zip(scores.in_interval[row], scores.met[row], strict=True)
            ],
            "last_value_error": last_errors[row],
        }
        yield message_of_reading(body, int(matured.reading[row]), readings, records, input_id)


def encode_denoised(
    outputs: Outputs, readings: Readings, records: Sequence[SourceRecord], input_id: str
) -> Iterator[Message]:
    """Yield a record for each reading that is a step of its series, with the network's input.

    Args:
        outputs: results of the readings.
        readings: N readings.
        records: records that the readings came in.
        input_id: short id of the records' topic.
    """
    for reading in outputs.forecasts.reading.tolist():
        body = {
            "value": float(outputs.denoised[reading]),
            "raw": float(readings.values[reading]),
            "masked": bool(outputs.masked[reading]),
        }
        yield message_of_reading(body, reading, readings, records, input_id)
