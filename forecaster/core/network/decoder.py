"""The decoder of an encoder-decoder: a cell that unrolls the horizons, fed by its own output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from forecaster.core.network.cells import CellName, Nonlinearity, make_cell

DecoderName = Literal["direct", "recurrent"]


class RecurrentDecoder(nn.Module):
    """A decoder whose output length differs from the input length (Sutskever et al., 2014; Cho et al., 2014).

    (1) d_0 = tanh(W z)   (2) d_k = cell([y_{k-1}, z], d_{k-1})   (3) y_k = w · d_k, k = 1 .. longest horizon

    w is initialised to zero: an untrained decoder forecasts the last value.
    """

    def __init__(self, cell: CellName, nonlinearity: Nonlinearity, size: int, horizons: Sequence[int]) -> None:
        super().__init__()
        self._horizons = [horizon - 1 for horizon in horizons]
        self.cell = make_cell(cell, nonlinearity, size + 1, size)
        self.start = nn.Linear(size, self.cell.state_size)
        self.output = nn.Linear(size, 1, bias=False)
        nn.init.zeros_(self.output.weight)

    def rollout(self, z: Tensor) -> Tensor:
        """Return y at the horizons, in scales from the last value; (..., H) to (..., J)."""
        flat = z.reshape(-1, z.shape[-1])
        state = torch.tanh(self.start(flat))  # (1)
        weight = self.cell.weight_input
        constant = functional.linear(flat, weight[:, 1:], self.cell.bias_input)
        y, outputs = flat.new_zeros(len(flat), 1), []
        for _ in range(self._horizons[-1] + 1):
            state = self.cell.step(constant + y * weight[:, 0], state)  # (2)
            y = self.output(state[:, : self.cell.hidden_size])  # (3)
            outputs.append(y)
        chosen = torch.cat([outputs[horizon] for horizon in self._horizons], dim=1)
        return chosen.view(*z.shape[:-1], len(self._horizons))
