"""The recurrent body and its heads: weights shared by all series; hidden state in, hidden state out.

    u ── Linear, GELU ── v ── [causal convolution] ── cells ── h
                         └───────────────────────────────┐    │
                                    z = GELU(Linear [h, v]) ◄─┘
    centre  = clip(base(z) + [q, z] · readout)      base: 0, or the decoder's rollout; readout: the checkpoint's
    offsets = quantile head of z, ascending with the quantile level

u are the features of a step, q those of the readout. Each of the four modes of a recurrent network is a set of horizons
and a choice whether the state is carried from step to step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from forecaster.core.network.cells import CellName, Nonlinearity, make_cell, unroll_cell
from forecaster.core.network.convolution import CausalConvolution
from forecaster.core.network.decoder import DecoderName, RecurrentDecoder
from forecaster.core.network.features import FeatureConfig
from forecaster.core.network.quantile_head import QuantileHead
from forecaster.errors import UsageError

FORECAST_CLIP = 6.0
"""Forecasts are clipped to this distance from the last value, in scales."""
MIN_HIDDEN, HIDDEN_STEP = 16, 8
"""Smallest hidden size, and the step between sizes: in narrower matrix products the rounding of a row may depend on its
place among the others (see `model`).
"""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The shape of a network.

    Attributes:
        horizons: ticks ahead, ascending; J.
        quantile_levels: levels in (0, 1), ascending; Q.
        cell: `rnn`, `gru` or `lstm`.
        nonlinearity: nonlinearity of `rnn`.
        hidden_size: width of the hidden vector, of v and of z; H.
        layers: number of stacked cells, L.
        convolution: number of steps that the causal convolution in front sees; 0 = no convolution.
        decoder: `direct` forecasts all horizons from one state, `recurrent` unrolls a second cell over them.
        carries_state: the hidden state is carried from reading to reading; else it is zero before each.
        features: number of features.
    """

    horizons: tuple[int, ...]
    quantile_levels: tuple[float, ...]
    cell: CellName = "gru"
    nonlinearity: Nonlinearity = "tanh"
    hidden_size: int = 64
    layers: int = 1
    convolution: int = 0
    decoder: DecoderName = "direct"
    carries_state: bool = True
    features: FeatureConfig = FeatureConfig()

    def __post_init__(self) -> None:
        if self.hidden_size < MIN_HIDDEN or self.hidden_size % HIDDEN_STEP:
            raise UsageError(
                f"hidden_size is {self.hidden_size}: it must be a multiple of {HIDDEN_STEP}, at least {MIN_HIDDEN}"
            )

    @property
    def readout_size(self) -> int:
        """P + Z, the rows of the readout."""
        return self.features.readout_size + self.hidden_size

    @property
    def state_size(self) -> int:
        """S, the columns of a hidden state: the convolution's buffer, then each layer's state."""
        buffer = max(self.convolution - 1, 0) * self.hidden_size
        return buffer + self.layers * self.hidden_size * (2 if self.cell == "lstm" else 1)


@dataclass(frozen=True, slots=True)
class Dropout:
    """Dropout of one unrolling (Srivastava et al., 2014).

    The recurrent mask is the same at all steps (Gal and Ghahramani, 2016).

    Attributes:
        generator: source of the masks.
        inputs: rate on v.
        recurrent: rate on the hidden vector where it enters the gates.
        head: rate on [h, v] before z.
    """

    generator: torch.Generator
    inputs: float = 0.5
    recurrent: float = 0.0
    head: float = 0.0

    def mask(self, rate: float, *shape: int) -> Tensor | None:
        """Return factors of 0 or 1/(1 - rate) in the given shape; None if the rate is 0."""
        if rate == 0.0:
            return None
        return torch.bernoulli(torch.full(shape, 1.0 - rate), generator=self.generator) / (1.0 - rate)


