"""A refused login, certificate or right is told from an outage, and the error says what to do."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from clock import FakeClock
from kafka.errors import (
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from kafka.future import Future
from kafka.net.manager import KafkaConnectionManager

from forecaster.app.rights import with_missing_rights
from forecaster.broker.refusals import RefusalManager, refusal_in
from forecaster.broker.retry import REFUSED_SECONDS, describe, retry
from forecaster.errors import BrokerUnavailable, TransientBrokerError
from forecaster.settings import load_settings

LOGIN_REFUSED = SaslAuthenticationFailedError("SaslAuthenticationFailedError: Invalid username or password")


def tls_error(reason: str, kind: type[ssl.SSLError] = ssl.SSLError) -> ssl.SSLError:
    error = kind(1, reason)
    error.reason = reason
    return error


def certificate_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.reason, error.verify_message = "CERTIFICATE_VERIFY_FAILED", "self-signed certificate"
    return error


def wrapped(cause: Exception) -> KafkaError:
    error: KafkaError = KafkaConnectionError(f"Handshake failed: {cause}")
    error.__cause__ = cause
    return error


class Net:
    """The client's loop, of which the manager needs the clock only."""

    def call_at(self, *_: object) -> None:
        pass


class FakeManager(RefusalManager):
    """A manager whose connections fail with given errors, or succeed with None."""

    def __init__(self, errors: list[Exception | None], servers: int = 1) -> None:
        addresses = [f"kafka:{9092 + number}" for number in range(servers)]
        super().__init__(
            Net(), bootstrap_servers=addresses, sasl_mechanism="PLAIN", sasl_plain_username="app", ssl_cafile="/ca.pem"
        )
        self.errors = errors


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections end as soon as they are asked for."""

    class Connection(SimpleNamespace):
        __hash__ = object.__hash__  # type: ignore[assignment]

    def get_connection(*_: object, **__: object) -> Connection:
        return Connection(init_future=Future())

    monkeypatch.setattr(KafkaConnectionManager, "get_connection", get_connection)


def connect(manager: FakeManager) -> None:
    """Connect to one bootstrap server after the other."""
    for node, error in zip(manager.cluster.bootstrap_brokers() * 3, manager.errors, strict=False):
        future = manager.get_connection(node.node_id).init_future
        future.failure(error) if error else future.success(manager)


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (LOGIN_REFUSED, ["authentication failed", "user 'app'", "kafka:9092", "Invalid username", "SASL_PASSWORD"]),
        (UnsupportedSaslMechanismError(), ["authentication failed", "'app'", "not offer PLAIN", "SASL_MECHANISM"]),
        (IllegalSaslStateError(), ["authentication failed", "'app'", "SECURITY_PROTOCOL"]),
        (wrapped(certificate_error()), ["TLS failed", "kafka:9092", "self-signed", "/ca.pem", "SSL_CAFILE"]),
        (wrapped(tls_error("WRONG_VERSION_NUMBER")), ["TLS failed", "kafka:9092", "wrong version"]),
        (KafkaConnectionError(tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED")), ["TLS failed", "SSL_CERTFILE (none)"]),
    ],
)
def test_a_refused_connection_says_who_was_refused_where_and_why(error: Exception, parts: list[str]) -> None:
    connect(FakeManager([error]))
    assert refusal_in(error)
    for part in parts:
        assert part in describe(error)


@pytest.mark.parametrize(
    "error",
    [
        KafkaTimeoutError("no answer"),
        KafkaConnectionError("socket disconnected"),
        wrapped(tls_error("UNEXPECTED_EOF_WHILE_READING", ssl.SSLEOFError)),
        ConnectionRefusedError(111, "refused"),
    ],
)
def test_an_outage_is_no_refusal(error: Exception) -> None:
    connect(FakeManager([error, error]))
    assert refusal_in(error) is None


def bootstrap(monkeypatch: pytest.MonkeyPatch, manager: FakeManager) -> None:
    def fail(*_: object) -> None:
        connect(manager)
        raise KafkaTimeoutError("Unable to bootstrap")

    monkeypatch.setattr(KafkaConnectionManager, "bootstrap", fail)
    manager.bootstrap(5_000)


def test_a_client_that_every_server_refuses_gives_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = FakeManager([LOGIN_REFUSED] * 3, servers=2)
    with pytest.raises(SaslAuthenticationFailedError):
        bootstrap(monkeypatch, manager)
    with pytest.raises(SaslAuthenticationFailedError):
        manager.get_connection(manager.cluster.bootstrap_brokers()[0].node_id)


def test_a_server_that_accepts_again_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = FakeManager([LOGIN_REFUSED, None, None], servers=2)
    with pytest.raises(KafkaTimeoutError):
        bootstrap(monkeypatch, manager)


def test_a_client_without_success_says_what_happened_last(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KafkaTimeoutError, match=r"kafka:9092.*ECONNREFUSED"):
        bootstrap(monkeypatch, FakeManager([KafkaConnectionError("111 ECONNREFUSED")]))


class Stop(threading.Event):
    """An event whose waits advance a clock."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.advance(timeout or 0.0)
        return False


