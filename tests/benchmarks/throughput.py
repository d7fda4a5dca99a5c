"""Forecasts per second of the real worker against a bare loop of the same client.

    .venv/bin/python tests/benchmarks/throughput.py --bootstrap localhost:9092

Both read the same topic, each in a group of its own, and write the same records in transactions. The bare loop takes
what a poll delivers; the worker limits its batches to about 200 ms of computing. They take turns; the ratio is that of
the medians. The bare loop only copies what the worker once wrote: what is missing to 1 is the cost of forecasting. A
second worker, which also writes the training history, takes its turn, too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import torch
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from forecaster.app.daemon import connect_worker
from forecaster.app.threads import TORCH_THREADS
from forecaster.broker.connection import Connection
from forecaster.broker.plain_clients import RecordReader, RecordWriter, create_topic
from forecaster.core.network.model import Checkpoint
from forecaster.core.network.network import Network, NetworkConfig
from forecaster.formats.checkpoints import write_checkpoint
from forecaster.serving import publisher as publishing
from forecaster.serving import worker as worker_module
from forecaster.settings import load_settings

HOUR_MS, START_MS = 3_600_000, 1_735_689_600_000
Stages = dict[str, float]


def untrained_checkpoint(folder: Path) -> str:
    """Write a checkpoint of the default network with random weights; return its folder."""
    torch.manual_seed(0)
    config = NetworkConfig(horizons=tuple(range(1, 25)), quantile_levels=(0.1, 0.5, 0.9))
    readout = torch.randn(config.readout_size, 24) * 0.01
    return str(write_checkpoint(Checkpoint("benchmark", config, Network(config).state_dict(), readout, {}), folder))


def fill(address: str, topic: str, series: int, ticks: int, partitions: int) -> int:
    """Write one reading of each series for each tick; return their number."""
    create_topic(address, topic, partitions)
    with closing(RecordWriter(address, topic)) as writer:
        for tick in range(ticks):
            for one in range(series):
                value = {"timestamp": START_MS + tick * HOUR_MS, "value": round(20 + (one * 7 + tick * tick) % 13, 1)}
                writer.send(f"series-{one}".encode(), orjson.dumps(value), partition=one % partitions)
    return series * ticks


def timed(stages: Stages, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, with its time added to a stage."""

    def wrapped(*arguments: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            stages[name] = stages.get(name, 0.0) + time.perf_counter() - begin

    return wrapped


def run_worker(address: str, topic: str, count: int, checkpoint: str, *, history: bool = False) -> tuple[float, Stages]:
    """Seconds from the first record to the last commit, and where they went."""
    settings = load_settings(
        kafka={"bootstrap_servers": address, "group_id": f"worker-{uuid.uuid4().hex}"},
        topics={"input": topic},
        series={"interval": HOUR_MS},
        network={"checkpoint": checkpoint},
    )
    stages: Stages = {}
    original = worker_module.advance, publishing.encode_forecasts
    worker_module.advance = timed(stages, "advance", original[0])
    publishing.encode_forecasts = timed(stages, "encode", lambda *all_: list(original[1](*all_)))
    with ExitStack() as open_things:
        worker, _ = connect_worker(settings, threading.Event(), open_things)
        parts = vars(worker)
        if history:
            topics = replace(parts["_config"].topics, history=f"{topic}.history")
            parts["_config"] = replace(parts["_config"], topics=topics)
            parts["_training_history"] = timed(stages, "encode history", worker._training_history)  # noqa: SLF001
        parts["_decoder"].decode = timed(stages, "decode", parts["_decoder"].decode)
        parts["_consumer"].poll = timed(stages, "poll", parts["_consumer"].poll)
        producer = vars(parts["_committer"])["_producer"]
        producer.commit = timed(stages, "send and commit", producer.commit)
        store = parts["_store"]
        store.prepare = timed(stages, "copy rows, encode blocks", store.prepare)
        store.adopt = timed(stages, "adopt rows", store.adopt)
        begin = 0.0
        while worker.counters.records < count:
            if not worker.counters.records:
                stages.clear()
                begin = time.perf_counter()
            worker.iterate()
        seconds = time.perf_counter() - begin
    worker_module.advance, publishing.encode_forecasts = original
    stages["everything else"] = seconds - sum(stages.values())
    return seconds, stages


def run_bare(address: str, topic: str, count: int, payload: list[tuple[bytes, bytes, list]]) -> float:
    """Seconds of a loop that writes what the worker wrote, one record for each it reads."""
    connection = Connection(address, f"bare-{uuid.uuid4().hex}")
    consumer, producer = (
        KafkaConsumer(**connection.consumer_options()),
        KafkaProducer(**connection.producer_options(uuid.uuid4().hex)),
    )
    output = f"{topic}.bare"
    with closing(consumer), closing(producer):
        producer.init_transactions()
        consumer.subscribe([topic])
        done, begin = 0, 0.0
        while done < count:
            if not done:
                begin = time.perf_counter()
            batches = consumer.poll(timeout_ms=200)
            if not batches:
                continue
            member = consumer.group_metadata()
            producer.begin_transaction()
            offsets = {}
            for partition, records in batches.items():
                offsets[TopicPartition(topic, partition.partition)] = OffsetAndMetadata(records[-1].offset + 1, "", -1)
                for _ in records:
                    key, value, headers = payload[done]
                    producer.send(output, value, key, headers, partition.partition)
                    done += 1
            producer.send_offsets_to_transaction(offsets, member)
            producer.commit_transaction()
        return time.perf_counter() - begin


def written(address: str, topic: str, count: int, partitions: int) -> list[tuple[bytes, bytes, list]]:
    """What the worker wrote."""
    found: list[tuple[bytes, bytes, list]] = []
    with closing(RecordReader(address, f"{topic}.forecasts", partitions)) as reader:
        while len(found) < count:
            found += [(one.key or b"", one.value or b"", list(one.headers.items())) for one in reader.poll()]
    return found[:count]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--bootstrap", required=True)
    arguments.add_argument("--series", type=int, default=1_000)
    arguments.add_argument("--ticks", type=int, default=60)
    arguments.add_argument("--partitions", type=int, default=4)
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    torch.set_num_threads(TORCH_THREADS)
    topic, folder = f"throughput-{uuid.uuid4().hex[:8]}", tempfile.TemporaryDirectory()
    checkpoint = untrained_checkpoint(Path(folder.name))
    count = fill(given.bootstrap, topic, given.series, given.ticks, given.partitions)
    create_topic(given.bootstrap, f"{topic}.bare", given.partitions)
    run_worker(given.bootstrap, topic, count, checkpoint)
    payload = written(given.bootstrap, topic, count, given.partitions)
    worker, learning, bare, stages = [], [], [], list[Stages]()
    for _ in range(given.rounds):
        seconds, spent = run_worker(given.bootstrap, topic, count, checkpoint)
        worker.append(seconds)
        learning.append(run_worker(given.bootstrap, topic, count, checkpoint, history=True)[0])
        stages.append(spent)
        bare.append(run_bare(given.bootstrap, topic, count, payload))
    ratio = statistics.median(bare) / statistics.median(worker)
    write = sys.stdout.write
    write(
        f"{count:,} readings of {given.series:,} series, {sum(len(one[1]) for one in payload) / count:.0f} bytes each\n"
    )
    share = 1.0 - statistics.median(worker) / statistics.median(learning)
    write(f"worker / bare loop, forecasts per second: {ratio:.3f}\n")
    write(f"the history topic's share of the throughput: {share:.1%}\n\nstage                      share\n")
    total = sum(sum(spent.values()) for spent in stages)
    for name in sorted(stages[0], key=lambda name: -stages[0][name]):
        write(f"{name:<26} {sum(spent.get(name, 0.0) for spent in stages) / total:6.1%}\n")
    folder.cleanup()


if __name__ == "__main__":
    main()
