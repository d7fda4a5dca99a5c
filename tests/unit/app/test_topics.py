"""The needed topics: each takes the largest record that forecaster may write to it."""

from __future__ import annotations

import pytest
from builders import pipeline_config

from forecaster.app.topics import needed_topics
from forecaster.broker.needed_topics import MAX_MESSAGE_BYTES
from forecaster.formats.history import MAX_VALUE_BYTES
from forecaster.formats.models import CHUNK_BYTES
from forecaster.formats.state import Identity
from forecaster.serving.state.config import StateConfig
from forecaster.serving.state.writes import encoded_block
from forecaster.settings import Settings, load_settings


def settings(**groups: object) -> Settings:
    defaults: dict[str, object] = {"kafka": {"bootstrap_servers": "none"}, "topics": {"input": "in"}}
    return load_settings(**defaults | groups)  # type: ignore[arg-type]


def batch_bytes(**groups: object) -> dict[str, int]:
    return {topic.name: topic.batch_bytes for topic in needed_topics(settings(**groups))}


@pytest.mark.parametrize("horizon", [1, 24, 100])
def test_every_topic_takes_what_is_written_to_it_with_the_brokers_default(horizon: int) -> None:
    sizes = batch_bytes(forecast={"horizon": str(horizon)})
    assert max(sizes.values()) <= MAX_MESSAGE_BYTES
    assert sizes["in.history"] > MAX_VALUE_BYTES
    assert sizes["in.models"] > CHUNK_BYTES


def test_topics_are_created_with_a_size_that_suffices() -> None:
    for topic in needed_topics(settings(kafka={"bootstrap_servers": "none", "options": '{"batch_size": 2000000}'})):
        assert int(topic.settings["max.message.bytes"]) >= topic.batch_bytes >= 2_000_000


def test_the_size_of_batches_that_an_operator_has_set_counts() -> None:
    sizes = batch_bytes(kafka={"bootstrap_servers": "none", "options": '{"batch_size": 1000}'})
    assert sizes["in.forecasts"] < 100_000


def test_a_full_block_with_the_longest_names_is_within_the_size_of_the_state_topic() -> None:
    pipeline = pipeline_config()
    config = StateConfig(pipeline.shape(0), Identity("c" * 22, "t" * 36, 1, "p" * 16, 0))
    limits = config.block_limits
    names = [f"{number:0{config.longest_id}d}" for number in range(limits.groups)]
    while not limits.allow(names):
        names.pop()
    block = encoded_block(config.identity, 2**60, names, names, config.shape.empty(len(names)))
    assert len(block) <= config.record_bytes + 16_384
