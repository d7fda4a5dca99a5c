"""Life cycles: transitions between phases, each of which leads to some phases only."""

from __future__ import annotations

from collections.abc import Mapping, Set
from enum import StrEnum
from typing import TypeVar

Phase = TypeVar("Phase", bound=StrEnum)


class InvalidTransition(RuntimeError):
    """A phase was to follow one that does not lead to it: a bug."""


def next_phase(subject: str, phase: Phase, to: Phase, allowed: Mapping[Phase, Set[Phase]]) -> Phase:
    """Return the phase `to`, if the present phase leads there.

    Args:
        subject: name of the thing that has the phase, for the error.
        phase: present phase.
        to: phase to enter.
        allowed: the phases that each phase leads to.

    Raises:
        InvalidTransition: the present phase does not lead to `to`.
    """
    if to not in allowed[phase]:
        raise InvalidTransition(f"{subject} is {phase}: it cannot become {to}")
    return to
