"""Options of each Kafka client, from plain values; operators cannot change those that the guarantees rest on."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from forecaster.broker.tolerant_connections import BoundedNetClient
from forecaster.errors import UsageError

TRANSACTION_TIMEOUT_MS = 15_000
"""Longest time for which the open transaction of a dead worker blocks its readers and its successor."""
DELIVERY_TIMEOUT_MS = 12_000
REQUEST_TIMEOUT_MS = 8_000
RETRY_BACKOFF_MS = 5
"""The broker defers a transaction that begins right after a commit; the client's 100 ms would slow down each one."""
BOOTSTRAP_TIMEOUT_MS = 5_000
MAX_POLL_RECORDS = 2_000
MAX_POLL_INTERVAL_MS = 300_000
MAX_REQUEST_BYTES = 1_048_576
READER_FETCH_BYTES = 8_388_608
READER_WAIT_MS = 20
"""A log reader goes from one partition to the next, so a fetch at the end of one must not wait for new records."""
TAIL_POLL_RECORDS = 500
SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)  # names of Linux
    ),
]
"""TCP notices after 25 s that a peer has vanished, also while a request to join waits for other members."""
TRAINERS_SUFFIX = "-trainer"
"""End of the name of the consumer group that elects who trains."""

GUARANTEES = {
    "isolation_level": "read_committed",
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "partition_assignment_strategy": (CooperativeStickyAssignor,),
    "enable_idempotence": True,
    "acks": "all",
    "transaction_timeout_ms": TRANSACTION_TIMEOUT_MS,
    "allow_auto_create_topics": False,
}
"""Values that exactly-once delivery rests on; the same for every client that knows the option."""
RESERVED = frozenset(
    {
        "bootstrap_servers",
        "group_id",
        "group_instance_id",
        "kafka_client",
        "key_deserializer",
        "key_serializer",
        "partitioner",
        "sasl_mechanism",
        "sasl_plain_password",
        "sasl_plain_username",
        "security_protocol",
        "session_timeout_ms",
        "ssl_cafile",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_password",
        "transactional_id",
        "value_deserializer",
        "value_serializer",
    }
)
"""Options that other variables or forecaster itself decide."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Address and identity for all Kafka clients of a process.

    Attributes:
        bootstrap_servers: addresses to connect to first, `host:port,host:port`.
        group_id: name of the consumer group.
        instance_id: identity as a static member of the consumer group; empty = dynamic member.
        session_timeout_ms: time without a heartbeat after which a member loses its partitions.
        security: options of every client: protocol, SASL, SSL.
        options: options that the operator has set; each applies to the clients that know it.

    Raises:
        UsageError: an option of the operator is unknown, or not the operator's to set.
    """

    bootstrap_servers: str
    group_id: str
    instance_id: str = ""
    session_timeout_ms: int = 15_000
    security: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {**KafkaConsumer.DEFAULT_CONFIG, **KafkaProducer.DEFAULT_CONFIG, **KafkaAdminClient.DEFAULT_CONFIG}
        for name in self.options:
            if name in GUARANTEES:
                raise UsageError(
                    f"FORECASTER_KAFKA__OPTIONS: {name} cannot be changed, because exactly-once delivery rests on its "
                    "value: leave it out"
                )
            if name in RESERVED:
                raise UsageError(
                    f"FORECASTER_KAFKA__OPTIONS: {name} has a variable of its own, or is decided by forecaster: "
                    "leave it out"
                )
            if name not in known:
                raise UsageError(
                    f"FORECASTER_KAFKA__OPTIONS: no Kafka client has an option {name!r}: correct it, or leave it out"
                )

    def for_trainers(self) -> Connection:
        """Return the connection of a dynamic member of the trainers' group, which elects who trains."""
        return replace(self, group_id=f"{self.group_id}{TRAINERS_SUFFIX}", instance_id="")

    @property
    def heartbeat_ms(self) -> int:
        """Time between two heartbeats of a member."""
        return self.session_timeout_ms // 5

    def admin_options(self) -> dict[str, Any]:
        """Return the options of an admin client."""
        return self._of(KafkaAdminClient, {"request_timeout_ms": REQUEST_TIMEOUT_MS})

    def consumer_options(self) -> dict[str, Any]:
        """Return the options of a consumer that is a member of the consumer group."""
        fixed = {
            "group_id": self.group_id,
            "session_timeout_ms": self.session_timeout_ms,
            "heartbeat_interval_ms": self.heartbeat_ms,
            "request_timeout_ms": max(REQUEST_TIMEOUT_MS, self.session_timeout_ms + 1_000),
            "max_poll_records": MAX_POLL_RECORDS,
            "max_poll_interval_ms": MAX_POLL_INTERVAL_MS,
        }
        if self.instance_id:
            fixed["group_instance_id"] = self.instance_id
        return self._of(KafkaConsumer, fixed)

    def reader_options(self) -> dict[str, Any]:
        """Return the options of a consumer of single partitions that is not a member of the consumer group.

        Reading an offset that retention has deleted is an error, because a gap in stored state must not go unnoticed.
        """
        fixed = {
            "group_id": self.group_id,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "max_poll_records": MAX_POLL_RECORDS,
            "max_partition_fetch_bytes": READER_FETCH_BYTES,
            "auto_offset_reset": "none",
            "fetch_max_wait_ms": READER_WAIT_MS,
        }
        return self._of(KafkaConsumer, fixed)

    def tail_options(self) -> dict[str, Any]:
        """Return the options of a consumer without a group that follows a whole topic, a few records at a time.

        If retention has deleted its next offset, it continues at the first one that is left.
        """
        fixed = {
            "group_id": self.group_id,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "max_poll_records": TAIL_POLL_RECORDS,
            "fetch_max_bytes": READER_FETCH_BYTES,
        }
        return self._of(KafkaConsumer, fixed)

    def writer_options(self) -> dict[str, Any]:
        """Return the options of a producer without transactions, for commands."""
        return self._of(
            KafkaProducer,
            {
                "delivery_timeout_ms": DELIVERY_TIMEOUT_MS,
                "request_timeout_ms": REQUEST_TIMEOUT_MS,
                "max_block_ms": REQUEST_TIMEOUT_MS,
                "max_request_size": MAX_REQUEST_BYTES,
            },
        )

    def producer_options(self, transactional_id: str) -> dict[str, Any]:
        """Return the options of a transactional producer."""
        return self._of(
            KafkaProducer,
            {
                "transactional_id": transactional_id,
                "delivery_timeout_ms": DELIVERY_TIMEOUT_MS,
                "request_timeout_ms": REQUEST_TIMEOUT_MS,
                "max_block_ms": TRANSACTION_TIMEOUT_MS,
                "retry_backoff_ms": RETRY_BACKOFF_MS,
                "linger_ms": 5,
                "batch_size": 262_144,
                "max_request_size": MAX_REQUEST_BYTES,
            },
        )

    def _of(self, client: Any, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that a kind of client knows; the operator's win over `fixed`."""
        shared = {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS,
            "client_id": "forecaster",
            "kafka_client": BoundedNetClient,
            "socket_options": SOCKET_OPTIONS,
        }
        options = {**shared, **self.security, **GUARANTEES, **fixed, **self.options}
        return {name: value for name, value in options.items() if name in client.DEFAULT_CONFIG}
