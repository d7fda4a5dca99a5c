"""From sequences to a checkpoint's weights: the body by truncated BPTT, then the readout solved exactly."""

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
from forecaster.learning.data.augmentation import AugmentationConfig, augmented
from forecaster.learning.data.batches import PaddedBatch, padded
from forecaster.learning.data.groups import SeriesGroups
from forecaster.learning.data.sequences import TrainingSequence
from forecaster.learning.fitting.local_readout_fit import solve_local_readouts
from forecaster.learning.fitting.readout_fit import best_ridge, calibrate, normal_equations

WARM_PASSES = 4
WARM_LEARNING_RATE = 3e-4


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How a body is trained.

    Attributes:
        tbptt_steps: steps of a chunk, as far as gradients go back.
        passes: over the fitting stretch, at most.
        patience: passes without a better early-stopping loss before it ends.
        learning_rate: at first; it falls to `last_learning_rate` along a cosine.
        dropout: rate on the body's inputs.
        dropout_recurrent: rate on the hidden vector where it enters the gates.
        dropout_head: rate in front of z.
        l1: weight of the sum of absolute weights in the loss.
        l2: AdamW's decoupled weight decay.
        clip_norm: gradients longer than this are shortened to it.
        held_out: share of the time that is trained on, at its end, that early stopping and the intervals are judged on.
        promotion: share of all the time, at its end, that promotion is judged on, where there is a champion.
        batch: sequences side by side, at most.
        seed: of weights, dropout and augmentation.
        augmentation: how the inputs are disturbed while fitting.
        local: series get readouts of their own, where they are not too many.
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

    def warm(self) -> TrainingConfig:
        """Returns how a body is trained that was trained before: briefly, and gently."""
        return replace(
            self,
            passes=min(self.passes, WARM_PASSES),
            patience=min(self.patience, WARM_PASSES),
            learning_rate=min(self.learning_rate, WARM_LEARNING_RATE),
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training is: `done` of `total` chunks; the early-stopping loss of the last pass, NaN before."""

    done: int
    total: int
    loss: float


@dataclass(frozen=True, slots=True)
class FittedNetwork:
    """What training made.

    Attributes:
        weights: of the body.
        readout: (P + Z, J).
        local: readouts of single series; None = there are none.
        losses: on the early-stopping stretch, by pass.
        best_pass: the pass whose weights these are.
        warm: it began with the weights of the champion.
    """

    weights: dict[str, Tensor]
    readout: Tensor
    local: LocalReadouts | None
    losses: list[float]
    best_pass: int
    warm: bool


EMA = 0.99
"""Weights that serve are an exponential mean of those that training went through."""
WARM_UP_CHUNKS = 4
"""Hidden states are carried into the held-out stretch from so many chunks before it."""


class NetworkFit:
    """Trains one network on one set of sequences.

    Args:
        network: what the body looks like.
        config: how it is trained.
        sequences: the longest first.
        early_stopping_ms: targets from here on are not fitted.
        start: the champion: where its network looks the same, training begins with its weights and is brief.
        members: whose readouts are solved beside the shared one; None = nobody's.

    Raises:
        UsageError: the sequences hold nothing to learn from.
    """

    def __init__(
        self,
        network: NetworkConfig,
        config: TrainingConfig,
        sequences: Sequence[TrainingSequence],
        early_stopping_ms: int,
        start: Checkpoint | None = None,
        members: SeriesGroups | None = None,
    ) -> None:
        self._members = members
        if not sequences:
            raise UsageError("nothing to train on: no series has two readings in a row")
        self.warm = start is not None and start.network == network
        self._config = config.warm() if self.warm else config
        self._dropout = torch.Generator().manual_seed(config.seed)
        self._disturbance = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._network = Network(network)
        self._readout = nn.Parameter(torch.zeros(network.readout_size, len(network.horizons)))
        if start is not None and self.warm:
            self._begin_with(start)
        self._levels = torch.tensor(network.quantile_levels)
        self._batches = padded(sequences, network, config.batch)
        self._split_ms = early_stopping_ms
        if not self._has_targets():
            raise UsageError("nothing to train on: no reading comes true within the horizons")
        self._chunks = sum(len(self._fitting_chunks(batch)) for batch in self._batches)

    def train(self, progress: Callable[[Progress], None] = lambda _: None) -> FittedNetwork:
        """Returns the weights that did best on the held-out stretch, with a solved readout and calibrated quantiles."""
        config = self._config
        both = _Both(self._network, self._readout)
        average = _Average(both)
        history: list[float] = []
        best, best_pass = _copy(average.both), 0
        total = config.passes * self._chunks
        for done in self.updates():
            average.update(both)
            progress(Progress(done, total, history[-1] if history else math.nan))
            if done % self._chunks:
                continue
            number = len(history)
            history.append(self._held_out_loss(average.both))
            if history[-1] <= min(history):
                best, best_pass = _copy(average.both), number
            elif number - best_pass >= config.patience:
                break
        self._network.load_state_dict(best)
        readout = self._solve()
        local = solve_local_readouts(self._network, self._batches, self._members, self._split_ms, config.tbptt_steps)
        return FittedNetwork(_copy(self._network), readout, local, history, best_pass, self.warm)

    def updates(self) -> Iterator[int]:
        """Yields after every update of the weights how many chunks are done, pass after pass."""
        config, done = self._config, 0
        parameters = [*self._network.parameters(), self._readout]
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.l2, fused=True)
        dropout = Dropout(self._dropout, config.dropout, config.dropout_recurrent, config.dropout_head)
        for _ in range(config.passes):
            for clean in self._batches:
                batch = augmented(config.augmentation, clean, self._disturbance)
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
        """Returns where the chunks begin up to the last one with a step of the fitting stretch."""
        early = (batch.real(0, batch.steps) & (batch.time_ms < self._split_ms)).any(dim=1).nonzero()
        return range(0, int(early[-1]) + 1 if len(early) else 0, self._config.tbptt_steps)

    def _begin_with(self, champion: Checkpoint) -> None:
        """Weights and readout are the champion's; its calibration belongs to its own errors."""
        self._network.load_state_dict(dict(champion.weights))
        with torch.no_grad():
            self._network.quantiles.calibration.zero_()
            self._readout.copy_(champion.readout)

    def _set_rate(self, optimizer: torch.optim.Optimizer, share: float) -> None:
        """Cosine annealing (Loshchilov and Hutter, 2017)."""
        high, low = self._config.learning_rate, self._config.last_learning_rate
        for group in optimizer.param_groups:
            group["lr"] = low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * share))

    def _l1(self) -> Tensor | float:
        if self._config.l1 == 0.0:
            return 0.0
        return self._config.l1 * torch.stack([weight.abs().sum() for weight in self._network.parameters()]).sum()

    @torch.no_grad()
    def _held_out_loss(self, model: _Both) -> float:
        """Returns the loss on the held-out stretch, hidden states carried into it; infinite where it is empty."""
        total, count = 0.0, 0
        for batch in self._batches:
            state = torch.zeros(len(batch), self._network.state_size)
            for begin in self._held_out_chunks(batch):
                end = begin + self._config.tbptt_steps
                chunk = batch.chunk(begin, end)
                unrolled = unroll(model.network, model.readout, chunk, state)
                state = unrolled.state
                held_out = batch.time_ms[begin:end].unsqueeze(-1) >= self._split_ms
                target = torch.where(held_out, chunk.target, torch.nan)
                known = int((~torch.isnan(target)).sum())
                total += known * float(losses(model.network, unrolled, target, self._levels))
                count += known
        return total / count if count else math.inf

    def _held_out_chunks(self, batch: PaddedBatch) -> range:
        """Returns where the chunks begin from a warm-up before the first step of the held-out stretch on."""
        late = (batch.time_ms >= self._split_ms).any(dim=1).nonzero()
        steps = self._config.tbptt_steps
        first = max(0, int(late[0]) // steps - WARM_UP_CHUNKS) if len(late) else math.ceil(batch.steps / steps)
        return range(first * steps, batch.steps, steps)

    def _solve(self) -> Tensor:
        """Returns the readout of everything; the quantiles are calibrated with that of the fitting stretch alone."""
        steps = self._config.tbptt_steps
        fitting, held_out = normal_equations(self._network, self._batches, [self._split_ms], steps)
        ridge = best_ridge(self._network.config, fitting, held_out)
        calibrate(self._network, self._batches, fitting.solve(ridge), self._split_ms, steps)
        return fitting.plus(held_out).solve(ridge)

    def _has_targets(self) -> bool:
        return any(
            bool((~torch.isnan(chunk.target) & (batch.target_ms(begin, end) < self._split_ms)).any())
            for batch in self._batches
            for begin, end, chunk in batch.chunks(self._config.tbptt_steps)
        )


class _Both(nn.Module):
    """A body and the readout that is trained with it, so that both are averaged."""

    def __init__(self, network: Network, readout: nn.Parameter) -> None:
        super().__init__()
        self.network = network
        self.readout = readout


class _Average:
    """An exponential mean of the weights that training goes through; the first ones are taken as they are."""

    def __init__(self, both: _Both) -> None:
        self.both = copy.deepcopy(both)
        self._mean = get_ema_multi_avg_fn(EMA)  # type: ignore[no-untyped-call]
        self._updated = False

    @torch.no_grad()
    def update(self, both: _Both) -> None:
        """The mean includes these weights."""
        means, weights = list(self.both.parameters()), list(both.parameters())
        if self._updated:
            self._mean(means, weights, 0)
        else:
            for mean, weight in zip(means, weights, strict=True):
                mean.copy_(weight)
        self._updated = True


def _copy(module: nn.Module) -> dict[str, Tensor]:
    body = module.network if isinstance(module, _Both) else module
    return {name: weight.detach().clone() for name, weight in body.state_dict().items()}
