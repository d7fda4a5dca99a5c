"""The readout, solved instead of trained by gradients: an exact ridge regression from normal equations, in 64 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from forecaster.errors import UsageError


@dataclass
class NormalEquations:
    """Sums over weighted rows of features x and targets y; the sums of two time spans can be added.

    Attributes:
        a: sum of w x x' over the rows with a target, by horizon; (J, P, P).
        b: sum of w x y; (J, P).
        c: sum of w y y over all targets.
        count: number of targets.
    """

    a: Tensor
    b: Tensor
    c: float = 0.0
    count: int = 0

    @classmethod
    def empty(cls, features: int, horizons: int) -> NormalEquations:
        """Return the sums over no rows."""
        return cls(
            torch.zeros(horizons, features, features, dtype=torch.float64),
            torch.zeros(horizons, features, dtype=torch.float64),
        )

    def add(self, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """Add rows to the sums.

        Args:
            x: features; (N, P).
            y: targets; NaN where there is none; (N, J).
            weight: weight w of each row; (N,).
        """
        valid = ~torch.isnan(y)
        full = valid.all(dim=1)
        root = weight.double().sqrt().unsqueeze(1)
        weighted = x.double() * root
        targets = torch.where(valid, y, 0.0).double() * root
        self.c += float(targets.square().sum())
        self.count += int(valid.sum())
        complete = weighted[full]
        self.a += complete.T @ complete
        self.b += (complete.T @ targets[full]).T
        partial = valid.any(dim=1) & ~full
        if partial.any():
            rows, present = weighted[partial], valid[partial].double()
            self.b += (rows.T @ targets[partial]).T
            for horizon in range(y.shape[1]):
                self.a[horizon] += (rows * present[:, horizon : horizon + 1]).T @ rows

    def plus(self, other: NormalEquations) -> NormalEquations:
        """Return the sums over the rows of both."""
        return NormalEquations(self.a + other.a, self.b + other.b, self.c + other.c, self.count + other.count)

    def squared_error(self, readout: Tensor) -> float:
        """Return the mean over all targets of w (y - x W)^2; NaN if there is none.

        Args:
            readout: W; (P, J).
        """
        return (self.c + self.relative_error(readout)) / self.count if self.count else math.nan

    def relative_error(self, readout: Tensor) -> float:
        """Return the sum of w (y - x W)^2 over all rows and horizons, minus that of W = 0.

        Args:
            readout: W; (P, J).
        """
        columns = readout.T.double()
        return float((torch.einsum("jp,jpq,jq->", columns, self.a, columns) - 2.0 * (columns * self.b).sum()).item())

    def solve(self, ridge: Tensor) -> Tensor:
        """Return (A + diag(ridge))^-1 b for every horizon, as 32-bit weights; (P, J).

        Args:
            ridge: positive penalties; (P,).

        Raises:
            UsageError: the rows hold numbers that are not finite.
        """
        system = self.a + torch.diag(ridge.double())
        factor, failed = torch.linalg.cholesky_ex(system)
        if failed.any() or not torch.isfinite(self.b).all():
            raise UsageError("the readout cannot be solved: features or targets of the history are not finite")
        return torch.cholesky_solve(self.b.unsqueeze(-1), factor).squeeze(-1).T.float().contiguous()
