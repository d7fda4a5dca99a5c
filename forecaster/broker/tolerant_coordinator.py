"""The consumer's part of the group protocol, changed so that no member leaves its group unnoticed.

| case | the client | here |
|---|---|---|
| the reason for a join is gone before the join ends (kafka-python#3131, #3138) | forgets the join | finishes it |
| a join succeeds between two polls | drops the assignment and joins again | takes the assignment |
| a join fails for good between two polls | joins again for ever | raises |
| the coroutine that sends heartbeats ends | sends none any more | starts it again |
| a heartbeat says that another process has the instance id | sends none any more | raises |
| members read topics that the group's leader does not know | can take minutes to notice | asks a second later |
| the leader compares metadata of its own topics with that of all | joins again and again | compares that of all |
"""

from __future__ import annotations

import math
from typing import Any

import structlog
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.errors import (
    FencedInstanceIdError,
    IllegalGenerationError,
    MemberIdRequiredError,
    RebalanceInProgressError,
    RetriableError,
    UnknownMemberIdError,
)
from kafka.structs import MemberState

from forecaster.broker.retry import describe
from forecaster.clock import monotonic

METADATA_SECONDS = 1.0
"""Time after which the leader of a group asks once more for the metadata of its members' topics."""
REPEATED = (
    IllegalGenerationError,
    MemberIdRequiredError,
    RebalanceInProgressError,
    RetriableError,
    UnknownMemberIdError,
)
"""Errors after which the client joins again."""
_log = structlog.get_logger()


class TolerantCoordinator(ConsumerCoordinator):  # type: ignore[misc]
    """The client's part of the group protocol; a join or heartbeats that have begun are not forgotten.

    Attributes:
        joined_at: time of the last join that succeeded, on the client's clock.
        fenced: error of a heartbeat that was refused because another process has this instance id; None = none was.
    """

    _join_task: Any
    _heartbeat_loop_future: Any
    _assignment: bytes | None = None
    joined_at = -math.inf
    fenced: FencedInstanceIdError | None = None

    @property
    def is_confirmed(self) -> bool:
        """Whether a heartbeat or a join was answered within the session timeout."""
        confirmed_at: float = max(self.joined_at, self.heartbeat.last_receive)
        longest_seconds: float = self.config["session_timeout_ms"] / 1000
        return monotonic() - confirmed_at <= longest_seconds

    @property
    def is_joining(self) -> bool:
        """Whether a request to join is not answered yet."""
        return self._join_task is not None and not self._join_task.is_done

    def need_rejoin(self) -> bool:
        """Return whether to join; a join that has begun is finished, although its reason is gone.

        Heartbeats are off until a join ends. Topics of other members come and go with them: the leader joins again for
        each change of their metadata, and the client asks at each poll whether that change is still there, not whether
        its join is still under way.
        """
        has_begun = self.rejoining or self._join_task is not None
        return bool(super().need_rejoin()) or (has_begun and self._subscription.partitions_auto_assigned())

    async def join_group_async(self, timeout_ms: float | None = None) -> bool:
        """Join, and return whether that was done within the time; the next call continues.

        The client looks at the result of a request to join only if it arrives during a poll. With polls that do not
        wait, or much to do between them, a member would join again and again, and make the whole group do so.

        Raises:
            Exception: the error of a join that ended between two polls, if repeating the join is of no use.
        """
        ended = self._join_task
        if ended is not None and ended.is_done:
            if ended.succeeded():
                self._assignment = ended.value
            elif not isinstance(ended.exception, REPEATED):
                self._join_task = None
                raise ended.exception
        return bool(await super().join_group_async(timeout_ms))

    async def _do_join_and_sync_async(self) -> Any:
        """Return the assignment: that of a join that ended between two polls, or of a new one."""
        assignment, self._assignment = self._assignment, None
        if assignment is not None and self.state is MemberState.REBALANCING and not self._generation.is_lost():
            return assignment
        return await super()._do_join_and_sync_async()

    def poll_heartbeat(self) -> None:
        """Note that the member is alive, and see to it that heartbeats are sent.

        Raises:
            FencedInstanceIdError: another process has this instance id.
        """
        if self.fenced is not None:
            raise self.fenced
        sending = self._heartbeat_loop_future
        if sending is None or sending.is_done:
            error = None if sending is None else sending.exception
            _log.warning("heartbeats_restarted", group=self.group_id, error=describe(error) if error else "")
            self._heartbeat_loop_future = None
            self._maybe_start_heartbeat_loop()
        if self.stable() and not self._heartbeat_enabled:
            self._enable_heartbeat()
        super().poll_heartbeat()

    def _handle_heartbeat_response(self, response: Any, send_time: float) -> Any:
        try:
            return super()._handle_heartbeat_response(response, send_time)
        except FencedInstanceIdError as error:
            self.fenced = error
            raise

    async def _on_join_complete_async(self, *arguments: Any) -> None:
        self.joined_at, self.fenced = monotonic(), None
        await super()._on_join_complete_async(*arguments)

    def _perform_assignment(self, *arguments: Any) -> Any:
        """Return the assignment, which leaves out topics that this leader has no metadata of yet.

        The client asks for them, but takes the answer to an older request, without them, for the answer. It also
        compares later metadata with what it last knew of its own topics, or of all, whatever came last: the leader of
        members with different topics would join again each time, for ever.
        """
        assignments = super()._perform_assignment(*arguments)
        self._assignment_snapshot = self._build_metadata_snapshot(self._subscription, self._cluster)
        self._metadata_snapshot = self._assignment_snapshot
        self._net.call_later(METADATA_SECONDS, self._refresh_metadata)
        return assignments

    def _refresh_metadata(self) -> None:
        self._cluster.request_update()
