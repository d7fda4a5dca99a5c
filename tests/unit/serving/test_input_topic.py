"""The input topic is deleted, or deleted and created again, while a worker reads it."""

from __future__ import annotations

from collections import Counter

import pytest
from clock import FakeClock
from fakes import FACTS, INPUT, FakeClient, FakeKafka
from setups import setup

from forecaster.errors import InputMissing, StateError
from forecaster.formats.sources import Source, short_topic_id, source_of
from forecaster.serving.input_topic import PAUSE_SECONDS
from forecaster.serving.state.recovery import OnLostInput, Recovery
from forecaster.serving.worker import Worker

OTHER_ID = "deadbeef-0000-4000-8000-000000000000"


class Run:
    """A worker that reads a fake Kafka, with a clock that moves on at each iteration."""

    def __init__(self, kafka: FakeKafka, policy: OnLostInput, **options: object) -> None:
        self.clock = FakeClock()
        self.client = FakeClient(kafka)
        self.setup = setup(policy=policy, clock=self.clock, deadline=5.0, **options)
        self.worker: Worker = self.setup.worker(self.client)

    def iterate(self, times: int = 10) -> None:
        for _ in range(times):
            self.clock.advance(PAUSE_SECONDS / 4)
            self.worker.iterate()


def sources(kafka: FakeKafka) -> Counter[Source]:
    """Return how often each input record has a forecast."""
    found = [source_of(record.headers) for number in kafka.partitions for record in kafka.logs["forecasts", number]]
    return Counter(source for source in found if source is not None)


@pytest.mark.parametrize("policy", ["resume-cold", "resume-stale"])
@pytest.mark.parametrize("hours", [5, 160], ids=["fewer readings than before", "more readings than before"])
def test_a_topic_created_again_is_read_from_its_start(policy: OnLostInput, hours: int) -> None:
    kafka = FakeKafka(2)
    run = Run(kafka, policy)
    for number in kafka.partitions:
        kafka.hours(number, range(100))
    run.iterate()
    run.worker.flush()  # there are blocks to continue with
    kafka.create_again(OTHER_ID)
    for number in kafka.partitions:
        kafka.hours(number, range(100, 100 + hours))
    run.iterate(20)
    assert run.client.reads_from == OTHER_ID
    expected = {(FACTS.topic_id, 100), (OTHER_ID, hours)}
    assert sources(kafka) == {
        Source(INPUT, number, offset, short_topic_id(topic_id)): 1
        for number in kafka.partitions
        for topic_id, count in expected
        for offset in range(count)
    }
    assert run.worker.counters.restores == {"new": 2, policy.removeprefix("resume-"): 2}
    restorer = setup(policy="fail").restorer(FakeClient(kafka))
    assert {restorer.plan(number).recovery for number in kafka.partitions} == {Recovery.RESTORED}


def test_fail_ends_the_running_worker() -> None:
    kafka = FakeKafka()
    run = Run(kafka, "fail")
    kafka.hours(0, range(30))
    run.iterate()
    kafka.create_again(OTHER_ID)
    kafka.hours(0, range(60))
    with pytest.raises(StateError, match="deleted and created again"):
        run.iterate(20)
    assert len(sources(kafka)) == 30, "nothing that was read from the new topic is committed as if it were the old one"


def test_a_worker_waits_for_a_missing_topic_until_the_outage_deadline() -> None:
    kafka = FakeKafka()
    run = Run(kafka, "resume-cold")
    kafka.hours(0, range(30))
    run.iterate()
    kafka.delete_input()
    run.iterate(12)
    assert run.worker.counters.restores == {"new": 1}
    kafka.create_again(OTHER_ID)
    kafka.hours(0, range(10))
    run.iterate(12)
    assert run.worker.counters.restores == {"new": 1, "cold": 1}
    assert sources(kafka).total() == 40
    kafka.delete_input()
    with pytest.raises(InputMissing, match="has been missing for"):
        run.iterate(40)


def test_a_topic_that_only_the_restore_finds_missing_is_waited_for() -> None:
    """The consumer's metadata is older than the answer of the broker."""
    kafka = FakeKafka()
    run = Run(kafka, "resume-cold")
    kafka.hours(0, range(30))
    facts, kafka.facts = kafka.facts, None
    run.client.newest_id = FACTS.topic_id
    run.iterate(12)
    assert not run.worker.counters.restores
    kafka.facts = facts
    run.iterate(8)
    assert len(sources(kafka)) == 30


def test_a_topic_created_again_during_a_restore_is_restored_once_more() -> None:
    kafka = FakeKafka(2)
    run = Run(kafka, "resume-cold")
    kafka.hours(0, range(30))
    kafka.hours(1, range(30))
    run.iterate()
    run.client.assign([1])
    kafka.create_again(OTHER_ID)
    run.client.newest_id = FACTS.topic_id
    run.iterate(1)  # the metadata is old, the restore of partition 1 is of the new topic, partition 0 is of the old one
    run.client.newest_id = None
    kafka.hours(0, range(5))
    kafka.hours(1, range(5))
    run.iterate(20)
    assert run.client.reads_from == OTHER_ID
    assert sources(kafka).total() == 70
    assert set(sources(kafka).values()) == {1}


def test_without_a_committed_offset_a_failed_batch_is_restored_not_read_again() -> None:
    kafka = FakeKafka()
    run = Run(kafka, "fail")
    kafka.hours(0, range(10))
    run.iterate()
    kafka.hours(0, range(10, 20))
    run.client.failures = ["happened"]
    original = run.client.confirm_membership

    def forget() -> None:
        original()
        kafka.forget_offsets()

    run.client.confirm_membership = forget  # type: ignore[method-assign]
    run.iterate()
    assert run.worker.counters.restores == {"new": 1, "forgotten": 1}
    assert sources(kafka).total() == len(sources(kafka)) == 20


def test_ids_are_shortened_as_kafka_prints_them() -> None:
    assert short_topic_id("deadbeef-0000-4000-8000-000000000000") == "3q2-7wAA"
    assert short_topic_id("None") == "None"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("input-id", b"3q2-7wAA")],
        [("source", b"no place")],
        [("source", b"readings/0/x")],
        [("source", b"\xff/0/1")],
        [("source", None)],
    ],
)
def test_headers_of_other_software_name_no_source(headers: list[tuple[str, bytes]]) -> None:
    assert source_of(headers) is None


def test_the_last_source_of_a_record_counts() -> None:
    """A dead letter copies the headers of its record, which may come from another forecaster."""
    headers = [("source", b"other/0/1"), ("input-id", b"other"), ("source", b"a/b/3/17"), ("input-id", b"3q2-7wAA")]
    assert source_of(headers) == Source("a/b", 3, 17, "3q2-7wAA")
    assert source_of([("source", b"readings/3/17")]) == Source("readings", 3, 17, None)
