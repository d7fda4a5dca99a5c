"""A causal convolution in front of the recurrence; the steps that it still looks back on are part of the state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CausalConvolution(nn.Module):
    """y_t = GELU(sum_k W_k v_{t-k} + b), k = 0 .. width - 1.

    Args:
        size: channels V, in and out.
        width: steps that it sees, this one included.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.size = size
        self.width = width
        self.linear = nn.Linear(width * size, size)

    @property
    def state_size(self) -> int:
        """Columns of the state: the last width - 1 inputs, oldest first."""
        return (self.width - 1) * self.size

    def unroll(self, v: Tensor, state: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns the outputs (T, B, V) and the state after the last step that counts.

        Args:
            v: (T, B, V).
            state: before the first step; (B, (width - 1) V).
            lengths: steps that count, the rest is padding; None = all; (B,).
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
