"""The client for topics: what it checks when partitions are assigned, and commands that find no broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from forecaster.broker import topics
from forecaster.broker.connection import Connection
from forecaster.broker.needed_topics import NeededTopic
from forecaster.broker.topics import UNKNOWN_TOPIC, TopicAdmin
from forecaster.errors import InputMissing, TopicError

STATE = NeededTopic("in.state", "state", {"cleanup.policy": "compact"}, ("cleanup.policy",))
FORECASTS = NeededTopic("in.forecasts", "forecasts")
NEEDED = [FORECASTS, STATE]


class FakeAdmin:
    """A Kafka client that knows topics: the partition counts and the settings, by name."""

    is_lost = False

    def __init__(self, **_: object) -> None:
        self.partitions = {"in": 2, "in.forecasts": 2, "in.state": 2}
        self.configs: dict[str, dict[str, str]] = {"in.state": {"cleanup.policy": "compact"}}
        self.created: list[str] = []

    def describe_topics(self, names: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "error_code": 0 if name in self.partitions else UNKNOWN_TOPIC,
                "partitions": [{"replica_nodes": [1]}] * self.partitions.get(name, 0),
            }
            for name in names
        ]

    def describe_configs(self, resources: Sequence[Any], **_: object) -> dict[str, Any]:
        names = [resource.name for resource in resources]
        assert set(names) <= set(self.partitions), "Kafka refuses to describe a topic that is missing"
        told = {name: self.configs.get(name, {}) for name in names}
        return {"topic": {name: {key: {"value": value} for key, value in of.items()} for name, of in told.items()}}

    def create_topics(self, new: Sequence[Any], **_: object) -> None:
        self.created += [topic.name for topic in new]

    def close(self) -> None: ...


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeAdmin:
    client = FakeAdmin()
    monkeypatch.setattr(topics, "TolerantAdminClient", lambda **_: client)
    return client


def check_existing() -> None:
    TopicAdmin(Connection("127.0.0.1:9", "group")).check_existing("in", NEEDED)


@pytest.mark.parametrize("missing", [["in.state"], ["in.forecasts"], ["in.state", "in.forecasts"]])
def test_output_topics_that_are_missing_are_no_error_and_are_not_created(client: FakeAdmin, missing: list[str]) -> None:
    for name in missing:
        del client.partitions[name]
    check_existing()
    assert not client.created


def test_an_output_topic_that_exists_must_fit_although_another_one_is_missing(client: FakeAdmin) -> None:
    del client.partitions["in.forecasts"]
    client.configs["in.state"] = {"cleanup.policy": "delete"}
    with pytest.raises(TopicError, match=r"topic in\.state \(state\): cleanup\.policy is delete"):
        check_existing()
    client.partitions["in.state"] = 3
    with pytest.raises(TopicError, match=r"topic in\.state \(state\): has 3 partitions"):
        check_existing()


def test_a_missing_input_is_an_error_of_its_own(client: FakeAdmin) -> None:
    del client.partitions["in"]
    with pytest.raises(InputMissing):
        check_existing()
