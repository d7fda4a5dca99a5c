"""Rebalances during restores, and forgotten offsets: no partition is served before its rows are restored."""

from __future__ import annotations

from builders import pipeline_config, random_model
from fakes import INPUT, FakeClient, FakeKafka
from hypothesis import given, settings
from hypothesis import strategies as st
from setups import setup

PARTITIONS = 3
SETUP = setup(pipeline=pipeline_config(), model=random_model(pipeline_config()), replay_limit=25)

steps = st.one_of(
    st.tuples(st.just("revoke"), st.integers(0, 1), st.integers(0, PARTITIONS - 1)),
    st.tuples(st.just("turn"), st.integers(0, 1), st.integers(1, 4)),
    st.tuples(st.just("feed"), st.integers(0, PARTITIONS - 1), st.integers(1, 9)),
    st.tuples(st.just("forget"), st.integers(0, PARTITIONS - 1), st.none()),
    st.tuples(st.just("fail"), st.integers(0, 1), st.sampled_from(["dropped", "happened"])),
)


class World:
    """Two workers of a group with three partitions, and the log of their forecasts."""

    def __init__(self, batch: int = 5) -> None:
        self.kafka = FakeKafka(PARTITIONS)
        self.clients = [FakeClient(self.kafka, batch=batch) for _ in range(2)]
        self.clients[1].revoke(range(PARTITIONS))
        self.workers = [SETUP.worker(client) for client in self.clients]
        self.hours = [0] * PARTITIONS

    def step(self, what: str, number: int, argument: object) -> None:
        if what == "revoke":
            owner, other = self.clients[number], self.clients[1 - number]
            if argument in owner.assigned:
                owner.revoke([argument])  # type: ignore[list-item]
                self.turn(number)  # cooperative: it has dropped the partition before the other worker gets it
                other.assign([argument])  # type: ignore[list-item]
        elif what == "turn":
            for _ in range(int(argument)):  # type: ignore[call-overload]
                self.turn(number)
        elif what == "feed":
            self.feed(number, int(argument))  # type: ignore[call-overload]
        elif what == "forget":
            self.kafka.offsets.pop(number, None)
        else:
            self.clients[number].failures = [str(argument)]

    def turn(self, number: int) -> None:
        self.workers[number].iterate()
        served = set(self.workers[number]._store.partitions)  # noqa: SLF001
        free = self.clients[number].assigned - self.clients[number].paused
        assert free <= served, "a partition delivers records before its rows are restored"

    def feed(self, partition: int, hours: int) -> None:
        begin = self.hours[partition]
        self.hours[partition] += hours
        for series in range(3):
            self.kafka.hours(partition, range(begin, begin + hours), b"pump-%d-%d" % (partition, series))

    def position(self, partition: int) -> int:
        """Return up to where the owner of a partition has served it; -1 = it is not open."""
        owner = next(
            worker for worker, client in zip(self.workers, self.clients, strict=True) if partition in client.assigned
        )
        opened = owner._store.partitions.get(partition)  # noqa: SLF001
        return -1 if opened is None else opened.position

    def drain(self) -> None:
        for _ in range(200):
            for number in range(2):
                self.clients[number].failures = []
                self.turn(number)
            if all(self.position(n) >= self.kafka.ends.get((INPUT, n), 0) for n in range(PARTITIONS)):
                return
        raise AssertionError("not everything was served")


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=40))
def test_rebalances_leave_the_forecasts_unchanged(plan: list) -> None:
    """Whatever happens to assignment and offsets, no partition is served before its rows are restored."""
    world, undisturbed = World(), World(batch=1_000)
    for step in plan:
        world.step(*step)
        if step[0] == "feed":
            undisturbed.feed(step[1], step[2])
    world.drain()
    undisturbed.drain()
    for partition in range(PARTITIONS):
        mark = f"{INPUT}/{partition}/"
        published = [record for record in world.kafka.published if record[1].startswith(mark)]
        assert published == [record for record in undisturbed.kafka.published if record[1].startswith(mark)]
