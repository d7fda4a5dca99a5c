"""A trial: one input topic, the daemons that serve it, and the check of everything that they have written."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from builders import Lineup, random_checkpoint
from daemons import wait_until
from kafka.admin import KafkaAdminClient
from reference_run import is_floor, swaps_of, uninterrupted_forecasts

from chaos_report.checker import Verdict, compare, longest_pause_seconds
from chaos_report.readings import Readings
from chaos_report.table import Row
from chaos_report.workers import ForkedDaemon
from forecaster.app.configs import connection, pipeline_config
from forecaster.app.connect import open_state
from forecaster.broker.log_reader import LogReader
from forecaster.broker.plain_clients import create_topic
from forecaster.broker.topics import TopicAdmin
from forecaster.broker.writer import write_records
from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.core.network.model import Checkpoint, Model
from forecaster.errors import TransientBrokerError
from forecaster.formats.checkpoints import write_checkpoint
from forecaster.formats.dead_letters import encode_dead_letter
from forecaster.formats.models import ServeOrder, publication, serve_message
from forecaster.formats.readings import Decoder, InputSchema
from forecaster.formats.sources import short_topic_id
from forecaster.formats.state import Swap, decode_floor
from forecaster.records import Message, SourceRecord

STALL_SECONDS = 120.0
"""Time without progress after which the rest counts as lost."""


@dataclass(frozen=True)
class Place:
    """Where trials take place.

    Attributes:
        address: address of the broker.
        proxied: address of its listener behind the proxy.
        folder: folder for logs and checkpoints.
        fault: fault of every daemon that has none of its own; empty = none.
    """

    address: str
    proxied: str
    folder: Path
    fault: str = ""


@dataclass(frozen=True)
class Fleet:
    """What a trial serves, and how.

    Attributes:
        name: name of the input topic.
        partitions: partition count of the topic.
        series: number of series.
        seed: seed of its first series, different in each trial.
        feed_seconds: pause between two hours of readings.
        fixed: whether one checkpoint serves all the time; otherwise the models topic decides.
        variables: settings of its daemons.
    """

    name: str
    partitions: int = 2
    series: int = 10
    seed: int = 0
    feed_seconds: float = 0.5
    fixed: bool = True
    variables: dict[str, str] = field(default_factory=dict)


class Trial:
    """Feeds a fleet of daemons, and checks their output; a context manager.

    Attributes:
        readings: the input.
        memory: resident memory of the daemons at the beginning and at the end, MiB.
        faults: ends of daemons that nobody has caused.
    """

    def __init__(self, place: Place, fleet: Fleet) -> None:
        self._place, self._fleet = place, fleet
        self._folder = place.folder / fleet.name
        self._folder.mkdir(parents=True)
        create_topic(place.address, fleet.name, fleet.partitions)
        seeds = range(fleet.seed, fleet.seed + fleet.series)
        self._stack = ExitStack()
        self.readings = Readings(place.address, fleet.name, fleet.partitions, seeds)
        self._stack.callback(self.readings.close)
        self.memory: list[float] = []
        self.faults: list[str] = []
        self._settings = ForkedDaemon(self._folder, place.address, fleet.name, **fleet.variables).settings()
        connected = connection(self._settings)
        topics = self._stack.enter_context(TopicAdmin(connected))
        self._input_id = short_topic_id(topics.facts(fleet.name).topic_id)
        self._reader = self._stack.enter_context(closing(LogReader(connected, topics)))
        self._variables = {"KAFKA__BOOTSTRAP_SERVERS": place.address, **fleet.variables}
        if fleet.fixed:
            self._variables["NETWORK__CHECKPOINT"] = str(write_checkpoint(self.checkpoint(0), self._folder))

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def checkpoint(self, seed: int) -> Checkpoint:
        """Return a checkpoint of this fleet with random weights; another network for an odd seed."""
        config = pipeline_config(self._settings)
        return random_checkpoint(config, cell="lstm" if seed % 2 else "gru", seed=seed)

    def serve(self, checkpoint: Checkpoint) -> None:
        """Publish the checkpoint on the models topic, and order the fleet to serve it."""
        order = ServeOrder(checkpoint.id, NO_CHECKPOINT, "operator", "2025-01-01T00:00:00Z", "another one")
        messages = [*publication(checkpoint), serve_message(order)]
        write_records(connection(self._settings), f"{self._fleet.name}.models", messages)

    def daemon(self, *, fault: str = "", **variables: str) -> ForkedDaemon:
        """Start a daemon that ends with the trial at the latest."""
        settings = {**self._variables, **variables}
        address, fault = settings.pop("KAFKA__BOOTSTRAP_SERVERS"), fault or self._place.fault
        return self._stack.enter_context(ForkedDaemon(self._folder, address, self._fleet.name, fault=fault, **settings))

    def proxied_daemon(self) -> ForkedDaemon:
        """Start a daemon whose connections go through the proxy."""
        return self.daemon(KAFKA__BOOTSTRAP_SERVERS=self._place.proxied)

    def start(self, count: int, *names: str) -> list[ForkedDaemon]:
        """Start daemons, static members if they have names; return them when each partition has been served."""
        daemons = [self.daemon(KAFKA__INSTANCE_ID=name) for name in [*names, *[""] * (count - len(names))]]
        self.feed_until(lambda: min(self._committed(), default=0) > 0)
        self.note_memory(daemons[0])
        return daemons

    def feed_until(self, condition: Callable[[], object], seconds: float = 60.0) -> bool:
        """Send readings until the condition holds; return whether it does before the time is up."""
        deadline, pause = time.monotonic() + seconds, threading.Event()
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.readings.send_hours(1)
            pause.wait(self._fleet.feed_seconds)
        return True

    def feed(self, seconds: float) -> None:
        """Send readings for some time."""
        self.feed_until(lambda: False, seconds)

    def note_memory(self, daemon: ForkedDaemon) -> None:
        """Note the memory of a daemon, if it still runs."""
        if not daemon.is_dead:
            self.memory.append(daemon.resident_mib)

    def end(self, daemon: ForkedDaemon, code: int = 0) -> None:
        """Wait for the end of a daemon, and note the fault if it ends in another way."""
        found = daemon.exit_code(90)
        if found != code:
            last = daemon.log.strip().splitlines()[-1:]
            self.faults.append(f"{self._fleet.name}: exit code {found} instead of {code}: {' '.join(last)[:300]}")

    def end_killed(self, daemon: ForkedDaemon) -> None:
        """Kill a daemon, and note the fault if it had ended before without a signal."""
        daemon.send(signal.SIGKILL)
        self.end(daemon, -signal.SIGKILL)

    def wait_until_caught_up(self) -> int:
        """Wait until the group has committed all readings; return how many wait if nothing moves any more."""
        lag, since, pause = -1, time.monotonic(), threading.Event()
        while (now := self._lag()) and time.monotonic() < since + STALL_SECONDS:
            if now != lag:
                lag, since = now, time.monotonic()
            pause.wait(0.5)
        return now

    def delete_group(self) -> None:
        """Delete the consumer group with its offsets, as the broker does after the offsets' retention."""
        group = self._settings.kafka.group_id
        admin = KafkaAdminClient(bootstrap_servers=self._place.address)
        try:
            admin.delete_groups([group])
        finally:
            admin.close()

    def finish(self, what: str, times: int, daemons: Sequence[ForkedDaemon]) -> Row:
        """Let the daemons catch up, end them, and return the row of the report.

        Args:
            what: what was done to the daemons.
            times: how often.
            daemons: those that still run.
        """
        self.feed_until(lambda: all(daemon.is_ready for daemon in daemons))
        if waiting := self.wait_until_caught_up():
            logs = [" ".join(daemon.log.strip().splitlines()[-1:])[:300] for daemon in daemons]
            self.faults.append(f"{self._fleet.name}: {waiting} readings wait after {STALL_SECONDS:.0f} s; {logs}")
        for daemon in daemons:
            self.note_memory(daemon)
            daemon.send(signal.SIGTERM)
        for daemon in daemons:
            self.end(daemon)
        return self._row(what, times)

    def _lag(self) -> int:
        """Return how many readings the group has not committed; -1 = the broker does not say."""
        offsets = self._committed()
        if not offsets:
            return -1
        return sum(max(0, len(sent) - offset) for sent, offset in zip(self.readings.sent, offsets, strict=True))

    def _committed(self) -> list[int]:
        """Return the group's committed offset of each partition; none if the broker does not answer."""
        try:
            numbers = range(self._fleet.partitions)
            return [self._reader.committed(self._fleet.name, number) or 0 for number in numbers]
        except TransientBrokerError:
            return []

    def _row(self, what: str, times: int) -> Row:
        forecasts = letters = Verdict()
        count = ignored = 0
        pause = 0.0
        for partition in range(self._fleet.partitions):
            inputs = self._read(self._fleet.name, partition)
            if deviations := self.readings.deviations(partition, inputs):
                self.faults.append(f"{self._fleet.name}: {deviations} readings are not in the input as they were sent")
            expected, expected_letters = self._expected(inputs, self._swaps(partition))
            written = self._read(f"{self._fleet.name}.forecasts", partition)
            forecasts += compare(expected, written)
            letters += compare(expected_letters, self._read(f"{self._fleet.name}.dead-letters", partition))
            pause = max(pause, longest_pause_seconds(inputs, written))
            count += len(inputs)
            ignored += len(inputs) - len(expected) - len(expected_letters)
        total = forecasts + letters
        return Row(
            what=what,
            times=times,
            readings=count,
            forecasts=forecasts.written,
            dead_letters=letters.written,
            ignored=ignored,
            lost=total.lost,
            doubled=total.doubled,
            different=total.different,
            pause_seconds=pause,
            memory_mib=(self.memory[0], self.memory[-1]),
            faults=self.faults,
        )

    def _expected(self, inputs: Sequence[SourceRecord], swaps: Sequence[Swap]) -> tuple[list[Message], list[Message]]:
        """Return the forecasts and dead letters of one process that nothing ever disturbs."""
        letters = [
            encode_dead_letter(letter, self._input_id) for letter in Decoder(InputSchema()).decode(inputs).dead_letters
        ]
        lineup = self._lineup({swap.checkpoint for swap in swaps})
        forecasts = uninterrupted_forecasts(pipeline_config(self._settings), inputs, swaps, lineup, self._input_id)
        return list(forecasts), letters

    def _lineup(self, names: set[str]) -> Lineup:
        """Return the models that have served."""
        if self._fleet.fixed:
            return Lineup(Model(self.checkpoint(0)))
        settings = self._settings
        with TopicAdmin(connection(settings)) as topics, open_state(settings, topics) as (follower, _):
            models = [follower.model(name) for name in sorted(names - {NO_CHECKPOINT})]
        return Lineup(*(model for model in models if model is not None))

    def _swaps(self, partition: int) -> list[Swap]:
        """Return which checkpoints have served from which offset on."""
        records = self._read(f"{self._fleet.name}.state", partition)
        return swaps_of(decode_floor(record.value or b"") for record in records if is_floor(record))

    def _read(self, topic: str, partition: int) -> list[SourceRecord]:
        """Return the committed records that a partition holds now."""
        begin, end = self._reader.bounds(topic, partition)
        self._reader.seek(topic, partition, begin)
        records: list[SourceRecord] = []

        def is_complete() -> bool:
            with suppress(TransientBrokerError):
                records.extend(self._reader.read())
                return self._reader.position >= end
            return False

        wait_until(is_complete, f"the end of {topic}, partition {partition}", STALL_SECONDS)
        return records
