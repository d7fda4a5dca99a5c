"""One run of the trainer, in the child process: from the history and the champion to files with the result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import NetworkConfig
from forecaster.errors import ForecasterError
from forecaster.formats.checkpoints import write_checkpoint
from forecaster.history import SeriesHistory
from forecaster.learning.challenge import challenge
from forecaster.learning.data.training_data import TrainingData, build_training_data
from forecaster.learning.fitting.network_fit import TrainingConfig
from forecaster.learning.fitting.readout_refit import ReadoutRefit, refit_readout
from forecaster.learning.kinds import RunKind
from forecaster.pipeline import PipelineConfig

FILE = "result.json"


class RunResult(msgspec.Struct, frozen=True):
    """The result of a run, as its file holds it.

    Attributes:
        checkpoint: id of the challenger, whose folder lies next to the file; empty = no challenger.
        promoted: True if the challenger is to serve.
        challenger_loss: loss on the time span that decides; None = unknown.
        champion_loss: loss on the same time span; None = unknown.
        scored: number of compared forecasts; after a refit, of compared targets.
        reason: explanation for people.
    """

    checkpoint: str
    promoted: bool
    challenger_loss: float | None
    champion_loss: float | None
    scored: int
    reason: str


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Configuration of a run.

    Attributes:
        pipeline: configuration of the forecasts.
        network: configuration of the network to train.
        training: configuration of the training.
    """

    pipeline: PipelineConfig
    network: NetworkConfig
    training: TrainingConfig


def run_training(
    config: RunConfig,
    kind: RunKind,
    read: Callable[[], SeriesHistory],
    champion: Checkpoint | None,
    folder: Path,
) -> None:
    """Do one run, a training or a refit, and write its result and its challenger to the folder.

    Args:
        config: what to train, and how.
        kind: kind of the run.
        read: function that returns the history.
        champion: checkpoint that serves; None = before any training.
        folder: folder for the result; it must not exist.

    Raises:
        UsageError: the history holds nothing to learn from.
    """
    data = build_training_data(read(), config.pipeline.observation, local=config.training.local)
    challenger, result = _train(config, data, champion) if kind == RunKind.TRAINING else _refit(data, champion)
    folder.mkdir(parents=True)
    if challenger is not None:
        write_checkpoint(challenger, folder)
    (folder / FILE).write_bytes(msgspec.json.encode(result))


def read_result(folder: Path) -> RunResult:
    """Return the result that a run has left in the folder.

    Raises:
        ForecasterError: the result is missing, or cannot be read.
    """
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=RunResult)
    except (OSError, msgspec.DecodeError) as error:
        raise ForecasterError(f"{folder / FILE}: the result of the training run cannot be read: {error}") from error


def _train(config: RunConfig, data: TrainingData, champion: Checkpoint | None) -> tuple[Checkpoint, RunResult]:
    outcome = challenge(data, config.pipeline, config.network, config.training, champion)
    decision = outcome.decision
    result = RunResult(
        checkpoint=outcome.challenger.id,
        promoted=decision.promote,
        challenger_loss=_finite(decision.challenger_loss),
        champion_loss=_finite(decision.champion_loss),
        scored=decision.scored,
        reason=decision.reason,
    )
    return outcome.challenger, result


def _refit(data: TrainingData, champion: Checkpoint | None) -> tuple[Checkpoint | None, RunResult]:
    refit = ReadoutRefit(None, "no network serves yet") if champion is None else refit_readout(data, champion)
    result = RunResult(
        checkpoint="" if refit.checkpoint is None else refit.checkpoint.id,
        promoted=refit.checkpoint is not None,
        challenger_loss=_finite(refit.error),
        champion_loss=_finite(refit.champion_error),
        scored=refit.targets,
        reason=refit.reason,
    )
    return refit.checkpoint, result


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
