"""Training of a network on sequences: the body by truncated BPTT, then the readout by an exact solution."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from forecaster.core.network.local_readouts import LocalReadouts
from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import Dropout, Network, NetworkConfig
from forecaster.core.network.tbptt import losses, unroll
from forecaster.errors import UsageError
from forecaster.learning.data.augmentation import AugmentationConfig, augment
from forecaster.learning.data.batches import PaddedBatch, padded_batches
from forecaster.learning.data.groups import SeriesGroups
from forecaster.learning.data.sequences import TrainingSequence
from forecaster.learning.fitting.local_readout_fit import solve_local_readouts
from forecaster.learning.fitting.readout_fit import build_normal_equations, calibrate_quantiles, choose_ridge

WARM_PASSES = 4
"""Largest number of passes, and of passes without progress, of a warm start."""
WARM_LEARNING_RATE = 3e-4
"""Largest learning rate of a warm start."""
EMA = 0.99
"""Decay of the exponential moving average of the weights, which is what serves."""
WARM_UP_CHUNKS = 4
"""Chunks before the early-stopping split whose hidden states are carried into it."""


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Configuration of the training of a body.

    Attributes:
        tbptt_steps: number of steps in a chunk, which gradients do not leave.
        passes: largest number of passes over the fitting split.
        patience: number of passes without a better early-stopping loss that end the training.
        learning_rate: learning rate at the beginning; it falls along a cosine.
        last_learning_rate: learning rate at the end.
        dropout: dropout rate on the inputs of the body.
        dropout_recurrent: dropout rate on the hidden vector where it enters the gates.
        dropout_head: dropout rate in front of z.
        l1: weight of the sum of absolute weights in the loss.
        l2: AdamW's decoupled weight decay.
        clip_norm: largest norm of the gradients; longer ones are shortened to it.
        held_out: share of the training time, at its end, for early stopping and the calibration of quantiles.
        promotion: share of all the time, at its end, that decides on a promotion.
        batch: largest number of sequences in a batch.
        seed: seed of weights, dropout and augmentation.
        augmentation: disturbances of the inputs.
        local: True to fit local readouts, if there are not too many series.
    """

    tbptt_steps: int = 48
    passes: int = 20
    patience: int = 6
    learning_rate: float = 2e-3
    last_learning_rate: float = 2e-5
    dropout: float = 0.5
    dropout_recurrent: float = 0.0
    dropout_head: float = 0.0
    l1: float = 0.0
    l2: float = 0.1
    clip_norm: float = 1.0
    held_out: float = 0.15
    promotion: float = 0.1
    batch: int = 256
    seed: int = 0
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    local: bool = True

    def for_warm_start(self) -> TrainingConfig:
        """Return the configuration for a body that was trained before: few passes, and a low learning rate."""
        return replace(
            self,
            passes=min(self.passes, WARM_PASSES),
            patience=min(self.patience, WARM_PASSES),
            learning_rate=min(self.learning_rate, WARM_LEARNING_RATE),
        )


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Progress of a training.

    Attributes:
        done: number of chunks so far.
        total: number of chunks in all passes.
        loss: early-stopping loss of the last pass; NaN before the first one ends.
    """

    done: int
    total: int
    loss: float


@dataclass(frozen=True, slots=True)
class FittedNetwork:
    """Result of a training.

    Attributes:
        weights: weights of the body, by name.
        readout: weights of the readout; (P + Z, J).
        local: readouts of single series; None = there are none.
        losses: early-stopping loss of each pass.
        best_pass: number of the pass that the weights are from; the first one is 0.
        warm_start: True if training began with the weights of the champion.
    """

    weights: dict[str, Tensor]
    readout: Tensor
    local: LocalReadouts | None
    losses: list[float]
    best_pass: int
    warm_start: bool


class NetworkFit:
    """Trains one network on one set of sequences.

    Args:
        network: configuration of the body.
        config: configuration of the training.
        sequences: training sequences, the longest first.
        early_stopping_ms: first time whose targets are not fitted, epoch ms.
        champion: checkpoint to start from, if its network is the same: training is then brief.
        groups: groups of the series that get local readouts; None = no series gets one.

    Raises:
        UsageError: the sequences hold nothing to learn from.
    """

    def __init__(
        self,
        network: NetworkConfig,
        config: TrainingConfig,
        sequences: Sequence[TrainingSequence],
        early_stopping_ms: int,
        champion: Checkpoint | None = None,
        groups: SeriesGroups | None = None,
    ) -> None:
        self._groups = groups
        if not sequences:
            raise UsageError("nothing to train on: no series has two readings in a row")
        self._warm_start = champion is not None and champion.network == network
        self._config = config.for_warm_start() if self._warm_start else config
        self._dropout_random = torch.Generator().manual_seed(config.seed)
        self._disturbance_random = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._network = Network(network)
        self._readout = nn.Parameter(torch.zeros(network.readout_size, len(network.horizons)))
        if champion is not None and self._warm_start:
            self._start_from(champion)
        self._levels = torch.tensor(network.quantile_levels)
        self._batches = padded_batches(sequences, network, config.batch)
        self._split_ms = early_stopping_ms
        if not self._has_targets():
            raise UsageError("nothing to train on: no reading has a later one within the horizons")
        self._chunks = sum(len(self._fitting_chunks(batch)) for batch in self._batches)

    def fit(self, progress: Callable[[TrainingProgress], None] = lambda _: None) -> FittedNetwork:
        """Train, and return the weights of the best pass, with a fitted readout and calibrated quantiles."""
        config = self._config
        trained = _NetworkAndReadout(self._network, self._readout)
        average = _WeightAverage(trained)
        pass_losses: list[float] = []
        best, best_pass = _weights(average.modules.network), 0
        total = config.passes * self._chunks
        for done in self.updates():
            average.update(trained)
            progress(TrainingProgress(done, total, pass_losses[-1] if pass_losses else math.nan))
            if done % self._chunks:
                continue
            number = len(pass_losses)
            pass_losses.append(self._held_out_loss(average.modules))
            if pass_losses[-1] <= min(pass_losses):
                best, best_pass = _weights(average.modules.network), number
            elif number - best_pass >= config.patience:
                break
        self._network.load_state_dict(best)
        readout = self._fit_readout()
        local = solve_local_readouts(self._network, self._batches, self._groups, self._split_ms, config.tbptt_steps)
        return FittedNetwork(_weights(self._network), readout, local, pass_losses, best_pass, self._warm_start)

    def updates(self) -> Iterator[int]:
        """Yield the number of chunks so far after every update of the weights, pass after pass."""
        config, done = self._config, 0
        parameters = [*self._network.parameters(), self._readout]
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.l2, fused=True)
        dropout = Dropout(self._dropout_random, config.dropout, config.dropout_recurrent, config.dropout_head)
        for _ in range(config.passes):
            for clean in self._batches:
                batch = augment(config.augmentation, clean, self._disturbance_random)
                state = torch.zeros(len(batch), self._network.state_size)
                for begin in self._fitting_chunks(batch):
                    end = begin + config.tbptt_steps
                    chunk = batch.chunk(begin, end)
                    self._set_rate(optimizer, done / (config.passes * self._chunks))
                    target = torch.where(batch.target_ms(begin, end) < self._split_ms, chunk.target, torch.nan)
                    unrolled = unroll(self._network, self._readout, chunk, state, dropout)
                    state = unrolled.state
                    loss = losses(self._network, unrolled, target, self._levels) + self._l1()
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    nn.utils.clip_grad_norm_(parameters, config.clip_norm)
                    optimizer.step()
                    done += 1
                    yield done

    def _fitting_chunks(self, batch: PaddedBatch) -> range:
        """Return the first steps of the chunks, up to the last chunk with a step of the fitting split."""
        early = (batch.is_step(0, batch.steps) & (batch.time_ms < self._split_ms)).any(dim=1).nonzero()
        return range(0, int(early[-1]) + 1 if len(early) else 0, self._config.tbptt_steps)

    def _start_from(self, champion: Checkpoint) -> None:
        """Copy the champion's weights and readout, but not its calibration, which belongs to its own errors."""
        self._network.load_state_dict(dict(champion.weights))
        with torch.no_grad():
            self._network.quantiles.calibration.zero_()
            self._readout.copy_(champion.readout)

    def _set_rate(self, optimizer: torch.optim.Optimizer, share: float) -> None:
        """Set the learning rate after this share of the updates: cosine annealing (Loshchilov and Hutter, 2017)."""
        high, low = self._config.learning_rate, self._config.last_learning_rate
        for group in optimizer.param_groups:
            group["lr"] = low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * share))

    def _l1(self) -> Tensor | float:
        if self._config.l1 == 0.0:
            return 0.0
        return self._config.l1 * torch.stack([weight.abs().sum() for weight in self._network.parameters()]).sum()

    @torch.no_grad()
    def _held_out_loss(self, modules: _NetworkAndReadout) -> float:
        """Return the loss on the early-stopping split, hidden states carried into it; infinite if it is empty."""
        total, count = 0.0, 0
        for batch in self._batches:
            state = torch.zeros(len(batch), self._network.state_size)
            for begin in self._held_out_chunks(batch):
                end = begin + self._config.tbptt_steps
                chunk = batch.chunk(begin, end)
                unrolled = unroll(modules.network, modules.readout, chunk, state)
                state = unrolled.state
                held_out = batch.time_ms[begin:end].unsqueeze(-1) >= self._split_ms
                target = torch.where(held_out, chunk.target, torch.nan)
                targets = int((~torch.isnan(target)).sum())
                total += targets * float(losses(modules.network, unrolled, target, self._levels))
                count += targets
        return total / count if count else math.inf

    def _held_out_chunks(self, batch: PaddedBatch) -> range:
        """Return the first steps of the chunks, beginning with the warm-up before the early-stopping split."""
        late = (batch.time_ms >= self._split_ms).any(dim=1).nonzero()
        steps = self._config.tbptt_steps
        first = max(0, int(late[0]) // steps - WARM_UP_CHUNKS) if len(late) else math.ceil(batch.steps / steps)
        return range(first * steps, batch.steps, steps)

    def _fit_readout(self) -> Tensor:
        """Return the readout of all readings; calibrate the quantiles with that of the fitting split alone."""
        steps = self._config.tbptt_steps
        fitting, held_out = build_normal_equations(self._network, self._batches, [self._split_ms], steps)
        ridge = choose_ridge(self._network.config, fitting, held_out)
        calibrate_quantiles(self._network, self._batches, fitting.solve(ridge), self._split_ms, steps)
        return fitting.plus(held_out).solve(ridge)

    def _has_targets(self) -> bool:
        return any(
            bool((~torch.isnan(chunk.target) & (batch.target_ms(begin, end) < self._split_ms)).any())
            for batch in self._batches
            for begin, end, chunk in batch.chunks(self._config.tbptt_steps)
        )


class _NetworkAndReadout(nn.Module):
    """A body and the readout that is trained with it, so that both are averaged."""

    def __init__(self, network: Network, readout: nn.Parameter) -> None:
        super().__init__()
        self.network = network
        self.readout = readout


class _WeightAverage:
    """An exponential moving average of the weights during training; the first weights are taken as they are.

    Attributes:
        modules: body and readout with the averaged weights.
    """

    def __init__(self, modules: _NetworkAndReadout) -> None:
        self.modules = copy.deepcopy(modules)
        self._average = get_ema_multi_avg_fn(EMA)  # type: ignore[no-untyped-call]
        self._updated = False

    @torch.no_grad()
    def update(self, modules: _NetworkAndReadout) -> None:
        """Add the present weights to the average."""
        averages, weights = list(self.modules.parameters()), list(modules.parameters())
        if self._updated:
            self._average(averages, weights, 0)
        else:
            for average, weight in zip(averages, weights, strict=True):
                average.copy_(weight)
        self._updated = True


def _weights(network: Network) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in network.state_dict().items()}