class Network(nn.Module):
    """The body of a network: weights and equations; it advances B series that do not depend on one another."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.config = config
        self.encoder = nn.Linear(config.features.step_size, size)
        self.convolution = CausalConvolution(size, config.convolution) if config.convolution else None
        self.cells = nn.ModuleList(
            make_cell(config.cell, config.nonlinearity, size, size) for _ in range(config.layers)
        )
        self.head = nn.Linear(2 * size, size)
        self.decoder = None
        if config.decoder == "recurrent":
            self.decoder = RecurrentDecoder(config.cell, config.nonlinearity, size, config.horizons)
        self.quantiles = QuantileHead(size, len(config.horizons), config.quantile_levels)
        self._sizes = [self.convolution.state_size if self.convolution else 0]
        self._sizes += [int(cell.state_size) for cell in self.cells]  # type: ignore[arg-type]

    @property
    def state_size(self) -> int:
        """S, the columns of a hidden state."""
        return sum(self._sizes)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Advance every series of the batch by one reading.

        Args:
            u: inputs of the body, dimensionless; (B, F).
            state: state after the previous reading, not modified; (B, S).

        Returns:
            The features to forecast from, z, (B, H), and the new state, (B, S).
        """
        z, end = self.unroll(u.unsqueeze(0), state)
        return z[0], end

    def warm(self, u: Tensor, lengths: Tensor) -> Tensor:
        """Return the state after the valid readings, starting from zero and without computing z; (B, S).

        Args:
            u: inputs of the body; (T, B, F).
            lengths: number of valid readings, the rest is padding; (B,).
        """
        empty = u.new_zeros(u.shape[1], self.state_size)
        if not self.config.carries_state:
            return empty
        return self._recur(functional.gelu(self.encoder(u)), empty, lengths, None)[1]

    def unroll(
        self, u: Tensor, state: Tensor, *, lengths: Tensor | None = None, dropout: Dropout | None = None
    ) -> tuple[Tensor, Tensor]:
        """Advance every series of the batch by T readings.

        Args:
            u: inputs of the body, dimensionless; (T, B, F).
            state: state before the first reading, not modified; (B, S).
            lengths: number of valid readings, the rest is padding; None = all; (B,).
            dropout: dropout in training; None = no dropout.

        Returns:
            The features z of every reading, (T, B, H), and the state after the last valid reading, (B, S).
        """
        steps, batch, _ = u.shape
        if self.config.carries_state or steps == 1:
            start = state if self.config.carries_state else torch.zeros_like(state)
            return self._unroll(u, start, lengths, dropout)
        flat = u.reshape(1, steps * batch, -1)
        z, end = self._unroll(flat, state.new_zeros(steps * batch, self.state_size), None, dropout)
        ends = torch.cat([state.unsqueeze(0), end.view(steps, batch, -1)])
        last = torch.full((batch,), steps) if lengths is None else lengths
        return z.view(steps, batch, -1), ends[last, torch.arange(batch)]

    def _unroll(
        self, u: Tensor, state: Tensor, lengths: Tensor | None, dropout: Dropout | None
    ) -> tuple[Tensor, Tensor]:
        v = functional.gelu(self.encoder(u))
        if dropout is not None:
            v = _times(v, dropout.mask(dropout.inputs, *v.shape))
        h, end = self._recur(v, state, lengths, dropout)
        both = torch.cat([h, v], dim=-1)
        if dropout is not None:
            both = _times(both, dropout.mask(dropout.head, *both.shape))
        return functional.gelu(self.head(both)), end

    def _recur(
        self, v: Tensor, state: Tensor, lengths: Tensor | None, dropout: Dropout | None
    ) -> tuple[Tensor, Tensor]:
        """Return the last layer's hidden vectors, (T, B, H), and the state after the last valid reading, (B, S)."""
        states = torch.split(state, self._sizes, dim=1)
        h, ends = v, [states[0]]
        if self.convolution is not None:
            h, ends[0] = self.convolution.unroll(v, states[0], lengths)
        for cell, before in zip(self.cells, states[1:], strict=True):
            keep = None if dropout is None else dropout.mask(dropout.recurrent, v.shape[1], v.shape[2])
            h, end = unroll_cell(cell, h, before, lengths, keep)  # type: ignore[arg-type]
            ends.append(end)
        return h, torch.cat(ends, dim=1)

    def base(self, z: Tensor) -> Tensor | float:
        """Return the centre without the readout's part, in scales from the last value; (..., J), or 0 everywhere."""
        return 0.0 if self.decoder is None else self.decoder.rollout(z)

    def offsets(self, z: Tensor) -> Tensor:
        """Return the quantiles minus the centre, in scales, ascending along Q; (..., Q, J)."""
        offsets: Tensor = self.quantiles(z)
        return offsets


def empty_network(config: NetworkConfig) -> Network:
    """Return a network whose weights have names and shapes, but no memory: for its shapes, or to load weights into."""
    with torch.device("meta"):
        return Network(config)


def centre(base: Tensor | float, readout: Tensor, q: Tensor, z: Tensor) -> Tensor:
    """Return clip(base + [q, z] · readout), the forecast minus the last value, in scales; (..., J)."""
    return unclipped_centre(base, readout, q, z).clamp(-FORECAST_CLIP, FORECAST_CLIP)


def unclipped_centre(base: Tensor | float, readout: Tensor, q: Tensor, z: Tensor) -> Tensor:
    """Return base + [q, z] · readout; (..., J)."""
    return base + torch.cat([q, z], dim=-1) @ readout


def _times(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values * mask
