"""The chaos report: what was done to the daemon, how often, and what came of it, as a Markdown table.

python tests/benchmarks/chaos.py --kills 500 --rebalances 100 --broker-restarts 20 --payloads 1000000
python tests/benchmarks/chaos.py --only kills stops --json parts.jsonl      a part; its rows are added to the file
python tests/benchmarks/chaos.py --from parts.jsonl                         the table of all parts
python tests/benchmarks/chaos.py --only kills --broken lose                 a broken worker, which the report must find

It starts a Kafka of its own, which it restarts. Every trial has its own topic, and several run at the same time. The
exit code is 1 if a record was lost, doubled or different, or if a daemon ended without cause.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import structlog
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from chaos_report import disturbances as do
from chaos_report import payloads
from chaos_report.table import Row, append, joined, markdown, read
from chaos_report.trial import Fleet, Place, Trial
from chaos_report.workers import FORKS, prepare_forks
from faults import BREAKS
from own_broker import OwnBroker
from proxy import Proxy

from forecaster.app.threads import TORCH_THREADS

KINDS = ("kills", "stops", "rebalances", "cuts", "forgotten", "trainings", "payloads", "broker-restarts")
THROUGH_KAFKA = 20
"""Every 20th payload also goes through Kafka."""


@dataclass(frozen=True)
class Task:
    """A trial to be made.

    Attributes:
        fleet: what it serves.
        disturb: what is done in it.
    """

    fleet: Fleet
    disturb: Callable[[Trial], Row]


def main() -> None:
    given = _arguments()
    if given.rows:
        _end([row for path in given.rows for row in read(path)])
    counts = {kind: getattr(given, kind.replace("-", "_")) for kind in KINDS if kind in given.only}
    prepare_forks()
    _be_quiet()
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        broker = stack.enter_context(OwnBroker(folder / "kafka", given.port))
        proxy = stack.enter_context(closing(Proxy(broker.proxy_port, broker.proxied_port)))
        place = Place(broker.address, broker.proxied, folder, given.broken)
        for row in _rows(place, counts, given.lanes, proxy, broker):
            rows.append(row)
            sys.stderr.write(f"{markdown([row]).splitlines()[-1]}\n")
            if given.json:
                append(given.json, row)
    _end(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"kills": 500, "stops": 24, "rebalances": 100, "cuts": 20, "forgotten": 5, "trainings": 10}
    for kind, count in {**defaults, "payloads": 1_000_000, "broker-restarts": 20}.items():
        parser.add_argument(f"--{kind}", type=int, default=count, metavar="N")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, help="kinds of disturbances; all by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file that the rows are added to, as lines of JSON")
    parser.add_argument("--from", type=Path, nargs="+", metavar="FILE", dest="rows", help="print rows of such files")
    parser.add_argument("--folder", type=Path, help="new folder for the logs; a temporary one by default")
    parser.add_argument("--port", type=int, default=19592, help="first of four ports for Kafka")
    parser.add_argument("--lanes", type=int, default=10, metavar="N", help="trials at the same time")
    parser.add_argument("--broken", choices=BREAKS, default="", help="workers that treat forecasts so")
    return parser.parse_args()


def _rows(place: Place, counts: dict[str, int], lanes: int, proxy: Proxy, broker: OwnBroker) -> Iterator[Row]:
    """Yield the rows as they come: first those of trials at the same time, then those that restart the broker."""
    with ThreadPoolExecutor(lanes) as pool, _forked_process() as processes:
        parts = [pool.submit(_made, place, task) for task in _tasks(counts, proxy)]
        if count := counts.get("payloads", 0):
            parts.append(processes.submit(payloads.in_process, count, seed=1))
        for part in parts:
            yield part.result()
    for how, share in zip(("stop", "kill"), _shares(counts.get("broker-restarts", 0), 2), strict=True):
        if share:
            disturb = partial(do.broker_restarted, count=share, restart=broker.restart, how=how)
            yield _made(place, Task(Fleet(f"restart-{how}"), disturb))


def _forked_process() -> ProcessPoolExecutor:
    """Return a process of its own, whose memory is not that of the trials."""
    return ProcessPoolExecutor(1, mp_context=FORKS, initializer=_be_quiet)


def _be_quiet() -> None:
    """Compute as a worker does, and write no log."""
    torch.set_num_threads(TORCH_THREADS)
    np.seterr(all="ignore")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def _tasks(counts: dict[str, int], proxy: Proxy) -> Iterator[Task]:
    """Yield the trials that can be made at the same time; those that take longest come first."""
    yield from _tasks_of_kills(counts.get("kills", 0))
    for static, share in zip((False, True), _shares(counts.get("stops", 0), 2), strict=True):
        if share:
            yield Task(Fleet(f"stops-{static}"), partial(do.stopped, count=share, static=static))
    fleets: dict[str, tuple[Fleet, Callable[..., Row]]] = {
        "rebalances": (Fleet("rebalances", partitions=4, fixed=False), do.rebalanced),
        "cuts": (Fleet("cuts"), partial(do.cut, proxy=proxy)),
        "forgotten": (Fleet("forgotten"), do.forgotten),
        "trainings": (Fleet("trainings", series=20, fixed=False, variables=do.TRAINED), do.trained),
        "payloads": (Fleet("payloads", variables=do.WITHOUT_LIMITS), do.fed_with_payloads),
    }
    for kind, (fleet, disturb) in fleets.items():
        count = counts.get(kind, 0) // (THROUGH_KAFKA if kind == "payloads" else 1)
        if count:
            yield Task(fleet, partial(disturb, count=count))


def _tasks_of_kills(count: int) -> Iterator[Task]:
    """Yield the trials with kills: one for each point, one in swaps, one at any moment."""
    *shares, in_swaps, at_random = _shares(count, len(do.KILLS) + 2)
    if at_random:
        yield Task(Fleet("kills-random", partitions=4), partial(do.killed_at_random, count=at_random))
    if in_swaps:
        yield Task(Fleet("kills-swaps", series=160, fixed=False), partial(do.killed_in_swaps, count=in_swaps))
    for number, ((name, points), share) in enumerate(zip(do.KILLS.items(), shares, strict=True)):
        if share:
            disturb = partial(do.killed_at_points, name=name, points=points, count=share)
            fleet = Fleet(f"kills-{number}", seed=1_000 * number)
            if "mid-state-write" in points:
                fleet = replace(fleet, variables=do.STATE_ALONE, feed_seconds=do.PAUSE_FOR_STATE)
            yield Task(fleet, disturb)


def _shares(count: int, parts: int) -> list[int]:
    """Return the count in nearly equal parts, the larger ones first."""
    return [count // parts + (part < count % parts) for part in range(parts)]


def _made(place: Place, task: Task) -> Row:
    """Return the row of a trial; one that cannot be finished fails, and the others continue."""
    try:
        with Trial(place, task.fleet) as trial:
            return task.disturb(trial)
    except Exception as error:
        traceback.print_exc()
        fault = f"not finished: {type(error).__name__}: {error}"
        return Row(what=task.fleet.name, times=0, readings=0, forecasts=0, faults=[fault])


def _end(rows: list[Row]) -> None:
    """Print the report, and end with exit code 1 if something is wrong."""
    rows = joined(rows)
    sys.stdout.write(markdown(rows) + "\n")
    failures = [f"{row.what}: {', '.join(row.failures)}" for row in rows if row.failures]
    sys.stderr.write("".join(f"FAILED {failure}\n" for failure in failures))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
