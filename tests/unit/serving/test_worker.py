"""The worker against a broker that is a plain object: what is adopted, dropped, held and restored, and when."""

from __future__ import annotations

import threading

import pytest
from builders import HOUR_MS, START_MS, pipeline_config
from clock import FakeClock
from fakes import HISTORY, INPUT, MODELS, FakeClient, FakeKafka, setup

from forecaster import pipeline
from forecaster.core.state import SeriesState
from forecaster.errors import BrokerUnavailable, StateError, TooManyBadRecords, TopicError
from forecaster.formats.history import decode_history
from forecaster.formats.state import decode_floor
from forecaster.pipeline import Batch, Models, PipelineConfig
from forecaster.records import Outputs
from forecaster.serving import worker as worker_module
from forecaster.serving.dead_letter_limits import Limits
from forecaster.serving.worker import Worker


def turn(one: Worker, times: int = 1) -> None:
    for _ in range(times):
        one.iterate()


def serving(kafka: FakeKafka, **options: object) -> tuple[FakeClient, Worker]:
    """A worker that has all partitions."""
    client = FakeClient(kafka)
    one = setup(**options).worker(client)
    while client.held:
        turn(one)
    return client, one


def series(one: Worker) -> int:
    return one._store.series  # noqa: SLF001 - the law is about what it holds


def test_every_reading_of_every_partition_has_one_forecast() -> None:
    kafka = FakeKafka(2)
    _, one = serving(kafka)
    kafka.hours(0, range(5))
    kafka.hours(1, range(3))
    turn(one, 2)
    assert kafka.sources() == [f"readings/0/{n}" for n in range(5)] + [f"readings/1/{n}" for n in range(3)]
    assert one.counters.records == 8
    assert one.counters.outcomes == {"forecast": 8}


@pytest.mark.parametrize("failure", ["dropped", "happened", "overtaken"])
def test_a_failed_transaction_is_read_again_adopted_or_restored_as_the_committed_offsets_say(failure: str) -> None:
    disturbed, calm = FakeKafka(), FakeKafka()
    for kafka in (disturbed, calm):
        client, one = serving(kafka)
        for begin in (0, 4, 8):
            kafka.hours(0, range(begin, begin + 4))
            client.failures = [failure] if kafka is disturbed and begin == 4 and failure != "overtaken" else []
            turn(one, 3)
    assert disturbed.published == calm.published
    assert disturbed.offsets == calm.offsets


def test_where_somebody_else_went_on_the_partition_is_restored_at_the_committed_offset() -> None:
    kafka = FakeKafka()
    client, one = serving(kafka)
    kafka.hours(0, range(4))
    turn(one)
    kafka.hours(0, range(4, 12))
    client.failures = ["overtaken"]
    client._batch = 4  # noqa: SLF001 - the one that fails is not the last
    turn(one)
    assert series(one) == 0
    kafka.offsets[0] = 8  # what the other one has committed
    turn(one, 3)
    assert kafka.sources()[-4:] == [f"readings/0/{n}" for n in range(8, 12)]


def test_the_committed_offsets_are_waited_for_up_to_the_outage_deadline() -> None:
    kafka = FakeKafka()
    client, one = serving(kafka, deadline=1.0)
    kafka.hours(0, range(4))
    client.failures, client.silent = ["dropped"], 2
    turn(one, 2)
    assert len(kafka.sources()) == 4
    kafka.hours(0, range(4, 8))
    client.failures, client.silent = ["dropped"], 10_000
    with pytest.raises(BrokerUnavailable):
        turn(one)


def test_transactions_that_never_go_through_end_the_worker_at_the_outage_deadline() -> None:
    kafka = FakeKafka()
    client, one = serving(kafka, deadline=0.5)
    kafka.hours(0, range(4))
    client.failures = ["dropped"] * 1_000
    with pytest.raises(BrokerUnavailable, match="in a row have failed"):
        turn(one, 1_000)


def test_a_partition_serves_only_when_the_topics_fit() -> None:
    client = FakeClient(FakeKafka())

    def misfit() -> None:
        raise TopicError("other partition counts")

    with pytest.raises(TopicError):
        setup(check_topics=misfit).worker(client).iterate()
    assert client.held == {0}


