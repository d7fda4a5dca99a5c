"""The worker against a fake broker: when rows are adopted, dropped, held and restored."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import NoReturn

import pytest
from builders import HOUR_MS, START_MS, history_flags, pipeline_config
from clock import FakeClock
from fakes import HISTORY, MODELS, FakeClient, FakeKafka, FakeWatch
from setups import iterate, serving, setup

from forecaster import pipeline
from forecaster.broker.retry import FIRST_WAIT_SECONDS
from forecaster.core.state import SeriesState
from forecaster.errors import BrokerUnavailable, TooManyBadRecords, TopicError, TransientBrokerError
from forecaster.formats.history import decode_history
from forecaster.formats.state import decode_floor
from forecaster.pipeline import Batch, Models, PipelineConfig
from forecaster.records import Outputs, PollResult
from forecaster.serving import worker as worker_module
from forecaster.serving.counters import Counters
from forecaster.serving.dead_letter_limits import Limits
from forecaster.serving.state.restore_queue import RETRY_SECONDS
from forecaster.serving.worker import Worker


def series(worker: Worker) -> int:
    return worker._store.series  # noqa: SLF001 - the law is about the rows that it holds


def test_every_reading_of_every_partition_has_one_forecast() -> None:
    kafka = FakeKafka(2)
    _, worker = serving(kafka)
    kafka.hours(0, range(5))
    kafka.hours(1, range(3))
    iterate(worker, 2)
    assert kafka.sources() == [f"readings/0/{n}" for n in range(5)] + [f"readings/1/{n}" for n in range(3)]
    assert worker.counters.records == 8
    assert worker.counters.outcomes == {"forecast": 8}


@pytest.mark.parametrize("failure", ["dropped", "happened"])
def test_committed_offsets_decide_after_a_failed_transaction(failure: str) -> None:
    """The batch is adopted or read again; output and counters are those of a worker without the failure."""
    disturbed, calm = FakeKafka(), FakeKafka()
    counters: list[Counters] = []
    for kafka in (disturbed, calm):
        client, worker = serving(kafka)
        for begin in (0, 4, 8):
            kafka.hours(0, range(begin, begin + 4))
            client.failures = [failure] if kafka is disturbed and begin == 4 else []
            iterate(worker, 3)
        counters.append(worker.counters)
    assert disturbed.published == calm.published
    assert disturbed.offsets == calm.offsets
    assert [count.failed_transactions for count in counters] == [1, 0]
    for name in ("records", "outcomes", "forecasts", "transactions"):
        assert getattr(counters[0], name) == getattr(counters[1], name)
    assert counters[0].scores.count.tolist() == counters[1].scores.count.tolist()


def test_a_worker_whose_brokers_have_other_addresses_makes_its_producer_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = FakeKafka()
    client, worker = serving(kafka)
    poll = client.poll
    monkeypatch.setattr(client, "poll", lambda **options: replace(poll(**options), reconnected=True))
    kafka.hours(0, range(4))
    iterate(worker)
    assert (client.confirmed, client.restarts) == (1, 1)
    assert kafka.sources() == [f"readings/0/{n}" for n in range(4)]
    assert not worker.counters.failed_transactions


def test_a_producer_that_is_replaced_without_a_failure_does_not_lengthen_the_pauses_after_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kafka, stop = FakeKafka(), threading.Event()
    client, worker = serving(kafka, stop=stop)
    pauses: list[float] = []
    monkeypatch.setattr(stop, "wait", pauses.append)
    with monkeypatch.context() as reconnecting:
        poll = client.poll
        reconnecting.setattr(client, "poll", lambda **options: replace(poll(**options), reconnected=True))
        iterate(worker, 5)
    assert client.restarts == 5
    assert not pauses
    kafka.hours(0, range(4))
    client.failures = ["dropped", "dropped"]
    iterate(worker, 3)
    assert pauses == [0.0, 2 * FIRST_WAIT_SECONDS], "the pauses after two failures in a row"


def test_a_partition_that_another_process_advanced_is_restored() -> None:
    kafka = FakeKafka()
    client, worker = serving(kafka)
    kafka.hours(0, range(4))
    iterate(worker)
    kafka.hours(0, range(4, 12))
    client.failures = ["overtaken"]
    client._batch = 4  # noqa: SLF001 - the failing batch is not the last
    iterate(worker)
    assert series(worker) == 0
    kafka.offsets[0] = 8  # the other process has committed it
    iterate(worker, 3)
    assert kafka.sources()[-4:] == [f"readings/0/{n}" for n in range(8, 12)]


def test_committed_offsets_are_retried_until_the_outage_deadline() -> None:
    kafka = FakeKafka()
    client, worker = serving(kafka, deadline=1.0)
    kafka.hours(0, range(4))
    client.failures, client.silent = ["dropped"], 2
    iterate(worker, 2)
    assert len(kafka.sources()) == 4
    kafka.hours(0, range(4, 8))
    client.failures, client.silent = ["dropped"], 10_000
    with pytest.raises(BrokerUnavailable):
        iterate(worker)


def test_failing_transactions_end_the_worker_at_the_outage_deadline() -> None:
    kafka = FakeKafka()
    client, worker = serving(kafka, deadline=0.5)
    kafka.hours(0, range(4))
    client.failures = ["dropped"] * 1_000
    with pytest.raises(BrokerUnavailable, match="in a row have failed"):
        iterate(worker, 1_000)


def test_a_partition_serves_only_when_the_topics_fit() -> None:
    client = FakeClient(FakeKafka())

    def misfit() -> None:
        raise TopicError("other partition counts")

    with pytest.raises(TopicError):
        setup(check_topics=misfit).worker(client).iterate()
    assert client.paused == {0}


def test_topics_that_are_missing_when_partitions_are_assigned_are_looked_for_at_once() -> None:
    kafka, watch = FakeKafka(2), FakeWatch()
    client, worker = serving(kafka, topic_watch=watch)
    assert watch.looks == 1
    iterate(worker, 5)
    assert watch.looks == 1, "afterwards, it looks when a look is due"
    client.revoke([1])
    iterate(worker)
    client.assign([1])
    iterate(worker)
    assert watch.looks == 2


def test_a_broker_that_is_silent_during_the_look_at_an_assignment_delays_nothing() -> None:
    class Silent(FakeWatch):
        def look(self) -> NoReturn:
            raise TransientBrokerError("silence")

    kafka = FakeKafka()
    _, worker = serving(kafka, topic_watch=Silent())
    kafka.hours(0, range(4))
    iterate(worker)
    assert len(kafka.sources()) == 4


def test_a_revoked_partition_is_restored_when_it_is_assigned_again() -> None:
    kafka, calm = FakeKafka(2), FakeKafka(2)
    client, worker = serving(kafka)
    for log in (kafka, calm):
        log.hours(0, range(4), b"a")
        log.hours(1, range(4), b"b")
    iterate(worker)
    assert series(worker) == 2
    client.revoke([1])
    iterate(worker)
    assert series(worker) == 1
    client.assign([1])
    iterate(worker, 2)
    assert series(worker) == 2
    for log in (kafka, calm):
        log.hours(1, range(4, 6), b"b")
    iterate(worker)
    iterate(serving(calm)[1])
    assert sorted(kafka.published) == sorted(calm.published)


class Waits:
    """A worker that restores two partitions, and whether its polls wait for records."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.kafka = FakeClock(), FakeKafka(2)
        self.client = FakeClient(self.kafka)
        self.worker = setup(clock=self.clock).worker(self.client)
        self.waits: list[bool] = []
        self.is_stable = True
        poll = self.client.poll

        def watched(*, wait: bool, max_records: int | None = None) -> PollResult:
            self.waits.append(wait)
            return replace(poll(wait=wait, max_records=max_records), stable=self.is_stable)

        monkeypatch.setattr(self.client, "poll", watched)

    def iterate(self, times: int, seconds: float = 0.0) -> list[bool]:
        self.waits.clear()
        for _ in range(times):
            iterate(self.worker)
            self.clock.advance(seconds)
        return self.waits


