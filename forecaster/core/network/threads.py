"""The number of threads that torch computes with."""

from __future__ import annotations

import torch


def set_threads(count: int) -> None:
    """Set the number of threads of matrix products, for the whole process."""
    torch.set_num_threads(count)
