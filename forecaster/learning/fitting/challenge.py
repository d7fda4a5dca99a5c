"""One retraining: a challenger from all that lies before the promotion stretch, and the verdict on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import NetworkConfig
from forecaster.learning.data.splits import split_by_time
from forecaster.learning.fitting.network_fit import Progress, TrainingConfig
from forecaster.learning.fitting.readout_refit import resolved
from forecaster.learning.fitting.train import SEEN_UNTIL, TrainingData, train
from forecaster.learning.promotion import PromotionDecision, evaluate_challenger
from forecaster.pipeline import PipelineConfig


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenger and the verdict on it."""

    challenger: Checkpoint
    verdict: PromotionDecision


def challenge(
    data: TrainingData,
    pipeline: PipelineConfig,
    network: NetworkConfig,
    config: TrainingConfig,
    champion: Checkpoint | None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Challenge:
    """Returns a challenger and whether it is to serve.

    Args:
        lessons: all that is known.
        pipeline: what is forecast, from what.
        network: what the challenger looks like.
        config: how it is trained; `promotion` is the share of the time that decides.
        champion: what serves; None = before any training. One that forecasts something else counts as none.
        progress: is told after every update.

    Raises:
        UsageError: there is nothing to learn from.
    """
    cuts = split_by_time(data.history, config.held_out, config.promotion)
    known = data.before(cuts.promotion_ms)
    challenger = train(known, network, config, progress, champion)
    defender = _defender(known, pipeline, champion)
    return Challenge(challenger, evaluate_challenger(pipeline, defender, challenger, data.history, cuts.promotion_ms))


def _defender(known: TrainingData, pipeline: PipelineConfig, champion: Checkpoint | None) -> Checkpoint | None:
    """Returns the champion as it is judged: with a readout that has not seen the promotion stretch.

    A readout is solved again more often than a body is trained; solved from the very stretch that decides, it would be
    judged by what it knows by heart.
    """
    if champion is None:
        return None
    network = champion.network
    if (network.horizons, network.quantile_levels) != (pipeline.horizons, pipeline.quantile_levels):
        return None
    if network.features.context != pipeline.observation.context:
        return None
    seen_ms = champion.facts.get(SEEN_UNTIL)
    last_ms = int(known.history.timestamp_ms[-1])
    return champion if seen_ms is not None and seen_ms <= last_ms else resolved(known, champion)
