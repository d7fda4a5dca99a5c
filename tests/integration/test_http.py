"""HTTP of a running daemon: the answers are right, and asking does not disturb the worker."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import ExitStack, closing, suppress
from http.client import HTTPException
from pathlib import Path

from daemons import Daemon, Http, Stream, free_port, wait_until

from forecaster.broker.plain_clients import RecordWriter, create_topic
from forecaster.web.server import MAX_CONNECTIONS

PARTITIONS = 2
HUNG_WORKER = Path(__file__).with_name("hung_worker.py")


def test_readiness_status_series_and_metrics_are_right(broker: str, topic: str, tmp_path: Path) -> None:
    create_topic(broker, topic, PARTITIONS)
    with Daemon(tmp_path, broker, topic) as daemon:
        http = Http(daemon.serving())
        with closing(Stream(broker, topic, PARTITIONS)) as stream:
            stream.send_hours(30)
            stream.assert_exactly_once()
        wait_until(lambda: http.json("status")["forecasts"] == 300, "a new status")
        status = http.json("status")
        assert [partition["state"] for partition in status["partitions"]] == ["serving"] * PARTITIONS
        assert sum(partition["lag"] for partition in status["partitions"]) <= PARTITIONS, "only markers may be unread"
        assert http.json("series")["found"] == 10
        assert http.json("forecasts/pump-3")["timestamp"] == json.loads(stream.forecasts[-1].value or b"")["timestamp"]
        assert "forecaster_forecasts_total 300.0" in http.get("metrics")[1]


def test_constant_requests_cost_no_forecast(broker: str, topic: str, tmp_path: Path) -> None:
    create_topic(broker, topic, PARTITIONS)
    with Daemon(tmp_path, broker, topic) as daemon:
        http, stop, answers = Http(daemon.serving()), threading.Event(), list[int]()

        def ask() -> None:
            while not stop.is_set():
                for path in ("metrics", "api/v1/series", "api/v1/series/pump-1", "api/v1/series/nobody", "page/none"):
                    answers.append(http.get(path)[0])

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        with closing(Stream(broker, topic, PARTITIONS)) as stream:
            stream.send_hours(120)
            stream.assert_exactly_once()
        stop.set()
        for thread in threads:
            thread.join()
    assert set(answers) <= {200, 404, 503}
    assert answers.count(200) >= 20, "too few requests were answered"


def test_clients_that_hold_connections_and_flood_delay_neither_probes_nor_forecasts(
    broker: str, topic: str, tmp_path: Path
) -> None:
    """There are more of their connections than the server keeps; ids are nearly right."""
    create_topic(broker, topic, PARTITIONS)
    probe_port, stop = free_port(), threading.Event()
    with Daemon(tmp_path, broker, topic, HTTP__PROBE_PORT=str(probe_port)) as daemon, ExitStack() as clients:
        http, probes = Http(daemon.serving()), Http(daemon, probe_port)
        for _ in range(MAX_CONNECTIONS + 50):
            link = clients.enter_context(socket.create_connection(("127.0.0.1", daemon.port), 10))
            link.sendall(b"GET /page/plotly.js HTTP/1.1\r\nHost: x\r\n\r\n")

        def flood() -> None:
            while not stop.is_set():
                with suppress(OSError, HTTPException):
                    http.get("api/v1/series/pump-" + "x" * 500)

        threads = [threading.Thread(target=flood) for _ in range(4)]
        for thread in threads:
            thread.start()
        with closing(Stream(broker, topic, PARTITIONS)) as stream:
            for _ in range(10):
                stream.send_hours(5)
                for asked in (http, probes):
                    assert [asked.get(path)[0] for path in ("livez", "readyz", "metrics")] == [200, 200, 200]
            stream.assert_exactly_once()
        stop.set()
        for thread in threads:
            thread.join()
        assert probes.get("api/v1/status")[0] == 404


def test_a_held_partition_is_not_ready_and_a_wait_for_a_broker_is_alive(
    broker: str, topic: str, tmp_path: Path
) -> None:
    create_topic(broker, topic, PARTITIONS)
    limits = {"DEAD_LETTERS__MAX_CONSECUTIVE": "5"}
    with Daemon(tmp_path, broker, topic, **limits) as daemon:
        http = Http(daemon.serving())
        with closing(RecordWriter(broker, topic)) as writer:
            for _ in range(10):
                writer.send(b"pump", b"no json", partition=1)
            writer.flush()
        wait_until(lambda: "held: 1" in http.get("readyz")[1], "a held partition")
    with Daemon(tmp_path, "127.0.0.1:1", topic) as daemon:
        http = Http(daemon).wait()
        assert http.get("livez")[0] == 200
        assert http.get("readyz")[0] == 503


def test_a_worker_that_hangs_ends_with_exit_code_7_and_its_stacks(broker: str, topic: str, tmp_path: Path) -> None:
    create_topic(broker, topic, PARTITIONS)
    with Daemon(tmp_path, broker, topic, script=HUNG_WORKER) as daemon:
        daemon.serving()
        with closing(Stream(broker, topic, PARTITIONS)) as stream:
            stream.send_hours(1)
        assert daemon.exit_code(60) == 7
        assert "hung_worker.py" in daemon.log
