"""Network overflows: forecasts that are made without the network because its output was not finite."""

from __future__ import annotations

from collections import Counter

import numpy as np
import structlog

from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.pipeline import Batch, Models
from forecaster.records import Forecasts

_log = structlog.get_logger()


def count_network_overflows(counts: Counter[str], models: Models, batch: Batch, forecasts: Forecasts) -> None:
    """Add the forecasts that the network of each checkpoint could not make; log the first of each checkpoint.

    Such a forecast is made without the network and names no checkpoint; a replay makes it in the same way.

    Args:
        counts: number of such forecasts so far, by checkpoint.
        models: the models of the batch.
        batch: the readings, with their rows and models.
        forecasts: forecasts made at the readings.
    """
    names = np.array([NO_CHECKPOINT if model is None else model.id for model in models], object)
    planned = names[batch.model[forecasts.reading]]
    without = (planned != forecasts.checkpoint) & (batch.row[forecasts.reading] >= 0)
    for checkpoint, count in Counter(planned[without].tolist()).items():
        if checkpoint not in counts:
            _log.error("network_overflowed", checkpoint=checkpoint, forecasts_without_network=count)
        counts[checkpoint] += count
