"""The number of torch threads of a process that computes forecasts."""

from __future__ import annotations

from forecaster.core.network.threads import set_threads

TORCH_THREADS = 1
"""With one thread, the result of a row has the same bits in any batch."""


def use_one_torch_thread() -> None:
    """Limit torch to one thread, so that a forecast has the same bits in any batch and in any process."""
    set_threads(TORCH_THREADS)
