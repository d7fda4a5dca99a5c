"""The hash of groups that staggers swaps and samples the training history."""

from __future__ import annotations

import zlib

HASHES = 2**32
"""Number of hashes that `group_hash` may return."""


def group_hash(name: str) -> int:
    """Return the hash of a group's name, 0 to HASHES - 1, which is the same in every process and version."""
    return zlib.crc32(name.encode())
