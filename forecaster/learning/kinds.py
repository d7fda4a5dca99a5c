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
    NOT_STARTED = "not_begun"  # the child process could not be started; the value is the label of a metric
    FAILED = "failed"
    KILLED = "killed"
    UNREADABLE = "not_readable"  # the result of the run could not be read; the value is the label of a metric
    NOT_PUBLISHED = "not_published"
    OVERTAKEN = "overtaken"  # another checkpoint serves meanwhile
    DROPPED = "dropped"  # the coordinator was deposed or stopped