def failing(errors: Iterator[Exception]) -> Any:
    def call() -> None:
        raise next(errors)

    return call


def forever(error: Exception) -> Iterator[Exception]:
    while True:
        yield error


def retried(errors: Iterator[Exception], **options: float) -> tuple[BrokerUnavailable, float]:
    clock = FakeClock()
    with pytest.raises(BrokerUnavailable) as failure:
        retry(failing(errors), "connecting", 600.0, Stop(clock), clock, **options)
    return failure.value, clock()


def test_a_refusal_ends_a_start_soon_and_an_outage_at_its_deadline() -> None:
    begin = FakeClock()()
    refused, ended = retried(forever(LOGIN_REFUSED), refused_seconds=REFUSED_SECONDS)
    assert ended - begin <= REFUSED_SECONDS
    assert "BOOTSTRAP_SERVERS" not in str(refused), "the address is right"
    _, ended = retried(forever(KafkaTimeoutError()), refused_seconds=REFUSED_SECONDS)
    assert ended - begin > 500
    _, ended = retried(forever(LOGIN_REFUSED))
    assert ended - begin > 500, "in service, a refusal is an outage"


def test_the_short_deadline_counts_from_the_last_first_refusal() -> None:
    def errors() -> Iterator[Exception]:
        for _ in range(20):
            yield KafkaTimeoutError()
            yield LOGIN_REFUSED
        yield from forever(LOGIN_REFUSED)

    begin = FakeClock()()
    _, ended = retried(errors(), refused_seconds=REFUSED_SECONDS)
    assert ended - begin > 50


def test_every_wrapper_keeps_the_refusal() -> None:
    error, cause = TransientBrokerError("offsets of topic readings"), TopicAuthorizationFailedError({"readings"})
    error.__cause__ = cause
    refused, _ = retried(forever(error), refused_seconds=REFUSED_SECONDS)
    assert refusal_in(refused)
    assert describe(cause) == "authorization failed: a right is missing on topic readings"


@pytest.mark.parametrize(
    ("error", "needed"),
    [
        (TopicAuthorizationFailedError({"readings"}), "app needs Read on topic readings"),
        (TopicAuthorizationFailedError("readings.state"), "Read, Write, DescribeConfigs on topic readings.state"),
        (GroupAuthorizationFailedError("fleet"), "app needs Read on groups that begin with fleet"),
        (TransactionalIdAuthorizationFailedError(), "app needs Write on transactional ids that begin with fleet"),
    ],
)
def test_the_missing_right_is_named(error: Exception, needed: str) -> None:
    settings = load_settings(
        kafka={"bootstrap_servers": "none", "group_id": "fleet", "sasl_username": "app"}, topics={"input": "readings"}
    )
    refused, _ = retried(forever(error))
    assert needed in str(with_missing_rights(settings, refused))


def test_an_error_without_a_missing_right_stays_as_it_is() -> None:
    settings = load_settings(kafka={"bootstrap_servers": "none"}, topics={"input": "readings"})
    refused, _ = retried(forever(LOGIN_REFUSED))
    assert with_missing_rights(settings, refused) is refused
