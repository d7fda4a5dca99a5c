"""Ids of checkpoints and of the bodies that hidden states belong to."""

from __future__ import annotations

import hashlib

NO_CHECKPOINT = "none"
"""Id that stands for the time before any training: the simple experts forecast alone."""
NO_NETWORK, UNKNOWN_BODY = 0, -1
"""Body codes of rows without a hidden state, and of rows whose hidden state belongs to no known body."""


def body_of(checkpoint_id: str) -> str:
    """Return the id of a checkpoint's body: `<body>.<n>` is the n-th new readout of the same body."""
    return checkpoint_id.partition(".")[0]


def body_code(checkpoint_id: str) -> int:
    """Return the number by which rows name the body of a checkpoint; NO_NETWORK for NO_CHECKPOINT."""
    body = body_of(checkpoint_id)
    if body == NO_CHECKPOINT:
        return NO_NETWORK
    return int.from_bytes(hashlib.blake2b(body.encode(), digest_size=8).digest(), "little", signed=True)
