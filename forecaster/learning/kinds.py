"""The kinds of training runs, and the events in their course, as they are counted."""

from __future__ import annotations

from enum import StrEnum


class RunKind(StrEnum):
    """The kinds of training runs; their values are names in messages, metrics and commands."""

    TRAINING = "training"  # trains a new body, and its readout
    REFIT = "readout"  # fits a new readout to the body that serves


class RunEvent(StrEnum):
    """Events in the course of a run, as they are counted."""

    STARTED = "started"
    SKIPPED = "skipped"  # too few readings were new
    PROMOTED = "promoted"
    REJECTED = "rejected"
    NOT_BEGUN = "not_begun"
    FAILED = "failed"
    KILLED = "killed"
    NOT_READABLE = "not_readable"
    NOT_PUBLISHED = "not_published"
    OVERTAKEN = "overtaken"  # another checkpoint serves meanwhile
    DROPPED = "dropped"  # the coordinator was deposed
