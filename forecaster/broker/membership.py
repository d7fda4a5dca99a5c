"""Whether this process is a member of its consumer group, and what to do when it is not for long.

A member is stable if it belongs to the group's current generation, and the group has confirmed that within the session
timeout. While the group changes, no member is stable: the broker answers requests to join only when all members have
asked, and a busy member may take as long as its `max_poll_interval_ms`. That is no fault of this process, and a new
client would wait for the same members. So time with an unanswered request to join is not counted, up to the time-out
of that request.
"""

from __future__ import annotations

import structlog

from forecaster.backoff import Backoff
from forecaster.broker.silence import AttendedClock
from forecaster.clock import Clock
from forecaster.errors import BrokerUnavailable

OUT_SECONDS = 60.0
"""Time without a stable generation after which a warning is logged, and a new client joins the group."""
LONGEST_PAUSE_SECONDS = 300.0
JOIN_MARGIN_SECONDS = 15.0
"""Time by which a request to join may exceed `max_poll_interval_ms`, the client's limit and more."""
_NO_PAUSE = Backoff(OUT_SECONDS, LONGEST_PAUSE_SECONDS)
_log = structlog.get_logger()


class MembershipWatch:
    """Knows how long a member has had no stable generation, and when a new client is to join the group.

    Args:
        group: name of the consumer group.
        max_poll_interval_seconds: longest time between two polls of a member.
        outage_deadline_seconds: time out of the group after which the process gives up.
        clock: seconds.
    """

    def __init__(
        self, group: str, max_poll_interval_seconds: float, outage_deadline_seconds: float, clock: Clock
    ) -> None:
        self._group, self._deadline = group, outage_deadline_seconds
        self._join_seconds = max_poll_interval_seconds + JOIN_MARGIN_SECONDS
        self._clock = AttendedClock(clock)
        self._looked_at = self._clock()
        self._out_seconds = self._waited_seconds = 0.0
        self._is_logged = False
        self._pause = _NO_PAUSE

    @property
    def is_renewal_due(self) -> bool:
        """Whether a new client is to join the group."""
        return self._out_seconds >= OUT_SECONDS and not self._pause.lasts(self._looked_at)

    def look(self, *, is_stable: bool, is_joining: bool) -> None:
        """Note the present state.

        Args:
            is_stable: the member belongs to the group's current generation.
            is_joining: the group has not answered its request to join yet.

        Raises:
            BrokerUnavailable: the process was out of the group for the outage deadline.
        """
        now = self._clock()
        step, self._looked_at = now - self._looked_at, now
        if is_stable:
            if self._is_logged:
                _log.info("group_joined_again", group=self._group, seconds=round(self._absent_seconds, 1))
            self._out_seconds = self._waited_seconds = 0.0
            self._is_logged, self._pause = False, _NO_PAUSE
            return
        if is_joining and self._waited_seconds < self._join_seconds:
            self._waited_seconds += step
        else:
            self._out_seconds += step
        if self._absent_seconds >= OUT_SECONDS and not self._is_logged:
            self._is_logged = True
            _log.warning(
                "out_of_group",
                group=self._group,
                seconds=round(self._absent_seconds, 1),
                waits_for_other_members=is_joining,
                deadline_seconds=self._deadline,
            )
        if self._out_seconds > self._deadline:
            raise BrokerUnavailable(
                f"not a member of group {self._group} for {self._out_seconds:.0f} s: check the broker that coordinates "
                "the group and the rights of this user on it, or raise FORECASTER_KAFKA__OUTAGE_DEADLINE"
            )

    def record_renewal(self) -> None:
        """Note that a new client was made, or could not be."""
        self._pause = self._pause.after_failure(self._looked_at)

    @property
    def _absent_seconds(self) -> float:
        return self._out_seconds + self._waited_seconds
