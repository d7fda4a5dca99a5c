"""Members of a group come and go, and brokers change their address: each worker serves again within a minute.

This is promised on Apache Kafka, and therefore tested there only.
"""

from __future__ import annotations

import math
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from daemons import SHARED_BROKER, Daemon, Http, Stream, free_port, wait_until
from proxy import Proxy

from forecaster.broker.plain_clients import create_topic

pytestmark = pytest.mark.kafka
PARTITIONS = 2
ROUNDS = 3
OUT_SECONDS = 30.0
"""Longest time that a member may be out of its group while others come and go."""
STEADY_SECONDS = 2.0
OWN_PORT, NEXT_PORT = 19792, 19794


def assert_ready_again(daemon: Daemon, seconds: float) -> None:
    """Wait until the daemon stays ready for `STEADY_SECONDS`: it may not know yet that the group changes."""
    http, ready_since = Http(daemon), math.inf

    def stays_ready() -> bool:
        nonlocal ready_since
        is_ready, now = http.get("readyz")[0] == 200, time.monotonic()
        ready_since = min(ready_since, now) if is_ready else math.inf
        return now - ready_since >= STEADY_SECONDS

    wait_until(stays_ready, "a worker that stays a member", seconds + STEADY_SECONDS)


def test_members_that_read_another_topic_come_and_go_and_none_is_left_out(
    kafka: str, topic: str, tmp_path: Path
) -> None:
    """Two deployments share a group: the leader sees topics come and go with their members."""
    other, group = f"{topic}-other", {"KAFKA__GROUP_ID": f"{topic}-shared", "ROLE": "both"}
    for name in (topic, other):
        create_topic(kafka, name, PARTITIONS)
    with closing(Stream(kafka, topic, PARTITIONS)) as stream, Daemon(tmp_path, kafka, topic, **group) as one:
        one.serving()
        with closing(Stream(kafka, other, PARTITIONS)) as second:
            for number in range(ROUNDS):
                with Daemon(tmp_path, kafka, other, **group) as two:
                    wait_until(lambda two=two: two.events("partitions_opened"), "the other deployment")  # type: ignore[misc]
                    stream.send_hours(2)
                    second.send_hours(2)
                    assert_ready_again(one, OUT_SECONDS)
                    if number == ROUNDS - 1:
                        second.assert_exactly_once()
                    two.send(signal.SIGKILL if number % 2 else signal.SIGTERM)
                    two.exit_code()
        stream.send_hours(2)
        stream.assert_exactly_once()
        assert not one.events("out_of_group"), one.log
        assert not one.events("client_renewed"), one.log


@contextmanager
def running_broker(folder: Path, port: int) -> Iterator[str]:
    """Run a broker of its own, whose data is in a folder."""
    subprocess.run([SHARED_BROKER, "start", folder, str(port)], check=True, timeout=120)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        subprocess.run([SHARED_BROKER, "stop", folder], check=False, timeout=60)


@pytest.mark.skipif(not SHARED_BROKER.is_file(), reason="needs a broker that can be started at another port")
def test_a_worker_follows_its_broker_to_another_address(topic: str, tmp_path: Path) -> None:
    """The bootstrap address leads to the broker, as a name does; what the broker says of itself is another address."""
    folder, dead = tmp_path / "kafka", free_port()
    with ExitStack() as resources:
        door = Proxy(free_port(), OWN_PORT)
        resources.callback(door.close)
        servers = f"127.0.0.1:{dead},127.0.0.1:{door.port}"
        daemon = Daemon(tmp_path, servers, topic, ROLE="both", KAFKA__OUTAGE_DEADLINE="120s")
        with running_broker(folder, OWN_PORT) as address:
            create_topic(address, topic, PARTITIONS)
            resources.enter_context(daemon).serving()
            wait_until(lambda: daemon.events("trainer_elected"), "a trainer")
            with closing(Stream(address, topic, PARTITIONS)) as stream:
                stream.send_hours(5)
                stream.assert_exactly_once()
            sent, hour = stream.sent, stream.hour
        with running_broker(folder, NEXT_PORT) as address:
            door.lead_to(NEXT_PORT)
            begin = time.monotonic()
            with closing(Stream(address, topic, PARTITIONS)) as stream:
                stream.sent, stream.hour = sent, hour
                stream.send_hours(5)
                stream.assert_exactly_once()
            assert time.monotonic() - begin < 60.0, daemon.log
            wait_until(lambda: len(daemon.events("trainer_elected")) == 2, "the trainer, too")
            renewed = {entry["client"] for entry in daemon.events("client_renewed")}
            assert {f"group {topic}-group", f"group {topic}-group-trainer"} <= renewed
            assert_ready_again(daemon, 30.0)
