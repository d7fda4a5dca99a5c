"""Truncated backpropagation through time (TBPTT; Williams and Peng, 1990): loss at every step, over all horizons.

A long sequence is unrolled chunk by chunk. The hidden state is carried from chunk to chunk and detached, so that
gradients end at the chunk's first step. With one chunk as long as the sequence this is full BPTT.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from forecaster.core.network.network import Dropout, Network, centre
from forecaster.core.network.quantile_head import pinball_loss

TARGET_CLIP = 8.0
"""Targets are clipped to this distance from the last value, in scales."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """T steps of B sequences; sequences that end earlier are padded.

    Attributes:
        u: inputs of the body; (T, B, F).
        q: inputs of the readout; (T, B, P).
        target: (truth - last value) / scale at each horizon; NaN where there is no truth, and in the padding;
            (T, B, J).
        lengths: number of valid steps; (B,).
    """

    u: Tensor
    q: Tensor
    target: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True)
class Unrolled:
    """Results of a chunk: features `z` (T, B, H), `centre` (T, B, J), and the state after it, detached, (B, S)."""

    z: Tensor
    centre: Tensor
    state: Tensor


def unroll(network: Network, readout: Tensor, chunk: Chunk, state: Tensor, dropout: Dropout | None = None) -> Unrolled:
    """Return the forecasts of every step of the chunk.

    Args:
        network: the body.
        readout: weights of the readout; (P + Z, J).
        chunk: T steps of B sequences.
        state: state before the chunk; (B, S).
        dropout: dropout in training; None = no dropout.
    """
    z, end = network.unroll(chunk.u, state, lengths=chunk.lengths, dropout=dropout)
    return Unrolled(z, centre(network.base(z), readout, chunk.q, z), end.detach())


def losses(network: Network, unrolled: Unrolled, target: Tensor, levels: Tensor) -> Tensor:
    """Return the mean loss over all targets; 0 if there is none.

    The loss is Huber's (1964) of the centre plus the pinball loss of the quantiles around the detached centre.

    Args:
        network: body with the quantile head.
        unrolled: forecasts of the chunk.
        target: targets in scales from the last value; NaN where there is none; (T, B, J).
        levels: quantile levels; (Q,).
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
