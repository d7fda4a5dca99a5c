"""The consumer's part of the group protocol: a join or heartbeats that have begun are not forgotten."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from daemons import wait_until
from kafka import TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.base import BaseCoordinator, Generation
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.errors import (
    FencedInstanceIdError,
    GroupAuthorizationFailedError,
    KafkaTimeoutError,
    UnknownMemberIdError,
)
from kafka.future import Future
from kafka.structs import MemberState

from forecaster.broker.tolerant_clients import TolerantConsumer
from forecaster.broker.tolerant_coordinator import TolerantCoordinator


class Requests(ConsumerCoordinator):  # type: ignore[misc]
    """The client's coordinator, whose requests to join wait for the answer of a test.

    Attributes:
        joins: results of the requests to join, the newest last.
    """

    joins: list[Future]

    async def _do_join_and_sync_async(self) -> Any:
        self.state = MemberState.REBALANCING
        self._generation = Generation(len(self.joins) + 1, "member", "cooperative-sticky")
        self._joined_subscription = {"readings"}
        self.joins.append(Future())
        return await self.joins[-1]


class Coordinator(TolerantCoordinator, Requests):
    """A coordinator whose broker answers requests to join when a test says so.

    Attributes:
        failing: error that ends the heartbeats.
    """

    failing: Exception | None = None

    async def ensure_coordinator_ready_async(self, timeout_ms: float | None = None) -> bool:  # noqa: ARG002
        return True

    async def _on_join_prepare_async(self, *_: Any, **__: Any) -> None: ...

    async def _on_join_complete_async(self, *_: Any) -> None:
        self.joined_at = 1e9

    async def _heartbeat_loop(self) -> None:
        while self.failing is None:
            await self._heartbeat_wakeup()
        error, self.failing = self.failing, None
        raise error

    def join(self, milliseconds: float = 20) -> bool:
        """Return whether the member has joined within a moment."""
        return bool(self.ensure_active_group(timeout_ms=milliseconds))

    def answer(self, error: Exception | None = None) -> None:
        """Answer the request to join, and return when the client has the answer."""

        async def answer() -> None:
            await self._net.sleep(0)  # the request is under way
            self.joins[-1].failure(error) if error else self.joins[-1].success(b"assignment")

        self._net.run(answer)
        wait_until(lambda: self._join_task.is_done, "the end of the join")

    def change_metadata(self, topics: dict[str, set[int]]) -> None:
        self._metadata_snapshot = topics

    def lead(self, topics: dict[str, set[int]]) -> None:
        self._assignment_snapshot = topics

    def end_heartbeats(self, error: Exception) -> None:
        self.failing = error
        self._heartbeat_wakeup.notify()
        wait_until(lambda: self._heartbeat_loop_future.is_done, "the end of the heartbeats")


@pytest.fixture
def client() -> Iterator[TolerantConsumer]:
    """Yield a member without a broker."""
    consumer = TolerantConsumer(
        bootstrap_servers="127.0.0.1:9",
        api_version=(2, 6),
        group_id="group",
        partition_assignment_strategy=[CooperativeStickyAssignor],
    )
    with closing(consumer):
        consumer.subscribe(["readings"])
        yield consumer


@pytest.fixture
def coordinator(client: TolerantConsumer) -> Coordinator:
    """Return a member that leads its group."""
    coordinator: Coordinator = vars(client)["_coordinator"]
    coordinator.__class__ = Coordinator
    coordinator.joins = []
    assert not coordinator.join()
    coordinator.answer()
    assert coordinator.join()
    coordinator.lead({"readings": {0}})
    coordinator.change_metadata({"readings": {0}})
    assert not coordinator.need_rejoin()
    return coordinator


def test_a_join_whose_reason_has_gone_is_finished(coordinator: Coordinator) -> None:
    """Another member reads another topic, leaves and takes its topic with it, while the join waits for the group."""
    coordinator.change_metadata({"readings": {0}, "others": {0}})
    assert coordinator.need_rejoin()
    assert not coordinator.join()
    assert coordinator.is_joining
    coordinator.change_metadata({"readings": {0}})
    assert coordinator.need_rejoin()
    assert not coordinator.join()
    coordinator.answer()
    assert coordinator.join()
    assert len(coordinator.joins) == 2, "the broker is asked once for each join"
    assert coordinator.stable()
    assert not coordinator.is_joining
    assert not coordinator.need_rejoin()


def test_the_client_itself_forgets_such_a_join(coordinator: Coordinator) -> None:
    """If this fails, the client has been mended, and `TolerantCoordinator.need_rejoin` can go."""
    coordinator.change_metadata({"readings": {0}, "others": {0}})
    assert not coordinator.join()
    coordinator.change_metadata({"readings": {0}})
    assert not ConsumerCoordinator.need_rejoin(coordinator)
    assert coordinator.state == MemberState.REBALANCING


@pytest.mark.parametrize("error", [KafkaTimeoutError(), UnknownMemberIdError()])
def test_a_join_that_failed_is_begun_again_although_its_reason_has_gone(
    coordinator: Coordinator, error: Exception
) -> None:
    coordinator.change_metadata({"readings": {0}, "others": {0}})
    assert not coordinator.join()
    coordinator.change_metadata({"readings": {0}})
    coordinator.answer(error)
    assert not coordinator.join()
    coordinator.answer()
    assert coordinator.join()
    assert coordinator.stable()
    assert len(coordinator.joins) == 3


@pytest.mark.parametrize("error", [GroupAuthorizationFailedError("group"), ValueError("assignor")])
def test_a_join_that_failed_for_good_between_two_polls_is_an_error_of_the_next(
    coordinator: Coordinator, error: Exception
) -> None:
    coordinator.request_rejoin()
    for number in (2, 3):
        assert not coordinator.join()
        coordinator.answer(error)
        with pytest.raises(type(error)):
            coordinator.join()
        assert len(coordinator.joins) == number
    assert coordinator.need_rejoin()


def test_a_join_that_ends_between_two_polls_counts_also_if_polls_do_not_wait(coordinator: Coordinator) -> None:
    """The client would join again, make all members do so, and with polls that do not wait never have joined."""
    coordinator.request_rejoin()
    assert not coordinator.join(0)
    coordinator.answer()
    assert coordinator.join(0)
    assert coordinator.stable()
    assert len(coordinator.joins) == 2
    coordinator.request_rejoin()
    assert not coordinator.join(0)
    assert len(coordinator.joins) == 3, "an assignment is taken once"


def test_an_assignment_that_came_between_two_polls_is_dropped_with_the_generation(coordinator: Coordinator) -> None:
    coordinator.request_rejoin()
    assert not coordinator.join()
    coordinator.answer()
    coordinator.reset_generation()
    assert not coordinator.join()
    assert len(coordinator.joins) == 3


def test_heartbeats_that_ended_are_sent_again(coordinator: Coordinator) -> None:
    coordinator.end_heartbeats(RuntimeError("bug"))
    with structlog.testing.capture_logs() as logs:
        coordinator.poll_heartbeat()
        coordinator.poll_heartbeat()
    assert [(log["event"], log["error"]) for log in logs] == [("heartbeats_restarted", "RuntimeError: bug")]
    assert not vars(coordinator)["_heartbeat_loop_future"].is_done


def test_heartbeats_of_a_stable_member_are_on(coordinator: Coordinator) -> None:
    getattr(coordinator, "_disable_heartbeat")()  # noqa: B009 - private
    coordinator.poll_heartbeat()
    assert vars(coordinator)["_heartbeat_enabled"]


def test_a_fenced_heartbeat_is_an_error_of_the_next_poll(coordinator: Coordinator) -> None:
    """The client stops its heartbeats and says nothing: the member would be out of the group, and never know."""
    handle = vars(BaseCoordinator)["_handle_heartbeat_response"]
    assert "FencedInstanceIdError" in inspect.getsource(handle)
    with pytest.raises(FencedInstanceIdError):
        getattr(coordinator, "_handle_heartbeat_response")(SimpleNamespace(error_code=FencedInstanceIdError.errno), 0.0)  # noqa: B009 - private
    for _ in range(2):
        with pytest.raises(FencedInstanceIdError):
            coordinator.poll_heartbeat()


def test_a_member_is_confirmed_by_joins_and_heartbeats_for_a_session_timeout(coordinator: Coordinator) -> None:
    assert coordinator.is_confirmed
    coordinator.joined_at = coordinator.heartbeat.last_receive = -1e9
    assert not coordinator.is_confirmed
    coordinator.heartbeat.received_heartbeat()
    assert coordinator.is_confirmed


def test_the_leader_asks_once_more_for_topics_that_it_does_not_know(
    client: TolerantConsumer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to its first request can be that to an older one, without those topics."""
    cluster = vars(client)["_cluster"]
    asked: list[float] = []
    vars(client)["_subscription"].group_subscribe(["readings", "others"])
    monkeypatch.setattr(vars(coordinator)["_net"], "call_later", lambda seconds, _: asked.append(seconds))
    monkeypatch.setattr(ConsumerCoordinator, "_perform_assignment", lambda *_: {"member": b""})
    assert getattr(coordinator, "_perform_assignment")("leader", "protocol", []) == {"member": b""}  # noqa: B009 - private
    assert asked == [1.0]
    assert not coordinator.need_rejoin(), "what it knows of all topics is what it has assigned"
    coordinator.change_metadata({"readings": set(), "others": {0}})
    assert coordinator.need_rejoin()
    assert cluster.partitions_for_topic("readings") is None


def test_the_private_names_of_the_coordinator_are_where_they_were(client: TolerantConsumer) -> None:
    """A new version of the client that moves one of them must fail here, not in production."""
    coordinator = vars(client)["_coordinator"]
    assert type(coordinator) is TolerantCoordinator
    for name in ("_join_task", "rejoining", "_heartbeat_loop_future", "_heartbeat_enabled", "_subscription"):
        assert name in vars(coordinator), name
    assert vars(coordinator)["_subscription"].partitions_auto_assigned()
    joining = inspect.getsource(BaseCoordinator.join_group_async)
    assert "self._join_task is None or self._join_task.is_done:" in joining
    for part in ("while self.need_rejoin():", "self._join_task = self._manager.call_soon(", "self.rejoining = True"):
        assert part in joining, part
    assert "await self._on_join_complete_async(" in joining
    assert "self._maybe_start_heartbeat_loop()" in inspect.getsource(BaseCoordinator.ensure_active_group_async)
    assert "self._perform_assignment(" in inspect.getsource(vars(BaseCoordinator)["_do_join_and_sync_async"])
    assert "self.poll_heartbeat()" in inspect.getsource(ConsumerCoordinator.poll)
    assert TopicPartition("readings", 0) not in client.assignment()
