"""Settings of topics and brokers that forecaster cannot work with are refused, and the error says what to change."""

from __future__ import annotations

import pytest

from forecaster.broker.needed_topics import (
    ClientTimes,
    NeededTopic,
    input_warnings,
    refuse_wrong_broker,
    refuse_wrong_settings,
    unknown_settings,
)
from forecaster.errors import TopicError, TransientBrokerError

STATE = NeededTopic("in.state", "state", {"cleanup.policy": "compact"}, ("cleanup.policy",), batch_bytes=600_000)
FITS = {"cleanup.policy": "compact", "max.message.bytes": "600000", "min.insync.replicas": "2"}
TIMES = ClientTimes(transaction_timeout_ms=15_000, session_timeout_ms=10_000, replay_ms=3_600_000)
BROKER = {
    "transaction.max.timeout.ms": "15000",
    "group.min.session.timeout.ms": "10000",
    "group.max.session.timeout.ms": "10000",
}


def test_settings_at_their_limits_fit() -> None:
    refuse_wrong_settings(STATE, FITS, 2)
    refuse_wrong_broker(BROKER, TIMES)


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("max.message.bytes", "599999", "max.message.bytes=1048588"),
        ("cleanup.policy", "delete", "cleanup.policy=compact"),
        ("cleanup.policy", "compact,delete", "cleanup.policy=compact"),
        ("min.insync.replicas", "3", "min.insync.replicas=2"),
    ],
)
def test_an_unfit_setting_is_refused_with_topic_value_and_command(name: str, value: str, needed: str) -> None:
    with pytest.raises(TopicError) as refused:
        refuse_wrong_settings(STATE, FITS | {name: value}, 2)
    text = str(refused.value)
    assert refused.value.exit_code == 4
    assert f"topic {STATE.name}" in text
    assert f"{name} is {value}" in text
    assert f"kafka-configs --alter --entity-type topics --entity-name {STATE.name} --add-config {needed}" in text


def test_the_size_that_is_needed_is_named() -> None:
    with pytest.raises(TopicError, match="600000 bytes"):
        refuse_wrong_settings(STATE, FITS | {"max.message.bytes": "50000"}, 2)


def test_a_required_setting_that_the_broker_does_not_tell_is_asked_for_again() -> None:
    with pytest.raises(TransientBrokerError):
        refuse_wrong_settings(STATE, {}, 2)


def test_settings_that_the_broker_does_not_tell_refuse_nothing() -> None:
    refuse_wrong_settings(NeededTopic("in.forecasts", "forecasts", batch_bytes=600_000), {}, 0)
    refuse_wrong_broker({}, TIMES)
    assert not input_warnings("in", {}, TIMES)
    assert unknown_settings(["in", "broker"], {"in": {}, "broker": BROKER}) == ["in"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("transaction.max.timeout.ms", "14999"),
        ("group.min.session.timeout.ms", "10001"),
        ("group.max.session.timeout.ms", "9999"),
    ],
)
def test_a_broker_that_would_refuse_the_client_is_refused(name: str, value: str) -> None:
    with pytest.raises(TopicError, match=name) as refused:
        refuse_wrong_broker(BROKER | {name: value}, TIMES)
    assert value in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"cleanup.policy": "compact"}, "cleanup.policy is compact"),
        ({"cleanup.policy": "compact,delete", "retention.ms": "-1"}, "cleanup.policy is compact,delete"),
        ({"cleanup.policy": "delete", "retention.ms": "3599999"}, "retention.ms is 3599999"),
    ],
)
def test_an_input_that_drops_readings_that_a_restore_needs_is_said(settings: dict[str, str], named: str) -> None:
    (warning,) = input_warnings("in", settings, TIMES)
    assert named in warning
    assert "topic in (input)" in warning


def test_an_input_that_keeps_what_a_restore_needs_is_not_warned_about() -> None:
    assert not input_warnings("in", {"cleanup.policy": "delete", "retention.ms": "3600000"}, TIMES)
    assert not input_warnings("in", {"cleanup.policy": "delete", "retention.ms": "-1"}, TIMES)
