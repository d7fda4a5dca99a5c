"""A broker that takes records only slowly: transactions become smaller, and nothing is lost or doubled.

This is promised on Apache Kafka, and therefore tested there only.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import orjson
import pytest
from daemons import Daemon, Stream, wait_until
from quotas import limit_writes

from forecaster.broker.plain_clients import create_topic

pytestmark = pytest.mark.kafka
PARTITIONS, HOURS = 2, 500
BYTES_PER_SECOND = 12_000.0
"""A transaction of 64 records takes seconds; one of 500 takes longer than a transaction may last."""


def test_transactions_fit_a_quota_and_grow_again_without_it(kafka: str, topic: str, tmp_path: Path) -> None:
    create_topic(kafka, topic, PARTITIONS)
    options = orjson.dumps({"client_id": topic}).decode()
    with (
        closing(Stream(kafka, topic, PARTITIONS)) as stream,
        Daemon(tmp_path, kafka, topic, KAFKA__OPTIONS=options) as daemon,
    ):
        daemon.serving()
        limit_writes(kafka, topic, BYTES_PER_SECOND)
        stream.send_hours(HOURS)
        wait_until(lambda: daemon.events("transaction_failed"), "a transaction that is too large for the quota", 90)
        (failure, *_) = daemon.events("transaction_failed")
        assert failure["reason"] == "timeout"
        assert "quota" in failure["error"]
        before = stream.receive()
        wait_until(lambda: stream.receive() > before, "a smaller transaction")
        limit_writes(kafka, topic, None)
        stream.assert_exactly_once()
