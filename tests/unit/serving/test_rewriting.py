"""State that the state topic has lost is written again from memory, and a successor restores all of it."""

from __future__ import annotations

import pytest
from fakes import INPUT, STATE, FakeClient, FakeKafka, FakeWatch
from setups import setup
from structlog.testing import capture_logs

from forecaster.errors import StateError
from forecaster.formats.state import decode_floor
from forecaster.serving.state import config as config_module
from forecaster.serving.state import transaction_writes
from forecaster.serving.state.lifecycle import PartitionPhase
from forecaster.serving.worker import Worker

SERIES = 40


class World:
    """A worker that serves partitions whose series are in many blocks."""

    def __init__(self, partitions: int = 1) -> None:
        self.kafka, self.watch = FakeKafka(partitions), FakeWatch()
        self.hour = 0
        self.start()

    def start(self) -> None:
        """Start a worker after the last one was killed."""
        self.client = FakeClient(self.kafka)
        self.worker: Worker = setup(topic_watch=self.watch, policy="fail").worker(self.client)
        self.iterate_until_all_serve()

    def iterate_until_all_serve(self) -> None:
        for _ in range(200):
            self.worker.iterate()
            if not self.client.paused:
                return
        raise AssertionError("partitions do not serve")

    def serve(self, hours: int) -> None:
        for _ in range(hours):
            for partition in self.kafka.partitions:
                for series in range(SERIES):
                    self.kafka.hours(partition, range(self.hour, self.hour + 1), b"pump-%d" % series)
            self.hour += 1
            self.worker.iterate()

    def lose(self, partition: int, *, keep: int = 0) -> None:
        """Lose records of the state topic at the beginning of its log; keep the newest ones."""
        self.lose_unseen(partition, keep=keep)
        self.watch.state_logs = self.kafka.state_logs()

    def lose_unseen(self, partition: int, *, keep: int = 0) -> None:
        """Lose records as `lose` does, before the watch looks again."""
        start = self.kafka.ends[STATE, partition] - keep
        assert start > 0
        self.kafka.retain(STATE, partition, start)

    @property
    def recoveries(self) -> dict[str, int]:
        """How the partitions of the present worker came back."""
        return dict(self.worker.counters.restores)

    @property
    def series(self) -> int:
        return self.worker._store.series  # noqa: SLF001 - the laws are about the rows that it holds

    def assert_restored_in_full(self, how: str = "restored", *, kept_readings: int | None = None) -> None:
        """Kill the worker, and check that its successor begins in this way and holds every series.

        Args:
            how: how the partition comes back.
            kept_readings: number of the newest served readings that the input still has; None = it has all.
        """
        if kept_readings is not None:
            self.kafka.retain(INPUT, 0, self.kafka.offsets[0] - kept_readings)
        self.start()
        assert self.recoveries == {how: 1}
        assert self.series == SERIES


@pytest.fixture(autouse=True)
def small_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make blocks of a few series, and write one of them in a transaction."""
    monkeypatch.setattr(config_module, "BLOCK_BYTES", 8_000)
    monkeypatch.setattr(transaction_writes, "BLOCK_BYTES_PER_TRANSACTION", 1_000)


@pytest.mark.parametrize("keep", [0, 3])
def test_after_a_rewrite_a_successor_continues_as_if_nothing_was_lost(keep: int) -> None:
    disturbed, calm = World(2), World(2)
    for world in (disturbed, calm):
        world.serve(6)
        world.worker.flush()
        if world is disturbed:
            world.lose(0, keep=keep)
            world.worker.iterate()
            world.iterate_until_all_serve()
        world.serve(1)
        if world is disturbed:  # the state cannot be rebuilt from the input
            world.kafka.retain(INPUT, 0, world.kafka.offsets[0] - 2 * SERIES)
        world.start()
        world.serve(4)
    assert sorted(disturbed.kafka.published) == sorted(calm.kafka.published)


def test_a_floor_is_written_only_with_the_last_block_and_the_former_one_is_deleted_at_once() -> None:
    world = World()
    world.serve(6)
    world.lose(0)
    before = len(world.kafka.logs[STATE, 0])
    world.worker.iterate()
    world.serve(1)
    world.iterate_until_all_serve()
    written = world.kafka.logs[STATE, 0][before:]
    floors = [record.value for record in written if (record.key or b"").endswith(b"/floor")]
    assert floors[0] is None, "a restore in the middle must not find the former floor"
    first = next(index for index, record in enumerate(written) if (record.key or b"").endswith(b"/floor"))
    assert first <= 2, "in the first transaction"
    values = [value for value in floors if value is not None]
    assert decode_floor(values[0]).offset == 6 * SERIES
    blocks = [record for record in written if record.value is not None and not (record.key or b"").endswith(b"/floor")]
    assert len({record.key for record in blocks}) >= len(world.worker._store.partitions[0].blocks)  # noqa: SLF001


def test_readings_wait_while_their_state_is_written_and_other_partitions_go_on() -> None:
    world = World(2)
    world.serve(6)
    world.lose(0)
    world.worker.iterate()
    assert world.client.paused == {0}
    done = len(world.kafka.sources())
    world.serve(1)
    assert world.client.paused == {0}
    assert {source.split("/")[1] for source in world.kafka.sources()[done:]} == {"1"}
    world.iterate_until_all_serve()
    world.worker.iterate()
    assert len(world.kafka.sources()) == 2 * 7 * SERIES


def test_records_of_the_poll_in_which_the_loss_is_seen_come_before_the_rewrite() -> None:
    """A floor that is written with a batch promises all blocks, also those that the topic has lost."""
    world = World()
    world.serve(3)
    world.lose(0)
    world.kafka.hours(0, range(world.hour, world.hour + 1), b"pump-0")
    world.worker.iterate()
    world.assert_restored_in_full("rebuilt")


def test_a_failed_transaction_of_a_rewrite_is_written_again() -> None:
    world = World()
    world.serve(6)
    world.lose(0)
    world.worker.iterate()
    world.client.failures = ["dropped", "", "happened"]
    world.iterate_until_all_serve()
    world.assert_restored_in_full(kept_readings=SERIES)


def test_a_partition_that_is_revoked_meanwhile_is_not_written_any_more() -> None:
    world = World(2)
    world.serve(6)
    world.lose(0)
    world.worker.iterate()
    world.client.revoke([0])
    world.worker.iterate()
    ends = world.kafka.ends[STATE, 0]
    for _ in range(3):
        world.worker.iterate()
    assert world.kafka.ends[STATE, 0] == ends


def test_state_that_is_lost_after_a_restore_has_read_it_is_written_again_once_the_partition_is_open() -> None:
    world = World()
    world.serve(6)
    world.client = FakeClient(world.kafka)
    world.worker = setup(topic_watch=world.watch, policy="fail").worker(world.client)
    store = world.worker._store  # noqa: SLF001 - its restore is stopped after it has read the state
    store.follow((), [0])
    store.phases.move(0, PartitionPhase.RESTORING)
    steps = store._restorer.steps(0)  # noqa: SLF001
    while (progress := next(steps)) is None or progress.step != "replay_input":
        pass
    world.lose_unseen(0)
    store._restored[0] = restored = store._restorer._run(steps)  # noqa: SLF001
    store.open(restored)
    world.watch.state_logs = world.kafka.state_logs()
    with capture_logs() as logs:
        for _ in range(30):
            world.worker._maintain(world.client.poll(wait=False))  # noqa: SLF001
            world.worker._rewriter.begin(world.watch.look_if_due())  # noqa: SLF001
    assert [entry["event"] for entry in logs][:1] == ["state_rewrite_started"]
    world.assert_restored_in_full(kept_readings=0)


@pytest.fixture
def blocks_with_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the transaction of a batch write some of the blocks."""
    monkeypatch.setattr(transaction_writes, "BLOCK_BYTES_PER_TRANSACTION", 30_000)