def test_a_revoked_partition_is_forgotten_and_restored_when_it_comes_back() -> None:
    kafka, calm = FakeKafka(2), FakeKafka(2)
    client, one = serving(kafka)
    for log in (kafka, calm):
        log.hours(0, range(4), b"a")
        log.hours(1, range(4), b"b")
    turn(one)
    assert series(one) == 2
    client.revoke([1])
    turn(one)
    assert series(one) == 1
    client.assign([1])
    turn(one, 2)
    assert series(one) == 2
    for log in (kafka, calm):
        log.hours(1, range(4, 6), b"b")
    turn(one)
    turn(serving(calm)[1])
    assert sorted(kafka.published) == sorted(calm.published)


def test_input_that_retention_took_before_it_was_read_is_never_passed_over_in_silence() -> None:
    kafka = FakeKafka()
    client, one = serving(kafka, policy="resume-stale")
    kafka.hours(0, range(4))
    turn(one)
    kafka.hours(0, range(4, 12))
    kafka.retain(INPUT, 0, 8)
    client.position[0] = 8  # where the client goes on when its offset is gone
    turn(one)
    assert kafka.sources()[-1] == "readings/0/3"
    turn(one, 3)
    assert kafka.sources()[-4:] == [f"readings/0/{n}" for n in range(8, 12)]
    assert b'"point":[6' not in kafka.published[-4][2], "the row is from before the hole"


def test_a_single_reading_that_retention_took_before_it_was_read_is_lost_not_a_marker() -> None:
    kafka = FakeKafka()
    client, one = serving(kafka)
    kafka.hours(0, range(4))
    turn(one)
    kafka.hours(0, range(4, 8))
    kafka.retain(INPUT, 0, 5)
    client.position[0] = 5
    with pytest.raises(StateError, match="is no longer in the input"):
        turn(one, 3)


@pytest.mark.parametrize("when", ["with the records", "later"])
def test_markers_and_aborted_records_at_the_end_of_the_input_are_passed_and_no_loss_when_retention_empties_it(
    when: str,
) -> None:
    kafka = FakeKafka(2)
    _, one = serving(kafka)
    kafka.hours(0, range(6))
    kafka.hours(1, range(6))
    if when == "later":
        turn(one)
    kafka.mark(0)
    kafka.mark(1, 40)
    turn(one, 2)
    one.flush()
    assert kafka.offsets == {0: 7, 1: 46}
    for number in (0, 1):
        kafka.retain(INPUT, number, kafka.offsets[number])
    assert series(serving(kafka)[1]) == 2
    assert len(kafka.sources()) == 12


def test_markers_between_records_cost_no_reading_and_lose_none() -> None:
    kafka = FakeKafka()
    client, one = serving(kafka)
    for hour in range(12):
        kafka.hours(0, range(hour, hour + 1))
        kafka.mark(0, 1 + hour % 3)
    client._batch = 2  # noqa: SLF001 - the markers come with the next batch
    turn(one, 8)
    assert len(kafka.sources()) == 12
    turn(one)
    one.flush()
    assert kafka.offsets[0] == kafka.ends[INPUT, 0]


def test_input_that_jumps_back_is_restored_and_nothing_is_forecast_twice() -> None:
    kafka = FakeKafka()
    client, one = serving(kafka)
    kafka.hours(0, range(6))
    turn(one)
    client.position[0] = 0
    vars(client)["_batch"] = 2
    turn(one)
    assert kafka.offsets == {0: 6}, "the group's offset does not go back with it"
    turn(one, 5)
    kafka.hours(0, range(6, 8))
    turn(one, 5)
    assert kafka.sources() == [f"readings/0/{n}" for n in range(8)]


def test_what_is_dirty_is_written_at_the_end() -> None:
    kafka = FakeKafka()
    _, one = serving(kafka, replay_limit=1_000_000)
    kafka.hours(0, range(4))
    turn(one)
    one.flush()
    successor, two = serving(kafka)
    assert series(two) == 1
    assert successor.read_position == kafka.ends["state", 0], "nothing was replayed"


def test_a_partition_that_falls_silent_is_written_while_others_are_busy() -> None:
    kafka = FakeKafka(2)
    _, one = serving(kafka, replay_limit=1_000_000, snapshot_seconds=0.0)
    kafka.hours(0, range(4))
    turn(one)
    for begin in range(0, 40, 4):
        kafka.hours(1, range(begin, begin + 4))
        turn(one)
    silent = [decode_floor(one.value) for one in kafka.logs["state", 0] if (one.key or b"").endswith(b"/floor")]
    assert silent[-1].offset == kafka.offsets[0] == 4, "retention may take all that was read"


