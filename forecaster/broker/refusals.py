"""Logins, certificates and rights that a broker refuses: which one it was, for whom, and which variable is wrong.

The client tries again after each of them, as if no broker were there, and reports only a timeout at the end.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

from kafka.errors import (
    AuthorizationError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from kafka.net.manager import KafkaConnectionManager

LOGIN = (SaslAuthenticationFailedError, UnsupportedSaslMechanismError, IllegalSaslStateError)
TLS_REASONS = ("ALERT", "WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "NO_SHARED_CIPHER", "HTTP_REQUEST")
"""Parts of OpenSSL's reasons that mean a refusal; others, such as an unexpected end, happen in every outage."""
PREFIX = "FORECASTER_KAFKA__"
NO_CERTIFICATE = ("certificate", "unknown ca", "unknown_ca")
"""Parts of the alerts with which a broker refuses the certificate of this client."""


class RefusalManager(KafkaConnectionManager):  # type: ignore[misc]
    """The connections of one client; an error of a refused one says who was refused and why.

    A client that is refused by all bootstrap servers gives up at once.
    """

    def __init__(self, net: Any, **configs: Any) -> None:
        super().__init__(net, **configs)
        self._seen: WeakSet[Any] = WeakSet()
        self._refusals: dict[Any, Exception] = {}
        self._last_failure = "no connection was tried"

    def bootstrap(self, timeout_ms: float | None = None, refresh: bool = True) -> None:  # noqa: FBT001, FBT002 - signature of the client
        """Connect to a bootstrap server.

        Raises:
            KafkaError: no bootstrap server could be used; if one of them has refused this client, the error says so.
        """
        try:
            super().bootstrap(timeout_ms, refresh)
        except KafkaTimeoutError as error:
            for refusal in self._refusals.values():
                raise refusal from error
            raise KafkaTimeoutError(f"{error.args[0]}; {self._last_failure}") from error

    def get_connection(self, node_id: Any, *arguments: Any, **options: Any) -> Any:
        """Return the connection to a node, which may still be in setup."""
        servers = {server.node_id for server in self.cluster.bootstrap_brokers()}
        if node_id in servers and servers <= self._refusals.keys():
            raise self._refusals[node_id]
        connection = super().get_connection(node_id, *arguments, **options)
        if connection not in self._seen:
            self._seen.add(connection)
            connection.init_future.add_callback(lambda _: self._refusals.pop(node_id, None))
            connection.init_future.add_errback(lambda error: self._note(node_id, error))
        return connection

    def _note(self, node_id: Any, error: Exception) -> None:
        """Write the explanation into the error, which is raised wherever somebody waits for the connection."""
        node, refusal = self.cluster.broker_metadata(node_id), refusal_in(error)
        address = f"{node.host}:{node.port}" if node else f"node {node_id}"
        self._last_failure = f"{address}: {error}"
        self._refusals.pop(node_id, None)
        if refusal is not None:
            error.__notes__ = [_connection_refused(refusal, address, self.config)]
            self._refusals[node_id] = error


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, and every error that is wrapped in it as an argument or as its cause."""
    yield error
    for inner in [*error.args, error.__cause__]:
        if isinstance(inner, BaseException):
            yield from causes(inner)


def refusal_in(error: BaseException) -> BaseException | None:
    """Return the refusal that an error is or wraps: one that lasts until somebody changes a setting or a right."""
    return next(filter(_is_refusal, causes(error)), None)


def explanation(error: BaseException) -> str:
    """Return what was refused and what to do, for people; empty = nothing was refused."""
    if refusal_in(error) is None:
        return ""
    for cause in causes(error):
        for note in getattr(cause, "__notes__", ()):
            return str(note)
    return _right_refused(error)


def _is_refusal(error: BaseException) -> bool:
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLCertVerificationError):
        return any(part in (error.reason or "") for part in TLS_REASONS)
    return isinstance(error, (*LOGIN, AuthorizationError, ssl.SSLCertVerificationError))


def refused_resources(error: BaseException) -> Iterator[tuple[str, str]]:
    """Yield kind and name of each resource on which this user lacks a right; an empty name = the error tells none."""
    kinds = {
        TopicAuthorizationFailedError: "topic",
        GroupAuthorizationFailedError: "group",
        TransactionalIdAuthorizationFailedError: "transactional id",
    }
    for cause in causes(error):
        kind = next((kind for kind_of_error, kind in kinds.items() if isinstance(cause, kind_of_error)), "cluster")
        if isinstance(cause, AuthorizationError):
            names = [name for part in cause.args for name in ([part] if isinstance(part, str) else part)]
            yield from ((kind, str(name)) for name in sorted(names) or [""])


def _right_refused(error: BaseException) -> str:
    """Return on which resources this user lacks a right; empty = the error is not about rights."""
    resources = [f"{kind} {name}".strip() for kind, name in refused_resources(error)]
    return f"authorization failed: a right is missing on {', '.join(dict.fromkeys(resources))}" if resources else ""


def _connection_refused(error: BaseException, address: str, config: dict[str, Any]) -> str:
    """Return why a connection was refused, and which variable may be wrong."""
    user, mechanism = config["sasl_plain_username"], config["sasl_mechanism"]
    if isinstance(error, ssl.SSLError):
        return _tls_failed(error, address, config)
    if isinstance(error, UnsupportedSaslMechanismError):
        reason = f"the broker does not offer {mechanism}; check {PREFIX}SASL_MECHANISM"
    elif isinstance(error, IllegalSaslStateError):
        reason = f"the broker expects no login at this address; check {PREFIX}SECURITY_PROTOCOL"
    else:
        said = str(error.args[0]).partition(": ")[2] if error.args else ""
        reason = f"{said or 'the broker refused the login'}; check {PREFIX}SASL_USERNAME and {PREFIX}SASL_PASSWORD"
    return f"authentication failed: user {user!r} at {address}: {mechanism}: {reason}"


def _tls_failed(error: ssl.SSLError, address: str, config: dict[str, Any]) -> str:
    """Return why TLS failed, and which file or variable may be wrong."""
    reason = str(error.reason or error).replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = config["ssl_cafile"] or "the authorities of the system"
        advice = f"it was checked with {trusted}; check {PREFIX}SSL_CAFILE, and the host in {PREFIX}BOOTSTRAP_SERVERS"
        return f"TLS failed: the certificate of {address} was not accepted: {error.verify_message}; {advice}"
    if "alert" in reason and any(part in reason for part in NO_CERTIFICATE):
        own = config["ssl_certfile"] or "none"
        advice = f"check {PREFIX}SSL_CERTFILE ({own}) and {PREFIX}SSL_KEYFILE"
        return f"TLS failed: {address} did not accept the certificate of this client: {reason}; {advice}"
    return f"TLS failed: {address}: {reason}; check {PREFIX}SECURITY_PROTOCOL and the port"
