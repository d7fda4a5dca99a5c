"""Phases of a partition: only the transitions of its life cycle are possible."""

from __future__ import annotations

import pytest
from builders import pipeline_config
from fakes import FakeClient, FakeKafka
from setups import setup

from forecaster.lifecycle import InvalidTransition
from forecaster.serving.state.lifecycle import ALLOWED, PartitionPhase, PartitionPhases

PATHS = {
    PartitionPhase.CLOSED: [],
    PartitionPhase.WAITING: [PartitionPhase.WAITING],
    PartitionPhase.RESTORING: [PartitionPhase.WAITING, PartitionPhase.RESTORING],
    PartitionPhase.SERVING: [PartitionPhase.WAITING, PartitionPhase.RESTORING, PartitionPhase.SERVING],
    PartitionPhase.HELD: [
        PartitionPhase.WAITING,
        PartitionPhase.RESTORING,
        PartitionPhase.SERVING,
        PartitionPhase.HELD,
    ],
}
"""How a closed partition gets to each phase."""


@pytest.mark.parametrize("after", PartitionPhase)
@pytest.mark.parametrize("before", PartitionPhase)
def test_a_phase_leads_to_its_allowed_phases_and_to_no_other(before: PartitionPhase, after: PartitionPhase) -> None:
    phases = PartitionPhases()
    for phase in PATHS[before]:
        phases.move(3, phase)
    if after in ALLOWED[before]:
        phases.move(3, after)
        assert phases[3] is after
    else:
        with pytest.raises(InvalidTransition, match=f"partition 3 is {before}: it cannot become {after}"):
            phases.move(3, after)
        assert phases[3] is before


def test_partitions_of_a_phase_are_in_the_order_in_which_they_entered_it() -> None:
    phases = PartitionPhases()
    for number in (2, 0, 1):
        phases.move(number, PartitionPhase.WAITING)
    phases.move(2, PartitionPhase.RESTORING)
    phases.move(2, PartitionPhase.WAITING)
    assert phases.numbers(PartitionPhase.WAITING) == [0, 1, 2]


def test_a_partition_goes_through_its_phases_from_assignment_to_revocation() -> None:
    store = setup(pipeline=pipeline_config()).store(FakeClient(FakeKafka()))
    store.follow((), [0])
    assert store.phases[0] is PartitionPhase.WAITING
    restored = store.restore()
    assert restored is not None
    assert store.phases[0] is PartitionPhase.RESTORING
    assert store.has_unopened
    store.open(restored)
    assert store.phases[0] is PartitionPhase.SERVING
    assert not store.has_unopened
    store.hold(0)
    assert store.phases[0] is PartitionPhase.HELD
    assert list(store.partitions) == [0], "its rows stay open"
    store.restore_again([0])
    assert store.phases[0] is PartitionPhase.WAITING
    store.follow([0], ())
    assert store.phases[0] is PartitionPhase.CLOSED
    assert not store.partitions


def test_only_a_serving_partition_can_be_held() -> None:
    store = setup(pipeline=pipeline_config()).store(FakeClient(FakeKafka()))
    store.follow((), [0])
    with pytest.raises(InvalidTransition, match="partition 0 is waiting"):
        store.hold(0)