def test_too_many_bad_records_hold_their_partition_and_no_other() -> None:
    kafka = FakeKafka(2)
    client, one = serving(kafka, limits=Limits(max_consecutive=3))
    for _ in range(3):
        kafka.append(0, b"no json")
    kafka.hours(1, range(2))
    turn(one)
    assert client.held == {0}
    kafka.hours(0, range(2))
    kafka.hours(1, range(2, 4))
    turn(one)
    assert kafka.sources() == [f"readings/1/{n}" for n in range(4)]
    assert len(kafka.sources("dead")) == 3


def test_too_many_bad_records_end_the_worker_when_asked_to() -> None:
    kafka = FakeKafka()
    _, one = serving(kafka, stop_on_limit=True, limits=Limits(max_consecutive=3))
    for _ in range(3):
        kafka.append(0, b"no json")
    with pytest.raises(TooManyBadRecords, match="partition 0"):
        turn(one)
    assert len(kafka.sources("dead")) == 3


def test_the_ratio_counts_the_last_thousand_records_of_a_partition() -> None:
    kafka = FakeKafka()
    client, one = serving(kafka, limits=Limits(max_ratio=0.5))
    for number in range(996):
        kafka.append(0, b"no json" if number % 2 else b'{"timestamp": 1735689600000, "value": 1}')
    turn(one)
    assert client.held == set()
    for _ in range(4):
        kafka.append(0, b"no json")
    turn(one)
    assert client.held == {0}


def test_stop_ends_the_loop_between_batches() -> None:
    kafka = FakeKafka()
    stop = threading.Event()
    client, one = serving(kafka, stop=stop)
    kafka.hours(0, range(4))
    stop.set()
    one.run()
    assert not kafka.sources()
    assert not client.restarts


def learned(kafka: FakeKafka, partition: int = 0) -> list[tuple[str, int, float, bool]]:
    """What the trainer gets: series, stamp, value, whether it was kept from the inputs."""
    found: list[tuple[str, int, float, bool]] = []
    for record in kafka.logs.get((HISTORY, partition), []):
        part = decode_history(record.value or b"")
        names = [part.series_ids[row] for row in part.row.tolist()]
        found += zip(names, part.timestamp_ms.tolist(), part.values.tolist(), part.masked.tolist(), strict=True)
    return found


def test_the_trainer_gets_every_reading_that_is_a_step_once_whatever_fails() -> None:
    kafka = FakeKafka(2)
    client, one = serving(kafka)
    client.failures = ["", "dropped", "", "happened"]
    for begin in range(0, 24, 4):
        kafka.hours(0, range(begin, begin + 4))
        kafka.hours(1, range(begin, begin + 4), b"fan")
        kafka.append(0, b"no json")
        turn(one, 2)
    for partition, name in ((0, "pump"), (1, "fan")):
        expected = [(name, START_MS + hour * HOUR_MS, float(hour % 7), False) for hour in range(24)]
        assert learned(kafka, partition) == expected


def test_what_the_filters_mask_is_flagged_for_the_trainer_and_keeps_its_raw_value() -> None:
    kafka = FakeKafka()
    _, one = serving(kafka, pipeline=pipeline_config(chain=("hampel",)))
    kafka.hours(0, range(60))
    stamp = START_MS + 60 * HOUR_MS
    kafka.append(0, b'{"timestamp": %d, "value": 1000}' % stamp)
    turn(one)
    assert learned(kafka)[-1] == ("pump", stamp, 1000.0, True)


def test_a_backlog_is_served_in_batches_of_a_fraction_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka, clock = FakeKafka(), FakeClock()
    client, one = serving(kafka, clock=clock)
    client.is_limited = True
    kafka.hours(0, range(600))

    def advance(config: PipelineConfig, models: Models, state: SeriesState, batch: Batch) -> Outputs:
        clock.advance(0.002 * len(batch.row))
        return pipeline.advance(config, models, state, batch)

    monkeypatch.setattr(worker_module, "advance", advance)
    ends = []
    while client.position[0] < 600:
        turn(one)
        ends.append(client.position[0])
    assert ends == [64, 164, 264, 364, 464, 564, 600], "100 records take 0.2 s"


def test_drift_of_the_live_loss_is_said_once_in_a_transaction_that_holds() -> None:
    kafka = FakeKafka()
    client, one = serving(kafka)
    kafka.hours(0, range(10))
    turn(one)
    vars(one)["_has_drifted"] = True
    for failures, hours in ((["dropped"], range(10, 12)), ([], range(12, 14))):
        client.failures = failures
        kafka.hours(0, hours)
        turn(one, 2)
    assert [record.key for record in kafka.logs[MODELS, 0]] == [b"drift/0"]
