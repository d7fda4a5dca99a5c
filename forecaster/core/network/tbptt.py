"""Truncated backpropagation through time (Williams and Peng, 1990): loss at every step, over all horizons.

A long sequence is unrolled chunk by chunk. The hidden state goes from chunk to chunk; gradients do not: it is detached.
With one chunk as long as the sequence this is full BPTT.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from forecaster.core.network.network import Dropout, Network, centre
from forecaster.core.network.quantile_head import pinball_loss

TARGET_CLIP = 8.0
"""Targets farther from the last value, in scales, count as this far."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """T steps of B sequences; where one is over, padding follows.

    Attributes:
        u: inputs of the body; (T, B, F).
        q: inputs of the readout; (T, B, P).
        target: (truth - last value) / scale at each horizon; NaN where there is none, padding too; (T, B, J).
        lengths: steps that count; (B,).
    """

    u: Tensor
    q: Tensor
    target: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True)
class Unrolled:
    """What the network made of a chunk: `z` (T, B, H), `centre` (T, B, J) and the state after it, detached."""

    z: Tensor
    centre: Tensor
    state: Tensor


def unroll(network: Network, readout: Tensor, chunk: Chunk, state: Tensor, dropout: Dropout | None = None) -> Unrolled:
    """Returns the forecasts of every step of the chunk.

    Args:
        network: the body.
        readout: (P + Z, J).
        chunk: T steps of B sequences.
        state: before the chunk; (B, S).
        dropout: while training.
    """
    z, end = network.unroll(chunk.u, state, lengths=chunk.lengths, dropout=dropout)
    return Unrolled(z, centre(network.base(z), readout, chunk.q, z), end.detach())


def losses(network: Network, unrolled: Unrolled, target: Tensor, levels: Tensor) -> Tensor:
    """Returns the mean loss over all targets that there are; 0 where there is none.

    Huber (1964) of the centre, plus the pinball loss of the quantiles around the centre, which they do not move.

    Args:
        network: whose quantile head it is.
        unrolled: the chunk's forecasts.
        target: NaN where there is none; (T, B, J).
        levels: (Q,).
    """
    valid = ~torch.isnan(target)
    count = valid.sum()
    if count == 0:
        return unrolled.centre.sum() * 0.0
    truth = torch.where(valid, target, 0.0).clamp(-TARGET_CLIP, TARGET_CLIP)
    huber = functional.huber_loss(unrolled.centre, truth, reduction="none")
    residual = truth - unrolled.centre.detach()
    pinball = pinball_loss(network.offsets(unrolled.z), residual, levels).mean(dim=-2)
    return torch.where(valid, huber + pinball, 0.0).sum() / count