@pytest.mark.usefixtures("blocks_with_batches")
@pytest.mark.parametrize("keep", [0, 3])
def test_a_kill_before_the_loss_is_noticed_does_not_pass_for_complete_state(keep: int) -> None:
    """Batches write floors until the watch looks; these still name the log that has lost its blocks."""
    world = World()
    world.serve(6)
    world.worker.flush()
    world.lose_unseen(0, keep=keep)
    world.serve(2)
    stored = {record.key: record.value for record in world.kafka.logs[STATE, 0]}
    assert stored.get(b"group/0/floor"), "a floor that promises blocks that are gone"
    blocks = world.worker._store.partitions[0].blocks  # noqa: SLF001
    assert len(stored) < 1 + len(blocks), "not all blocks are in the topic"
    world.assert_restored_in_full("rebuilt")
    world.worker.flush()
    world.assert_restored_in_full()


@pytest.mark.usefixtures("blocks_with_batches")
def test_a_kill_before_the_loss_is_noticed_is_refused_without_the_whole_input() -> None:
    world = World()
    world.serve(6)
    world.worker.flush()
    world.lose_unseen(0)
    world.serve(2)
    world.kafka.retain(INPUT, 0, world.kafka.offsets[0] - SERIES)
    with pytest.raises(StateError, match=r"state topic state: its records before offset \d+ were deleted"):
        world.start()


@pytest.mark.usefixtures("blocks_with_batches")
@pytest.mark.parametrize("is_seen", [True, False])
def test_a_topic_that_was_created_again_counts_as_lost_whatever_its_offsets_are(*, is_seen: bool) -> None:
    world = World()
    world.serve(6)
    world.worker.flush()
    world.kafka.create_state_again("another")
    if is_seen:
        world.watch.state_logs = world.kafka.state_logs()
        world.worker.iterate()
        world.iterate_until_all_serve()
    world.serve(3)
    world.assert_restored_in_full("restored" if is_seen else "rebuilt")


def test_a_loss_before_the_first_look_of_the_watch_is_noticed_at_that_look() -> None:
    """What counts is the log that the restore has read, not the one that the watch has seen before."""
    world = World()
    world.serve(6)
    world.worker.flush()
    world.lose(0, keep=2)
    world.worker.iterate()
    world.iterate_until_all_serve()
    world.assert_restored_in_full(kept_readings=0)


def test_a_look_that_finds_the_same_log_writes_nothing() -> None:
    world = World()
    world.serve(6)
    world.lose(0)
    world.worker.iterate()
    world.iterate_until_all_serve()
    end = world.kafka.ends[STATE, 0]
    world.watch.state_logs = world.kafka.state_logs()
    for _ in range(3):
        world.worker.iterate()
    assert world.kafka.ends[STATE, 0] == end


def test_records_that_are_lost_during_a_rewrite_begin_it_again() -> None:
    world = World()
    world.serve(6)
    world.worker.flush()
    world.lose(0)
    for _ in range(3):
        world.worker.iterate()
    assert world.client.paused == {0}
    world.lose(0)
    world.worker.iterate()
    world.iterate_until_all_serve()
    world.assert_restored_in_full(kept_readings=0)


def test_sigterm_in_the_middle_writes_the_rest() -> None:
    world = World()
    world.serve(6)
    world.lose(0)
    world.worker.iterate()
    world.worker.flush()
    world.assert_restored_in_full(kept_readings=0)
