"""What learning costs the forecasts: latency during a training, and batches while a checkpoint changes.

python tests/benchmarks/learning.py latency --bootstrap HOST:PORT [--rounds 2]
python tests/benchmarks/learning.py swap --bootstrap HOST:PORT

Both at 2,000 readings a second of 1,000 series, with the default network. A training runs all the time in every second
round of `latency`; p99 is of the time from appending a reading to reading its forecast.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import threading
import time
import uuid
from contextlib import ExitStack, closing
from pathlib import Path

import orjson
import structlog
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from builders import START_MS, pipeline_config, random_checkpoint
from daemons import Daemon, wait_until

from forecaster.app.daemon import connect_worker
from forecaster.app.threads import TORCH_THREADS
from forecaster.broker.connection import Connection
from forecaster.broker.plain_clients import RecordReader, RecordWriter, create_topic
from forecaster.broker.writer import write_records
from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.formats.models import ServeOrder, publication, serve_message
from forecaster.settings import load_settings

RATE, SERIES, PARTITIONS = 2_000, 1_000, 4
SETTLING_SECONDS, SECONDS = 10, 30
PACKET = 20
CONFIG = pipeline_config(interval_ms=1_000, horizon=24, context=96, chain=("range", "hampel"))


def name() -> str:
    return f"bench-{uuid.uuid4().hex[:8]}"


class Sensors(threading.Thread):
    """Sends readings at the rate until it is told to end, and remembers when."""

    def __init__(self, address: str, topic: str) -> None:
        super().__init__(daemon=True)
        self.sent: dict[tuple[bytes, int], float] = {}
        self.end = threading.Event()
        self._address, self._topic = address, topic

    def run(self) -> None:
        begin, number = time.monotonic(), 0
        with closing(RecordWriter(self._address, self._topic)) as writer:
            while not self.end.is_set():
                for _ in range(PACKET):
                    tick, series = divmod(number, SERIES)
                    stamp, key = START_MS + tick * 1_000, b"pump-%d" % series
                    value = round(20 + (series * 7 + tick * tick) % 13 / 3, 2)
                    self.sent[key, stamp] = time.monotonic()
                    body = orjson.dumps({"timestamp": stamp, "value": value})
                    writer.send(key, body, partition=series % PARTITIONS)
                    number += 1
                writer.flush()
                self.end.wait(max(0.0, begin + number / RATE - time.monotonic()))


def latencies(address: str, *, training: bool) -> list[float]:
    """Seconds from append to forecast of the readings after the settling, sorted."""
    topic = name()
    create_topic(address, topic, PARTITIONS)
    variables = {
        "ROLE": "both",
        "FORECAST__HORIZON": "24",
        "SERIES__INTERVAL": "1s",
        "KAFKA__SESSION_TIMEOUT": "15s",
        "TRAINING__SCHEDULE": "every 1s" if training else "off",
        "TRAINING__READOUT_SCHEDULE": "off" if training else "every 1d",
        "TRAINING__MIN_READINGS": "10000" if training else "1000000000",
        "TRAINING__MIN_NEW_TICKS": "1",
    }
    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Daemon(Path(folder), address, topic, **variables) as daemon:
        daemon.serving()
        sensors = Sensors(address, topic)
        with closing(RecordReader(address, f"{topic}.forecasts", PARTITIONS)) as reader:
            sensors.start()
            if training:
                wait_until(lambda: list(reader.poll()) and "training_run_started" in daemon.log, "a training", 60)
            begin = time.monotonic()
            while time.monotonic() < begin + SETTLING_SECONDS + SECONDS:
                for record in reader.poll():
                    stamp = orjson.loads(record.value or b"")["timestamp"]
                    sent = sensors.sent[record.key or b"", stamp]
                    if sent > begin + SETTLING_SECONDS:
                        found.append(time.monotonic() - sent)
            sensors.end.set()
        began, ended = daemon.log.count("training_run_started"), daemon.log.count("training_run_decided")
        sys.stdout.write(f"training {training}: {len(found):,} forecasts, {began} trainings begun, {ended} ended\n")
    return sorted(found)


def latency(address: str, rounds: int) -> None:
    p50: dict[bool, list[float]] = {False: [], True: []}
    p99: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for training in (False, True):
            found = latencies(address, training=training)
            p50[training].append(found[len(found) // 2])
            p99[training].append(found[int(0.99 * len(found))])
    for title, of in (("p50", p50), ("p99", p99)):
        quiet, busy = statistics.median(of[False]), statistics.median(of[True])
        ratio = busy / quiet
        sys.stdout.write(f"{title}: {1e3 * quiet:.0f} ms, while training {1e3 * busy:.0f} ms, ratio {ratio:.2f}\n")


def swap(address: str) -> None:
    """Mean seconds of the worker's rounds with records: before, during and after a change of the body."""
    topic, group = name(), name()
    create_topic(address, topic, PARTITIONS)
    settings = load_settings(
        kafka={"bootstrap_servers": address, "group_id": group}, topics={"input": topic}, series={"interval": 1_000}
    )
    bodies = [random_checkpoint(CONFIG, seed=seed, hidden_size=64) for seed in (1, 2)]
    with ExitStack() as stack:
        worker, _ = connect_worker(settings, threading.Event(), stack)
        serve(address, topic, bodies[0].id, publication(bodies[0]))
        sensors = Sensors(address, topic)
        sensors.start()
        stack.callback(sensors.end.set)
        warm_up = rounds(worker, SETTLING_SECONDS + 15)
        before = rounds(worker, 10)
        serve(address, topic, bodies[1].id, publication(bodies[1]))
        during = rounds(worker, 2)
        after = rounds(worker, 10)
    for title, (seconds, readings) in (("warm-up", warm_up), ("before", before), ("during", during), ("after", after)):
        mean, size = statistics.mean(seconds), readings / len(seconds)
        sys.stdout.write(f"{title:<8} {1e3 * mean:6.1f} ms a batch of {size:.0f} readings on average\n")
    quiet = statistics.mean([*before[0], *after[0]])
    sys.stdout.write(f"batches during a swap / others: {statistics.mean(during[0]) / quiet:.2f}\n")


def serve(address: str, topic: str, checkpoint: str, messages: list) -> None:
    order = ServeOrder(checkpoint, NO_CHECKPOINT, "operator", "2025-01-01T00:00:00Z", "benchmark")
    write_records(Connection(address, "bench"), f"{topic}.models", [*messages, serve_message(order)])


def rounds(worker: object, seconds: float) -> tuple[list[float], int]:
    """How long the worker's serving of each batch took, and how many readings there were."""
    taken: list[float] = []
    parts = vars(worker)
    serving, before = worker._serve, worker.counters.records  # type: ignore[attr-defined]  # noqa: SLF001

    def timed(*arguments: object) -> None:
        begin = time.perf_counter()
        serving(*arguments)
        taken.append(time.perf_counter() - begin)

    parts["_serve"] = timed
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        worker.iterate()  # type: ignore[attr-defined]
    del parts["_serve"]
    return taken, worker.counters.records - before  # type: ignore[attr-defined]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=["latency", "swap"])
    arguments.add_argument("--bootstrap", required=True)
    arguments.add_argument("--rounds", type=int, default=2)
    given = arguments.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    torch.set_num_threads(TORCH_THREADS)
    if given.what == "latency":
        latency(given.bootstrap, given.rounds)
    else:
        swap(given.bootstrap)


if __name__ == "__main__":
    main()
