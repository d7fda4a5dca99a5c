"""The log of the state topic that a floor promises for: if it has lost records since, blocks may be missing.

Compaction never moves the first offset of a log. A later one, or another topic id, shows that somebody, retention or
an operator, has deleted records whatever their keys.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from forecaster.formats.sources import short_topic_id

_NO_IDS = ("", "None", str(UUID(int=0)))
"""What the client returns as the id of a topic whose broker gives topics no ids."""


class StateLog(msgspec.Struct, frozen=True):
    """The log of a partition of the state topic at one moment.

    Attributes:
        topic: id of the topic; empty = the broker gives topics no ids.
        start: first offset of the log.
    """

    topic: str
    start: int

    def loss(self, now: StateLog) -> str:
        """Return how records were deleted between this moment and now, for a person; empty = none were.

        The first offset of a replica can lie a little below that of the former leader, so a lower one shows another
        topic only where the ids are not known.
        """
        if self.topic and now.topic and self.topic != now.topic:
            ids = f"id {short_topic_id(self.topic)}, now {short_topic_id(now.topic)}"
            return f"it was deleted and created again ({ids})"
        if now.start > self.start:
            return f"its records before offset {now.start} were deleted (its log began at offset {self.start})"
        if now.start < self.start and not (self.topic and now.topic):
            return f"it was deleted and created again (its log began at offset {self.start}, now at {now.start})"
        return ""


def state_log(topic_id: str, start: int) -> StateLog:
    """Return the log.

    Args:
        topic_id: id of the topic as the client returns it.
        start: first offset of the log.
    """
    return StateLog("" if topic_id in _NO_IDS else topic_id, start)
