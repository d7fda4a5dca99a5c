"""Fetches name the topic by its id: nothing of a topic that was created again is read as if it were the former one."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from kafka import TopicPartition
from kafka.consumer.fetcher import CompletedFetch, Fetcher, FetchSessionHandler
from kafka.protocol.consumer import FetchRequest

from forecaster.broker.fetches_by_id import FETCH_VERSION, FetchOffsets, IdentifiedFetcher
from forecaster.broker.tolerant_clients import TolerantConsumer

HERE = TopicPartition("readings", 3)
FORMER, PRESENT = UUID(int=7), UUID(int=8)


@pytest.fixture
def client() -> Iterator[TolerantConsumer]:
    """Yield a client that has a partition, reads from the former topic, and has no broker."""
    with closing(TolerantConsumer(bootstrap_servers="127.0.0.1:9", api_version=(4, 0))) as consumer:
        consumer.assign([HERE])
        consumer.seek(HERE, 0)
        consumer.read_from("readings", str(FORMER))
        yield consumer


def fetcher_of(client: TolerantConsumer) -> Any:
    return vars(client)["_fetcher"]


def answer(version: int) -> SimpleNamespace:
    """Return the answer to a fetch, in which version 13 and later name no topic."""
    partition = SimpleNamespace(partition_index=3)
    topic = SimpleNamespace(topic="" if version >= FETCH_VERSION else "readings", partitions=[partition])
    return SimpleNamespace(API_VERSION=version, error_code=0, session_id=0, responses=[topic])


def asked(topic_id: UUID | None) -> FetchOffsets:
    """Return the offsets of a fetch of the topic with this id."""
    offsets = FetchOffsets({HERE: 0})
    offsets.topic_id = topic_id
    return offsets


def receive(client: TolerantConsumer, offsets: FetchOffsets, version: int = FETCH_VERSION) -> list[Any]:
    """Return the partitions whose records the client has received with the answer to a fetch."""
    fetcher = fetcher_of(client)
    session = vars(fetcher)["_session_handlers"].setdefault(1, FetchSessionHandler(1))
    session.session_partitions = dict(offsets)
    getattr(fetcher, "_handle_fetch_response")(1, offsets, 0.0, answer(version))  # noqa: B009 - the client calls it
    return [fetch.topic_partition for fetch in fetcher.queue]


def test_requests_name_the_topic_by_its_id(client: TolerantConsumer, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = FetchRequest.FetchTopic(topic="readings", partitions=[])
    request = FetchRequest(topics=[topic], forgotten_topics_data=[], max_version=12)
    monkeypatch.setattr(Fetcher, "_create_fetch_requests", lambda _: {1: (request, {HERE: 5})})
    ((named, offsets),) = vars(IdentifiedFetcher)["_create_fetch_requests"](fetcher_of(client)).values()
    assert (named.topics[0].topic_id, highest_version(named)) == (FORMER, FETCH_VERSION)
    assert (offsets, offsets.topic_id) == ({HERE: 5}, FORMER)


def highest_version(request: Any) -> int:
    """Return the highest version in which the client may send the request."""
    version: int = getattr(request, "_max_version")  # noqa: B009 - it is read where the client reads it
    return version


@pytest.mark.parametrize("version", [12, FETCH_VERSION])
def test_answers_get_the_name_of_the_topic(client: TolerantConsumer, version: int) -> None:
    assert receive(client, asked(FORMER), version) == [HERE]


@pytest.mark.parametrize("topic_id", [None, FORMER])
def test_answers_to_fetches_of_a_former_topic_are_dropped(client: TolerantConsumer, topic_id: UUID | None) -> None:
    client.read_from("readings", str(PRESENT))
    assert receive(client, asked(topic_id)) == []
    assert receive(client, asked(PRESENT)) == [HERE]


def test_what_was_fetched_from_a_former_topic_is_dropped(client: TolerantConsumer) -> None:
    fetches = fetcher_of(client).queue
    fetches.append(CompletedFetch(HERE, 0, FETCH_VERSION, SimpleNamespace(), None))
    client.read_from("readings", str(FORMER))
    assert len(fetches) == 1, "the topic is the same"
    client.read_from("readings", str(PRESENT))
    assert not fetches


@pytest.mark.parametrize("no_id", ["None", str(UUID(int=0))])
def test_text_that_is_no_id_changes_nothing(client: TolerantConsumer, no_id: str) -> None:
    """A cluster that was upgraded without its inter-broker protocol has no ids, and refuses a fetch that names zero."""
    client.read_from("readings", no_id)
    assert fetcher_of(client).topic_id == FORMER


def test_the_private_names_of_the_client_are_where_they_were(client: TolerantConsumer) -> None:
    """A new version of the client that moves one of them must fail here, not in production."""
    names = vars(fetcher_of(client))
    assert isinstance(names["_completed_fetches"], deque)
    for name in ("_paused_completed_fetches", "_paused_partition_records", "_session_handlers"):
        assert names[name] == {}
    assert "_next_partition_records" in names
    source = inspect.getsource(Fetcher)
    for part in (
        "requests[node_id] = (request, fetch_offsets)",
        "self._handle_fetch_response, node_id, fetch_offsets, time.monotonic()",
        "forgotten_topics_data=session.to_forget",
    ):
        assert part in source
