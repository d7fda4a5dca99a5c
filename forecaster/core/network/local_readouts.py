"""Readouts of single series, beside the shared one: half pooled, and one that sees the other series of the group.

    (1) pooled: W_c = (½ A_c + ½ Ā + Λ)⁻¹ (½ B_c + ½ B̄)       A, B: normal equations of series c; Ā, B̄: means over all
    (2) cross:  W_c = (A_c + Λ)⁻¹ B_c                            over features of the whole group

(1) shrinks each series half-way towards the fleet; ridge regression: Hoerl and Kennard, 1970. A series' horizons share
their normal equations in bands, so that the memory does not grow with the horizon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from forecaster.records import F32, I64

BANDS = (1, 6, 24, 48, 96, 192, 384, 768)
"""Horizons up to each of these have their normal equations in common: a row counts where all of them came true."""
MOST_BYTES = 512 * 1024**2
"""Own readouts are solved for fleets whose normal equations take no more."""


class GroupPlaces(NamedTuple):
    """C series, the place of each in its group, and the number of series of the largest group."""

    series_ids: Sequence[str]
    member: Sequence[int]
    members: int


@dataclass(frozen=True, slots=True, eq=False)
class LocalReadouts:
    """The readouts of C series.

    Attributes:
        series_ids: C of them.
        member: place of each series in its group; (C,).
        members: of the largest group, G; 1 = no series sees another.
        weights: of both readouts, pooled first; (C, 2 J, P + Z + X).
    """

    series_ids: tuple[str, ...]
    member: I64
    members: int
    weights: Tensor

    def forecast(self, x: Tensor, local: I64) -> F32:
        """Returns both readouts' forecasts, row by row: no row can depend on another; NaN without one; (B, 2 J).

        Args:
            x: features of readout, body and group; (B, P + Z + X).
            local: which series each row is, -1 = none of these; (B,).
        """
        found = x.new_full((len(x), self.weights.shape[1]), torch.nan)
        for row, series in enumerate(local.tolist()):
            if series >= 0:
                torch.mv(self.weights[series], x[row], out=found[row])
        values: F32 = found.numpy()
        return values


def bands(horizons: Sequence[int]) -> list[slice]:
    """Returns where in the horizons each band lies."""
    ends = [int(np.searchsorted(horizons, limit, side="right")) for limit in BANDS] + [len(horizons)]
    begins = [0, *ends[:-1]]
    return [slice(begin, end) for begin, end in zip(begins, ends, strict=True) if begin < end]


class LocalNormalEquations:
    """Normal equations of C series; K features.

    Args:
        series: C.
        features: K.
        horizons: ascending.
    """

    def __init__(self, series: int, features: int, horizons: Sequence[int]) -> None:
        self._bands = bands(horizons)
        self.a = torch.zeros(series, len(self._bands), features, features, dtype=torch.float64)
        self.b = torch.zeros(series, features, len(horizons), dtype=torch.float64)

    @staticmethod
    def bytes_needed(series: int, features: int, horizons: Sequence[int]) -> int:
        """Returns the memory that such equations take."""
        return 8 * series * features * (features * len(bands(horizons)) + len(horizons))

    def add(self, series: Tensor, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """The sums include these rows.

        Args:
            series: of each row; (N,).
            x: features; (N, K).
            y: targets; NaN where there is none; (N, J).
            weight: of each row; (N,).
        """
        known = ~torch.isnan(y)
        for one in sorted(set(series.tolist())):
            mine = series == one
            for number, band in enumerate(self._bands):
                rows = mine & known[:, band].all(dim=1)
                features = x[rows].double()
                weighted = features * weight[rows].double().unsqueeze(1)
                self.a[one, number] += weighted.T @ features
                self.b[one, :, band] += weighted.T @ y[rows, band].double()

    def plus(self, other: LocalNormalEquations) -> LocalNormalEquations:
        """Returns the sums over the rows of both."""
        total = object.__new__(LocalNormalEquations)
        total._bands, total.a, total.b = self._bands, self.a + other.a, self.b + other.b
        return total

    def pooled(self, ridge: Tensor) -> Tensor:
        """Returns (1), of the first features, as many as the ridge has; (C, P + Z, J)."""
        size = len(ridge)
        a, b = self.a[:, :, :size, :size], self.b[:, :size]
        return self._solved(0.5 * (a + a.mean(dim=0)), 0.5 * (b + b.mean(dim=0)), ridge)

    def cross(self, ridge: Tensor) -> Tensor:
        """Returns (2); (C, K, J)."""
        return self._solved(self.a, self.b, ridge)

    def error(self, weights: Tensor) -> float:
        """Returns the sum of squared errors over all rows and series, less that of a forecast of zero.

        Args:
            weights: of the first features; (C, P + Z, J) or (C, K, J).
        """
        size, total = weights.shape[1], 0.0
        for number, band in enumerate(self._bands):
            w = weights[:, :, band].double()
            total += float((w * (self.a[:, number, :size, :size] @ w - 2.0 * self.b[:, :size, band])).sum())
        return total

    def _solved(self, a: Tensor, b: Tensor, ridge: Tensor) -> Tensor:
        solved = torch.empty_like(b)
        for number, band in enumerate(self._bands):
            factor, failed = torch.linalg.cholesky_ex(a[:, number] + torch.diag(ridge.double()))
            part = torch.cholesky_solve(b[:, :, band], factor)
            part[failed > 0] = torch.nan
            solved[:, :, band] = part
        return solved
