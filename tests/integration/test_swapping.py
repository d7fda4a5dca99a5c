"""Swaps while readings flow and workers are killed: no forecast is missing, doubled or different."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from builders import random_checkpoint
from daemons import START_MS, Daemon, wait_until
from reference_run import CONFIG, ReferenceRun

from forecaster.broker.connection import Connection
from forecaster.broker.plain_clients import CommittedRecord, RecordReader, RecordWriter, create_topic
from forecaster.broker.writer import write_records
from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.core.network.model import Checkpoint, Model
from forecaster.formats.models import ServeOrder, publication, serve_message

pytestmark = pytest.mark.kafka
PARTITIONS = 2
FAULTY = Path(__file__).with_name("faulty_worker.py")
OLD, NEW = random_checkpoint(CONFIG, seed=1), random_checkpoint(CONFIG, cell="lstm", seed=2)
MODELS = [Model(OLD), Model(NEW)]
POINTS = ["after-poll", "mid-transaction", "after-commit", "mid-restore"]


def serve(address: str, topic: str, checkpoint: Checkpoint) -> None:
    """Publish the checkpoint on the models topic, and order the fleet to serve it."""
    order = ServeOrder(checkpoint.id, NO_CHECKPOINT, "operator", "2025-01-01T00:00:00Z", "the test says so")
    messages = [*publication(checkpoint), serve_message(order)]
    write_records(Connection(address, f"{topic}-group"), f"{topic}.models", messages)


@pytest.fixture
def reference(kafka: str, topic: str, tmp_path: Path) -> Iterator[ReferenceRun]:
    create_topic(kafka, topic, PARTITIONS)
    with closing(ReferenceRun(kafka, topic, PARTITIONS, tmp_path)) as run:
        yield run


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_around_a_swap_loses_doubles_and_changes_nothing(
    kafka: str, topic: str, tmp_path: Path, reference: ReferenceRun, point: str
) -> None:
    variables = {"STATE__REPLAY_LIMIT": "300", "NETWORK__CONTEXT": "96"}

    def daemon(fault: str = "") -> Daemon:
        faulty = {"TEST_FAULT": fault} if fault else {}
        return Daemon(tmp_path, kafka, topic, script=FAULTY if fault else None, **variables, **faulty)

    sent = threading.Event()

    def feed_until(true: object, what: str) -> None:
        def fed() -> object:
            reference.send_hours(2)
            reference.count()
            sent.wait(0.1)
            return true()  # type: ignore[operator]

        wait_until(fed, what)

    with daemon() as first:
        first.serving()
        serve(kafka, topic, OLD)
        feed_until(lambda: swaps(first, OLD) == PARTITIONS, "the first swaps")
        serve(kafka, topic, NEW)
        feed_until(lambda: swaps(first, NEW) == PARTITIONS, "the swaps that a kill hits")
        first.send(signal.SIGKILL)
        first.exit_code()
    with daemon(f"{point}:SIGKILL:{1 if point == 'mid-restore' else 4}") as victim:
        feed_until(lambda: victim.process.poll() is not None, f"killed at {point}")
        assert f"fault at {point}" in victim.log
    with daemon() as heir:
        heir.serving()
        serve(kafka, topic, OLD)
        feed_until(lambda: swaps(heir, OLD) == PARTITIONS, "back to the first")
        reference.send_hours(30)
        swaps_of_partitions = reference.expect_swaps(*MODELS)
        assert {swap.checkpoint for partition_swaps in swaps_of_partitions for swap in partition_swaps} == {
            NO_CHECKPOINT,
            OLD.id,
            NEW.id,
        }
        wait_until(lambda: reference.count() >= reference.due, f"all of {reference.due} forecasts")
        reference.expect_swaps(*MODELS)
        reference.assert_all_right()


def swaps(daemon: Daemon, checkpoint: Checkpoint) -> int:
    """Return how many swaps to the checkpoint the daemon has logged."""
    return sum(entry["checkpoint"] == checkpoint.id for entry in daemon.events("swap_started"))


def test_under_load_every_series_switches_once_and_misses_nothing(kafka: str, topic: str, tmp_path: Path) -> None:
    """The load is 2,000 readings a second of 200 series, with two swaps."""
    rate, seconds, series = 2_000, 15, 200
    create_topic(kafka, topic, PARTITIONS)
    with Daemon(tmp_path, kafka, topic, NETWORK__CONTEXT="96", SERIES__INTERVAL="1s") as daemon:
        daemon.serving()
        serve(kafka, topic, OLD)
        with closing(RecordWriter(kafka, topic)) as writer:
            begin, pause = time.monotonic(), threading.Event()
            for tick in range(rate * seconds // series):
                pause.wait(max(0.0, begin + tick * series / rate - time.monotonic()))
                if tick == rate * seconds // series // 2:
                    serve(kafka, topic, NEW)
                for pump in range(series):
                    body = {"timestamp": START_MS + tick * 1_000, "value": (pump * tick) % 17}
                    writer.send(b"pump-%d" % pump, orjson.dumps(body), partition=pump % PARTITIONS)
            writer.flush()
        with closing(RecordReader(kafka, f"{topic}.forecasts", PARTITIONS)) as reader:
            forecasts: list[CommittedRecord] = []
            wait_until(lambda: forecasts.extend(reader.poll()) or len(forecasts) >= rate * seconds, "all forecasts")
        assert swaps(daemon, NEW) == PARTITIONS
    names: dict[bytes, list[str]] = defaultdict(list)
    stamps: dict[bytes, list[int]] = defaultdict(list)
    for record in forecasts:
        body = orjson.loads(record.value or b"")
        names[record.key or b""].append(body["checkpoint"])
        stamps[record.key or b""].append(body["timestamp"])
    assert len(names) == series
    for key, own in names.items():
        assert stamps[key] == [START_MS + tick * 1_000 for tick in range(rate * seconds // series)]
        order = [own[0], *(name for before, name in itertools.pairwise(own) if name != before)]
        assert order[-2:] == [OLD.id, NEW.id]
        assert len(order) == len(set(order))
