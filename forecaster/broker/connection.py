"""From plain values to the options of each Kafka client; those that the guarantees rest on are fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from forecaster.errors import UsageError

TRANSACTION_TIMEOUT_MS = 15_000
"""A dead worker's open transaction holds its readers and its successor up for so long at most."""
DELIVERY_TIMEOUT_MS = 12_000
REQUEST_TIMEOUT_MS = 8_000
RETRY_BACKOFF_MS = 5
"""A transaction begun right after a commit is told to try again: with the default of 100 ms, each one."""
BOOTSTRAP_TIMEOUT_MS = 5_000
MAX_POLL_RECORDS = 2_000
MAX_POLL_INTERVAL_MS = 300_000
MAX_REQUEST_BYTES = 1_048_576
READER_FETCH_BYTES = 8_388_608
TAIL_POLL_RECORDS = 500
TRAINERS = "-trainer"
"""What the name of the trainers' group ends with."""
READER_WAIT_MS = 20
"""A reader goes from one partition to the next, and must not wait for more of the one before."""

GUARANTEED = {
    "isolation_level": "read_committed",
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "partition_assignment_strategy": (CooperativeStickyAssignor,),
    "enable_idempotence": True,
    "acks": "all",
    "transactional_id": None,
    "transaction_timeout_ms": TRANSACTION_TIMEOUT_MS,
    "group_id": None,
    "group_instance_id": None,
    "bootstrap_servers": None,
    "session_timeout_ms": None,
    "key_serializer": None,
    "value_serializer": None,
    "key_deserializer": None,
    "value_deserializer": None,
    "partitioner": None,
    "allow_auto_create_topics": False,
    "security_protocol": None,
    "sasl_mechanism": None,
    "sasl_plain_username": None,
    "sasl_plain_password": None,
    "ssl_cafile": None,
    "ssl_certfile": None,
    "ssl_keyfile": None,
    "ssl_password": None,
}
"""Options that an operator cannot set by KAFKA__OPTIONS: the guarantees, or other variables, decide them."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How the broker is reached, and as whom.

    Attributes:
        bootstrap_servers: `host:port,host:port`.
        group_id: the consumer group.
        instance_id: of a static member; empty = dynamic.
        session_timeout_ms: a member not heard of for so long has lost its partitions.
        security: options of every client: protocol, SASL, SSL.
        options: the operator's own; each goes to the clients that know it.
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
            if name in GUARANTEED:
                raise UsageError(
                    f"FORECASTER_KAFKA__OPTIONS: {name} is decided by the guarantees, or by another variable"
                )
            if name not in known:
                raise UsageError(f"FORECASTER_KAFKA__OPTIONS: no Kafka client knows {name!r}")

    def for_trainers(self) -> Connection:
        """Returns the same as a dynamic member of the trainers' group, which elects who trains."""
        return replace(self, group_id=f"{self.group_id}{TRAINERS}", instance_id="")

    @property
    def heartbeat_ms(self) -> int:
        """A member is heard of so often."""
        return self.session_timeout_ms // 5

    def admin_options(self) -> dict[str, Any]:
        """Returns the options of an admin client."""
        return self._of(KafkaAdminClient, {"request_timeout_ms": REQUEST_TIMEOUT_MS})

    def consumer_options(self) -> dict[str, Any]:
        """Returns the options of a consumer that is a member of the group."""
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
        """Returns the options of a consumer that is assigned its partitions by hand, and is no member of the group.

        An offset that is gone is an error for it: what it reads must be whole.
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
        """Returns the options of a reader of a whole topic, in small bites: nobody waits for it to be through.

        It goes on at what is left where retention has overtaken it.
        """
        fixed = {
            "group_id": self.group_id,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "max_poll_records": TAIL_POLL_RECORDS,
            "fetch_max_bytes": READER_FETCH_BYTES,
        }
        return self._of(KafkaConsumer, fixed)

    def writer_options(self) -> dict[str, Any]:
        """Returns the options of a producer without transactions, for commands."""
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
        """Returns the options of a transactional producer."""
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
        shared = {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS,
            "client_id": "forecaster",
        }
        guaranteed = {name: value for name, value in GUARANTEED.items() if value is not None}
        options = {**shared, **self.security, **guaranteed, **fixed, **self.options}
        return {name: value for name, value in options.items() if name in client.DEFAULT_CONFIG}
