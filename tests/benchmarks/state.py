"""Cost of durable state: memory per series, bytes per reading, share of the throughput, restore, takeover.

python tests/benchmarks/state.py memory
python tests/benchmarks/state.py blocks [--series 1000 10000 100000]         without a broker
python tests/benchmarks/state.py restore --bootstrap HOST:PORT [--series 10000]
python tests/benchmarks/state.py takeover --bootstrap HOST:PORT
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import tempfile
import threading
import time
import uuid
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import structlog
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from builders import HOUR_MS, START_MS, pipeline_config, random_checkpoint
from daemons import Daemon, wait_until
from fakes import STATE, FakeClient, FakeKafka
from reference_run import ReferenceRun
from setups import setup

from forecaster.app.daemon import connect_worker
from forecaster.app.threads import TORCH_THREADS
from forecaster.broker.plain_clients import RecordWriter, create_topic
from forecaster.core.arrays import arrays
from forecaster.core.network.model import Model
from forecaster.formats.checkpoints import write_checkpoint
from forecaster.serving.worker import Worker
from forecaster.settings import load_settings

BATCH = 2_000


def memory() -> None:
    """What a row consists of: the default settings, and twice as much horizon and context."""
    table = Table("bytes a series, GRU of 64", "horizon 24, context 96", "horizon 48, context 192")
    shapes = [pipeline_config(horizon=h, context=w, chain=("range", "hampel")) for h, w in ((24, 96), (48, 192))]
    columns = []
    for config in shapes:
        model = Model(random_checkpoint(config, hidden_size=64))
        row = config.shape(model.state_size).empty(1)
        columns.append({name: array.nbytes for name, array in arrays(row)})
    groups = {"pending forecasts": "pending.", "context": "inputs.context", "hidden state": "hidden"}
    rest = [name for name in columns[0] if not name.startswith(tuple(groups.values()))]
    for title, prefix in groups.items():
        table.add_row(title, *(f"{sum(v for n, v in one.items() if n.startswith(prefix)):,}" for one in columns))
    table.add_row("scale, filters, timeline", *(f"{sum(one[name] for name in rest):,}" for one in columns))
    table.add_row("all", *(f"{sum(one.values()):,}" for one in columns))
    Console().print(table)


def feed(kafka: FakeKafka, tick: int, names: list[bytes]) -> None:
    """A reading of each series."""
    stamp = START_MS + tick * HOUR_MS
    for number, name in enumerate(names):
        kafka.append(0, b'{"timestamp": %d, "value": %d}' % (stamp, (number * tick) % 50), name)


def run_ticks(series: int, ticks: int, replay_limit: int, model: Model) -> tuple[float, int]:
    """Seconds of the worker, and bytes that it wrote to the state topic, once it is in its stride."""
    config = pipeline_config(horizon=24, context=96, chain=("range", "hampel"))
    kafka = FakeKafka()
    client = FakeClient(kafka, batch=BATCH)
    worker = setup(pipeline=config, model=model, replay_limit=replay_limit).worker(client)
    names = [b"series-%d" % number for number in range(series)]
    seconds, size = 0.0, 0
    for tick in range(ticks):
        feed(kafka, tick, names)
        begin = time.perf_counter()
        while kafka.offsets.get(0, 0) < kafka.ends["readings", 0]:
            worker.iterate()
        if tick >= ticks // 2:
            seconds += time.perf_counter() - begin
            size += sum(len(record.value or b"") for record in kafka.logs.get((STATE, 0), []))
        kafka.published.clear()
        kafka.logs.clear()
    return seconds, size


def blocks(counts: list[int]) -> None:
    """The same readings with the default pace and with none, one after the other."""
    config = pipeline_config(horizon=24, context=96, chain=("range", "hampel"))
    model = Model(random_checkpoint(config, hidden_size=64))
    table = Table("series", "state bytes a reading", "throughput with blocks / without, no broker")
    for series in counts:
        ticks = max(14, 280_000 // series)
        with_blocks, size = run_ticks(series, ticks, 0, model)
        without, _ = run_ticks(series, ticks, 10**12, model)
        readings = series * (ticks - ticks // 2)
        table.add_row(f"{series:,}", f"{size / readings:,.0f}", f"{without / with_blocks:.3f}")
    Console().print(table)


def worker_on(address: str, topic: str, group: str, stack: ExitStack) -> Worker:
    config = pipeline_config(horizon=24, context=96, chain=("range", "hampel"))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    settings = load_settings(
        kafka={"bootstrap_servers": address, "group_id": group},
        topics={"input": topic},
        series={"interval": HOUR_MS},
        network={"checkpoint": str(write_checkpoint(random_checkpoint(config, hidden_size=64), folder))},
    )
    return connect_worker(settings, threading.Event(), stack)[0]


def restore(address: str, series: int) -> None:
    """One partition: after a clean end, and after a kill with all that it leaves above the floor."""
    topic, group, ticks = f"bench-{uuid.uuid4().hex[:8]}", f"bench-{uuid.uuid4().hex[:8]}", 15
    create_topic(address, topic, 1)
    with closing(RecordWriter(address, topic)) as writer:
        for tick in range(ticks):
            for number in range(series):
                value = {"timestamp": START_MS + tick * HOUR_MS, "value": (number * tick) % 50}
                writer.send(b"series-%d" % number, orjson.dumps(value), partition=0)
    with ExitStack() as stack:
        worker = worker_on(address, topic, group, stack)
        while worker.counters.records < series * ticks:
            worker.iterate()
    killed = timed_restore(address, topic, group, flush=True)
    clean = timed_restore(address, topic, group, flush=False)
    Console().print(f"restore of {series:,} series: after a kill {killed:.2f} s, after a clean end {clean:.2f} s")


def timed_restore(address: str, topic: str, group: str, *, flush: bool) -> float:
    """Seconds from having the partition to serving it."""
    with ExitStack() as stack:
        worker = worker_on(address, topic, group, stack)
        store = worker._store  # noqa: SLF001 - a benchmark looks inside
        while not store.has_unopened:
            worker._follow(worker._consumer.poll(wait=True))  # noqa: SLF001
        begin = time.perf_counter()
        while not len(store.partitions):
            worker.iterate()
        seconds = time.perf_counter() - begin
        if flush:
            worker.flush()
    return seconds


def takeover(address: str) -> None:
    """Seconds from kill -9 to the next forecast of the partitions of the dead one."""
    for names in (("", ""), ("worker-0", "worker-0")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            topic = f"bench-{uuid.uuid4().hex[:8]}"
            create_topic(address, topic, 2)
            variables = {"KAFKA__SESSION_TIMEOUT": "15s", "STATE__REPLAY_LIMIT": "300"}
            with closing(ReferenceRun(address, topic, 2, folder)) as reference, ExitStack() as stack:
                variables["NETWORK__CHECKPOINT"] = reference.checkpoint
                first = stack.enter_context(Daemon(folder, address, topic, KAFKA__INSTANCE_ID=names[0], **variables))
                first.serving()
                reference.send_hours(20)
                reference.assert_equal()
                first.send(signal.SIGKILL)
                first.exit_code()
                begin = time.perf_counter()
                stack.enter_context(Daemon(folder, address, topic, KAFKA__INSTANCE_ID=names[1], **variables))
                reference.send_hours(1)
                wait_until(partial(_has_caught_up, reference), "the successor", 120)
                kind = "static, restarted" if names[0] else "dynamic"
                Console().print(f"takeover after kill -9, {kind}: {time.perf_counter() - begin:.1f} s")


def _has_caught_up(reference: ReferenceRun) -> bool:
    return reference.receive() >= reference.due


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=["memory", "blocks", "restore", "takeover"])
    arguments.add_argument("--bootstrap")
    arguments.add_argument("--series", type=int, nargs="+")
    given = arguments.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    torch.set_num_threads(TORCH_THREADS)
    np.seterr(all="ignore")
    if given.what == "memory":
        memory()
    elif given.what == "blocks":
        blocks(given.series or [1_000, 10_000, 100_000])
    elif given.what == "restore":
        restore(given.bootstrap, *(given.series or [10_000]))
    else:
        takeover(given.bootstrap)


if __name__ == "__main__":
    main()
