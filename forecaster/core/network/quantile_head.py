"""The quantile head, whose quantiles never cross, and the loss that trains it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.nn import functional


class QuantileHead(nn.Module):
    """Offsets of the quantiles from the centre: the lowest, then softplus steps upwards (Gasthaus et al., 2019).

    (1) o_1 = a_1(z)   (2) o_q = o_{q-1} + softplus(a_q(z))   (3) o + calibration, made ascending

    It is initialised to a normal distribution with a deviation of one scale. `calibration` (Q, J) is solved after
    training (conformalised quantile regression: Romano et al., 2019).
    """

    calibration: Tensor

    def __init__(self, size: int, horizons: int, levels: Sequence[float]) -> None:
        super().__init__()
        self._shape = (len(levels), horizons)
        self.linear = nn.Linear(size, len(levels) * horizons)
        nn.init.zeros_(self.linear.weight)
        normal = torch.tensor([NormalDist().inv_cdf(level) for level in levels], device="cpu")
        steps = torch.log(torch.expm1(normal.diff()))
        with torch.no_grad():
            self.linear.bias.copy_(torch.cat([normal[:1], steps]).repeat_interleave(horizons))
        self.register_buffer("calibration", torch.zeros(self._shape))

    def forward(self, z: Tensor) -> Tensor:
        """Return the offsets, in scales, ascending along Q; (..., H) to (..., Q, J)."""
        raw = self.linear(z).view(*z.shape[:-1], *self._shape)
        steps = torch.cat([raw[..., :1, :], functional.softplus(raw[..., 1:, :])], dim=-2)
        offsets = steps.cumsum(dim=-2) + self.calibration
        ascending: Tensor = offsets.cummax(dim=-2).values
        return ascending


def pinball_loss(quantiles: Tensor, truth: Tensor, levels: Tensor) -> Tensor:
    """Return max(q d, (q - 1) d) with d = truth - quantile (Koenker and Bassett, 1978; without a factor 2).

    Args:
        quantiles: forecast quantiles; (..., Q, J).
        truth: true values; (..., J).
        levels: quantile levels; (Q,).
    """
    difference = truth.unsqueeze(-2) - quantiles
    level = levels.unsqueeze(-1)
    return torch.maximum(level * difference, (level - 1.0) * difference)