def test_polls_do_not_wait_while_a_restore_can_take_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits(monkeypatch)
    assert waits.iterate(4) == [True, False, True, True]
    assert not waits.client.paused


def test_polls_wait_while_restores_pause_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits(monkeypatch)
    waits.client.silent = 1
    assert all(waits.iterate(5)), "the first restore was interrupted"
    waits.clock.advance(RETRY_SECONDS)
    assert not any(waits.iterate(2))
    assert not waits.client.paused


def test_polls_wait_while_the_worker_is_no_member_of_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits(monkeypatch)
    waits.is_stable = False
    assert all(waits.iterate(5))
    waits.is_stable = True
    assert waits.iterate(2) == [True, False]
    assert not waits.client.paused


def test_polls_wait_while_the_input_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits(monkeypatch)
    waits.iterate(3)
    waits.kafka.delete_input()
    assert all(waits.iterate(5, seconds=0.5))


def test_dirty_blocks_are_written_at_shutdown() -> None:
    kafka = FakeKafka()
    _, worker = serving(kafka, replay_limit=1_000_000)
    kafka.hours(0, range(4))
    iterate(worker)
    worker.flush()
    client, successor = serving(kafka)
    assert series(successor) == 1
    assert client.read_position == kafka.ends["state", 0], "nothing was replayed"


def test_an_idle_partition_is_written_while_others_are_busy() -> None:
    kafka = FakeKafka(2)
    _, worker = serving(kafka, replay_limit=1_000_000, snapshot_seconds=0.0)
    kafka.hours(0, range(4))
    iterate(worker)
    for begin in range(0, 40, 4):
        kafka.hours(1, range(begin, begin + 4))
        iterate(worker)
    floors = [record for record in kafka.logs["state", 0] if (record.key or b"").endswith(b"/floor")]
    assert decode_floor(floors[-1].value or b"").offset == kafka.offsets[0] == 4, "retention may delete what was read"


