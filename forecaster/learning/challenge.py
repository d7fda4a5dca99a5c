"""A retraining: a challenger trained on all readings before the promotion split, and the decision on that split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import NetworkConfig
from forecaster.formats.checkpoints import SEEN_UNTIL
from forecaster.learning.data.splits import split_by_time
from forecaster.learning.data.training_data import TrainingData
from forecaster.learning.fitting.network_fit import TrainingConfig, TrainingProgress
from forecaster.learning.fitting.readout_refit import with_refitted_readout
from forecaster.learning.fitting.train import train
from forecaster.learning.promotion import PromotionDecision, evaluate_challenger
from forecaster.pipeline import PipelineConfig


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenger, and the decision about it."""

    challenger: Checkpoint
    decision: PromotionDecision


def challenge(
    data: TrainingData,
    pipeline: PipelineConfig,
    network: NetworkConfig,
    config: TrainingConfig,
    champion: Checkpoint | None,
    progress: Callable[[TrainingProgress], None] = lambda _: None,
) -> Challenge:
    """Train a challenger, and return it with the decision whether it is to serve.

    Args:
        data: all readings up to now.
        pipeline: configuration of the forecasts.
        network: configuration of the network to train.
        config: configuration of the training; `promotion` is the share of the time that decides.
        champion: checkpoint that serves; None = before any training. A champion that forecasts something else counts
            as None.
        progress: function that is called after every update of the weights.

    Raises:
        UsageError: there is nothing to learn from.
    """
    splits = split_by_time(data.history, config.held_out, config.promotion)
    earlier = data.before(splits.promotion_ms)
    challenger = train(earlier, network, config, progress, champion)
    comparable = _comparable_champion(earlier, pipeline, champion)
    decision = evaluate_challenger(pipeline, comparable, challenger, data.history, splits.promotion_ms)
    return Challenge(challenger, decision)


def _comparable_champion(
    earlier: TrainingData, pipeline: PipelineConfig, champion: Checkpoint | None
) -> Checkpoint | None:
    """Return the champion as it is compared: with a readout that has not seen the promotion split.

    Readouts are refitted more often than bodies are trained. A readout that was fitted to the promotion split itself
    would be scored on readings that it has seen.
    """
    if champion is None:
        return None
    network = champion.network
    if (network.horizons, network.quantile_levels) != (pipeline.horizons, pipeline.quantile_levels):
        return None
    if network.features.context != pipeline.observation.context:
        return None
    seen_ms = champion.facts.get(SEEN_UNTIL)
    last_ms = int(earlier.history.timestamp_ms[-1])
    return champion if seen_ms is not None and seen_ms <= last_ms else with_refitted_readout(earlier, champion)
