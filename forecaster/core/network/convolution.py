"""A causal convolution in front of the recurrence; the past steps that it still needs are part of the state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CausalConvolution(nn.Module):
    """A causal convolution: y_t = GELU(sum_k W_k v_{t-k} + b), k = 0 .. width - 1.

    Args:
        size: channels in and out, V.
        width: number of steps that an output depends on, the current one included.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.size = size
        self.width = width
        self.linear = nn.Linear(width * size, size)

    @property
    def state_size(self) -> int:
        """Columns of the state, which holds the last width - 1 inputs, oldest first."""
        return (self.width - 1) * self.size

    def unroll(self, v: Tensor, state: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the outputs, (T, B, V), and the state after the last valid step, (B, (width - 1) V).

        Args:
            v: inputs; (T, B, V).
            state: state before the first step; (B, (width - 1) V).
            lengths: number of valid steps, the rest is padding; None = all; (B,).
        """
        steps, batch, _ = v.shape
        before = state.view(batch, self.width - 1, self.size).transpose(0, 1)
        padded = torch.cat([before, v])
        windows = torch.cat([padded[k : k + steps] for k in range(self.width)], dim=-1)
        if lengths is None:
            end = padded[steps:]
        else:
            end = padded[lengths + torch.arange(self.width - 1)[:, None], torch.arange(batch)]
        return nn.functional.gelu(self.linear(windows)), end.transpose(0, 1).reshape(batch, self.state_size)
