"""From sequences to a checkpoint's weights: the body by truncated BPTT, then the readout solved exactly."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forecaster.core.network import Dropout, Network, NetworkConfig, centre
from forecaster.core.readout import NormalEquations
from forecaster.core.tbptt import TARGET_CLIP, losses, unroll
from forecaster.errors import UsageError
from forecaster.learning.sequences import PaddedBatch, TrainingSequence


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
        held_out: share of the time, at its end, that early stopping and the intervals are judged on.
        batch: sequences side by side, at most.
        seed: of weights and dropout.
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
    batch: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training is: `done` of `total` chunks; the early-stopping loss of the last pass, NaN before."""

    done: int
    total: int
    loss: float


@dataclass(frozen=True, slots=True)
class Trained:
    """Weights of the body and readout (P + Z, J), the losses by pass, and the pass whose weights these are."""

    weights: dict[str, Tensor]
    readout: Tensor
    losses: list[float]
    best_pass: int


EMA = 0.99
"""Weights that serve are an exponential mean of those that training went through."""
RIDGES_LINEAR = (5.0, 50.0, 500.0, 5_000.0)
RIDGES_BODY = (20.0, 200.0, 2_000.0, 20_000.0, 1e6)
"""Where several do equally well, the first ones are taken."""


class Trainer:
    """Trains one network on one set of sequences."""

    def __init__(self, network: NetworkConfig, config: TrainingConfig, sequences: Sequence[TrainingSequence]) -> None:
        """Raises UsageError where the sequences hold nothing to learn from."""
        if not sequences:
            raise UsageError("nothing to train on: no series has two readings in a row")
        self._config = config
        self._generator = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._network = Network(network)
        self._readout = nn.Parameter(torch.zeros(network.readout_size, len(network.horizons)))
        self._levels = torch.tensor(network.quantile_levels)
        self._batches = [
            PaddedBatch(sequences[begin : begin + config.batch], network.features, network.horizons)
            for begin in range(0, len(sequences), config.batch)
        ]
        first = min(int(sequence.time_ms[0]) for sequence in sequences)
        last = max(int(sequence.time_ms[-1]) for sequence in sequences)
        self._split_ms = last - config.held_out * (last - first)
        if not any((target == target).any() for target, _ in self._targets(held_out=False)):
            raise UsageError("nothing to train on: no reading comes true within the horizons")

    def train(self, progress: Callable[[Progress], None] = lambda _: None) -> Trained:
        """Returns the weights that did best on the held-out stretch, with a solved readout and calibrated quantiles."""
        config = self._config
        parameters = [*self._network.parameters(), self._readout]
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.l2)
        both = _Both(self._network, self._readout)
        average = _Average(both)
        history: list[float] = []
        best, best_pass = _copy(average.both), 0
        chunks = sum(math.ceil(batch.steps / config.tbptt_steps) for batch in self._batches)
        for number in range(config.passes):
            for chunk in self._fit_pass(optimizer, number, chunks):
                average.update(both)
                done = number * chunks + chunk
                progress(Progress(done, config.passes * chunks, history[-1] if history else math.nan))
            history.append(self._held_out_loss(average.both))
            if history[-1] <= min(history):
                best, best_pass = _copy(average.both), number
            elif number - best_pass >= config.patience:
                break
        self._network.load_state_dict(best)
        fitting, held_out = self._normal_equations()
        ridge = self._best_ridge(fitting, held_out)
        self._calibrate(fitting.solve(ridge))
        return Trained(_copy(self._network), fitting.plus(held_out).solve(ridge), history, best_pass)

    def _fit_pass(self, optimizer: torch.optim.Optimizer, number: int, chunks: int) -> Iterator[int]:
        """Yields after every update how many chunks of this pass are done."""
        config, done = self._config, 0
        rates = (config.dropout, config.dropout_recurrent, config.dropout_head)
        dropout = Dropout(self._generator, *rates)
        for batch in self._batches:
            state = torch.zeros(len(batch), self._network.state_size)
            for begin in range(0, batch.steps, config.tbptt_steps):
                end = begin + config.tbptt_steps
                self._set_rate(optimizer, (number * chunks + done) / (config.passes * chunks))
                chunk = batch.chunk(begin, end)
                target = torch.where(batch.target_ms(begin, end) < self._split_ms, chunk.target, torch.nan)
                unrolled = unroll(self._network, self._readout, chunk, state, dropout)
                state = unrolled.state
                loss = losses(self._network, unrolled, target, self._levels) + self._l1()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_([*self._network.parameters(), self._readout], config.clip_norm)
                optimizer.step()
                done += 1
                yield done

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
            for begin in range(0, batch.steps, self._config.tbptt_steps):
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

    @torch.no_grad()
    def _normal_equations(self) -> tuple[NormalEquations, NormalEquations]:
        """Returns the readout's normal equations of the fitting stretch and of the held-out one."""
        config = self._network.config
        size = config.readout_size, len(config.horizons)
        fitting, held_out = NormalEquations.empty(*size), NormalEquations.empty(*size)
        for rows in self._rows():
            features = torch.cat([rows.q, rows.z], dim=-1)
            target = rows.target.clamp(-TARGET_CLIP, TARGET_CLIP) - self._network.base(rows.z)
            is_early = rows.target_ms < self._split_ms
            fitting.add(features, torch.where(is_early, target, torch.nan), rows.weight)
            held_out.add(features, torch.where(is_early, torch.nan, target), rows.weight)
        return fitting, held_out

    def _best_ridge(self, fitting: NormalEquations, held_out: NormalEquations) -> Tensor:
        """Returns the ridge whose readout of the fitting stretch does best on the held-out one; (P + Z,).

        The body was trained on the fitting stretch, so that its features look better there than they are.
        """
        config = self._network.config

        def ridge(linear: float, body: float) -> Tensor:
            return torch.cat(
                [torch.full((config.features.readout_size,), linear), torch.full((config.hidden_size,), body)]
            )

        candidates = [ridge(*pair) for pair in itertools.product(RIDGES_LINEAR, RIDGES_BODY)]
        return min(candidates, key=lambda candidate: held_out.relative_error(fitting.solve(candidate)))

    @torch.no_grad()
    def _calibrate(self, readout: Tensor) -> None:
        """Each quantile of the held-out stretch lies so high that its share of truths is below it."""
        residuals: list[Tensor] = []
        for rows in self._rows():
            target = torch.where((rows.time_ms >= self._split_ms).unsqueeze(-1), rows.target, torch.nan)
            middle = centre(self._network.base(rows.z), readout, rows.q, rows.z)
            residuals.append((target - middle).unsqueeze(-2) - self._network.offsets(rows.z))
        below = torch.cat(residuals)
        if torch.isnan(below).all(dim=0).any():
            return
        for number, level in enumerate(self._levels):
            self._network.quantiles.calibration[number] = torch.nanquantile(below[:, number], level, dim=0)

    def _rows(self) -> Iterator[_Rows]:
        """Yields the real steps of every chunk, flat, without dropout."""
        for batch in self._batches:
            state = torch.zeros(len(batch), self._network.state_size)
            for begin in range(0, batch.steps, self._config.tbptt_steps):
                end = begin + self._config.tbptt_steps
                chunk = batch.chunk(begin, end)
                z, state = self._network.unroll(chunk.u, state, lengths=chunk.lengths)
                real = torch.arange(len(chunk.u)).unsqueeze(-1) < chunk.lengths
                yield _Rows(
                    z[real],
                    chunk.q[real],
                    chunk.target[real],
                    batch.target_ms(begin, end)[real],
                    batch.time_ms[begin:end][real],
                    batch.weight(begin, end)[real],
                )

    def _targets(self, *, held_out: bool) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._batches:
            for begin in range(0, batch.steps, self._config.tbptt_steps):
                end = begin + self._config.tbptt_steps
                chosen = (batch.target_ms(begin, end) >= self._split_ms) == held_out
                yield torch.where(chosen, batch.chunk(begin, end).target, torch.nan), chosen


@dataclass(frozen=True, slots=True)
class _Rows:
    """N steps: features, targets and their times (N, J), event times and weights (N,)."""

    z: Tensor
    q: Tensor
    target: Tensor
    target_ms: Tensor
    time_ms: Tensor
    weight: Tensor


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
        self._updated = False

    @torch.no_grad()
    def update(self, both: _Both) -> None:
        """The mean includes these weights."""
        share = 1.0 - EMA if self._updated else 1.0
        for mean, weight in zip(self.both.parameters(), both.parameters(), strict=True):
            mean.lerp_(weight, share)
        self._updated = True


def _copy(module: nn.Module) -> dict[str, Tensor]:
    body = module.network if isinstance(module, _Both) else module
    return {name: weight.detach().clone() for name, weight in body.state_dict().items()}