def test_too_many_bad_records_hold_only_their_partition() -> None:
    kafka = FakeKafka(2)
    client, worker = serving(kafka, limits=Limits(max_consecutive=3))
    for _ in range(3):
        kafka.append(0, b"no json")
    kafka.hours(1, range(2))
    iterate(worker)
    assert client.paused == {0}
    kafka.hours(0, range(2))
    kafka.hours(1, range(2, 4))
    iterate(worker)
    assert kafka.sources() == [f"readings/1/{n}" for n in range(4)]
    assert len(kafka.sources("dead")) == 3


def test_too_many_bad_records_end_the_worker_if_configured() -> None:
    kafka = FakeKafka()
    _, worker = serving(kafka, stop_on_limit=True, limits=Limits(max_consecutive=3))
    for _ in range(3):
        kafka.append(0, b"no json")
    with pytest.raises(TooManyBadRecords, match="partition 0"):
        iterate(worker)
    assert len(kafka.sources("dead")) == 3


def test_the_ratio_counts_the_last_thousand_records_of_a_partition() -> None:
    kafka = FakeKafka()
    client, worker = serving(kafka, limits=Limits(max_ratio=0.5))
    for number in range(996):
        kafka.append(0, b"no json" if number % 2 else b'{"timestamp": 1735689600000, "value": 1}')
    iterate(worker)
    assert client.paused == set()
    for _ in range(4):
        kafka.append(0, b"no json")
    iterate(worker)
    assert client.paused == {0}


def test_stop_ends_the_loop_between_batches() -> None:
    kafka = FakeKafka()
    stop = threading.Event()
    client, worker = serving(kafka, stop=stop)
    kafka.hours(0, range(4))
    stop.set()
    worker.run()
    assert not kafka.sources()
    assert not client.restarts


def written_history(kafka: FakeKafka, partition: int = 0) -> list[tuple[str, int, float, bool]]:
    """The training history: series, timestamp, value, whether the reading was masked."""
    rows: list[tuple[str, int, float, bool]] = []
    for record in kafka.logs.get((HISTORY, partition), []):
        part = decode_history(record.value or b"")
        names = [part.series_ids[row] for row in part.row.tolist()]
        masked = history_flags(record.value or b"") & 2 != 0
        rows += zip(names, part.timestamp_ms.tolist(), part.values.tolist(), masked.tolist(), strict=True)
    return rows


def test_the_history_holds_every_step_once_despite_failures() -> None:
    kafka = FakeKafka(2)
    client, worker = serving(kafka)
    client.failures = ["", "dropped", "", "happened"]
    for begin in range(0, 24, 4):
        kafka.hours(0, range(begin, begin + 4))
        kafka.hours(1, range(begin, begin + 4), b"fan")
        kafka.append(0, b"no json")
        iterate(worker, 2)
    for partition, name in ((0, "pump"), (1, "fan")):
        expected = [(name, START_MS + hour * HOUR_MS, float(hour % 7), False) for hour in range(24)]
        assert written_history(kafka, partition) == expected


def test_masked_readings_keep_their_raw_value_in_the_history() -> None:
    kafka = FakeKafka()
    _, worker = serving(kafka, pipeline=pipeline_config(chain=("hampel",)))
    kafka.hours(0, range(60))
    stamp = START_MS + 60 * HOUR_MS
    kafka.append(0, b'{"timestamp": %d, "value": 1000}' % stamp)
    iterate(worker)
    assert written_history(kafka)[-1] == ("pump", stamp, 1000.0, True)


def test_a_backlog_is_served_in_short_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka, clock = FakeKafka(), FakeClock()
    client, worker = serving(kafka, clock=clock)
    client.is_limited = True
    kafka.hours(0, range(600))

    def advance(config: PipelineConfig, models: Models, state: SeriesState, batch: Batch) -> Outputs:
        clock.advance(0.002 * len(batch.row))
        return pipeline.advance(config, models, state, batch)

    monkeypatch.setattr(worker_module, "advance", advance)
    ends = []
    while client.position[0] < 600:
        iterate(worker)
        ends.append(client.position[0])
    assert ends == [64, 164, 264, 364, 464, 564, 600], "100 records take 0.2 s"


def test_drift_is_reported_once_in_a_committed_transaction() -> None:
    kafka = FakeKafka()
    client, worker = serving(kafka)
    kafka.hours(0, range(10))
    iterate(worker)
    vars(worker)["_has_drifted"] = True
    for failures, hours in ((["dropped"], range(10, 12)), ([], range(12, 14))):
        client.failures = failures
        kafka.hours(0, hours)
        iterate(worker, 2)
    assert [record.key for record in kafka.logs[MODELS, 0]] == [b"drift/0"]
