"""`plan_recovery`: one case for each row of the table in the docstring of its module."""

from __future__ import annotations

from dataclasses import dataclass, field
from dataclasses import replace as replaced

import pytest
from msgspec.structs import replace

from forecaster.errors import FatalError, StateError, TopicError
from forecaster.formats.state import FLOOR, Event, Floor, Identity, StoredBlock, Swap
from forecaster.formats.state_log import StateLog
from forecaster.serving.state.recovery import OnLostInput, Recovery, RecoveryPlan, plan_recovery
from forecaster.serving.state.stored import InputBounds, StoredState

OURS = Identity(cluster="cluster", topic="topic", partitions=3, pipeline="settings", interval_ms=60_000)
BOUNDS = InputBounds(committed=100, log_start=0, log_end=120)
"""Input that is complete, read up to offset 100."""
SOURCE = "readings partition 1"


def stored(identity: Identity = OURS, floor: int = 40, block: int = 80) -> StoredState:
    """Return a floor and a block at these offsets."""
    return StoredState(
        blocks={0: StoredBlock(identity, block, ["a"], [], {})},
        floor=Floor(identity, floor, swaps=[Swap(floor, "checkpoint")]),
        block_numbers={0},
    )


def without_floor() -> StoredState:
    return StoredState(blocks=stored().blocks, block_numbers={0})


def with_corrupt_block() -> StoredState:
    return StoredState(floor=stored().floor, corrupt={"0": "its hash is wrong"}, block_numbers={0})


def seeded_blocks(offset: int) -> StoredState:
    """Return blocks without a floor, as an interrupted seeding leaves them at the start of the input."""
    return StoredState(blocks={0: stored(block=offset).blocks[0]}, block_numbers={0})


def with_event(offset: int) -> StoredState:
    state = stored()
    assert state.floor is not None
    state.floor = replace(state.floor, events=[Event(offset, full=False, freed=["b"])])
    return state


def with_missing_checkpoint() -> StoredState:
    state = stored()
    state.missing = ["checkpoint"]
    return state


def in_log(before: StateLog | None, now: StateLog | None, state: StoredState | None = None) -> StoredState:
    """Return state whose floor names one log of the state topic, and which was read from another one."""
    state = state or stored()
    assert state.floor is not None
    state.floor = replace(state.floor, state_log=before)
    state.topic, state.log = "state", now
    return state


def after_loss(state: StoredState | None = None) -> StoredState:
    """Return state whose topic has lost its first records since the floor was written."""
    return in_log(StateLog("state id", 5), StateLog("state id", 30), state)


@dataclass(frozen=True)
class Case:
    """A situation, and the plan that follows from it; `reason` is a part of the plan's reason."""

    stored: StoredState
    recovery: Recovery
    replay_from: int
    begin: int
    reason: str = ""
    bounds: InputBounds = field(default=BOUNDS)
    policy: OnLostInput = "fail"


OTHER_SETTINGS = replace(OURS, pipeline="other settings")
OTHER_CLUSTER = replace(OURS, cluster="other cluster")
OTHER_TOPIC = replace(OURS, topic="deleted topic")
OTHER_COUNT = replace(OURS, partitions=2)
INPUT_GONE = InputBounds(committed=100, log_start=60, log_end=120)
COMMITTED_GONE = InputBounds(committed=100, log_start=110, log_end=120)
FORGOTTEN = InputBounds(committed=None, log_start=0, log_end=120)
SHOWN = InputBounds(committed=None, log_start=0, log_end=120, after_output=95)
SHOWN_INPUT_GONE = InputBounds(committed=None, log_start=60, log_end=120, after_output=95)
SHOWN_GONE = InputBounds(committed=None, log_start=110, log_end=120, after_output=95)
SHOWN_BEYOND = InputBounds(committed=None, log_start=0, log_end=60, after_output=95)

CASES = {
    "no committed offset": Case(StoredState(), Recovery.NEW, 10, 10, bounds=InputBounds(None, 10, 120)),
    "no committed offset, and the blocks of an interrupted seeding": Case(
        seeded_blocks(10), Recovery.NEW, 10, 10, bounds=InputBounds(None, 10, 120)
    ),
    "no committed offset, and outputs of a former topic only": Case(
        StoredState(), Recovery.NEW, 10, 10, bounds=InputBounds(None, 10, 120, has_outputs_of_other_input=True)
    ),
    "offset forgotten, state without outputs": Case(
        stored(), Recovery.FORGOTTEN, 40, 80, "its stored state", bounds=FORGOTTEN
    ),
    "offset forgotten, outputs above the state": Case(
        stored(), Recovery.FORGOTTEN, 40, 95, "its newest output", bounds=SHOWN
    ),
    "offset forgotten, outputs below the state": Case(
        stored(floor=96, block=96), Recovery.FORGOTTEN, 96, 96, "its stored state", bounds=SHOWN
    ),
    "offset forgotten, series freed above outputs and blocks": Case(
        with_event(99), Recovery.FORGOTTEN, 40, 99, "its stored state", bounds=SHOWN
    ),
    "offset forgotten, other settings": Case(
        stored(OTHER_SETTINGS), Recovery.REWARMED, 40, 95, "other settings", bounds=SHOWN
    ),
    "offset forgotten, outputs without state": Case(
        StoredState(), Recovery.REBUILT, 0, 95, "no stored state", bounds=SHOWN
    ),
    "offset forgotten, outputs and a corrupt block": Case(
        with_corrupt_block(), Recovery.REBUILT, 0, 95, "hash is wrong", bounds=SHOWN
    ),
    "offset forgotten, outputs without state, input gone": Case(
        StoredState(), Recovery.COLD, 95, 95, "there is no floor", bounds=SHOWN_INPUT_GONE, policy="resume-cold"
    ),
    "offset forgotten, newest output no longer in the input": Case(
        stored(), Recovery.STALE, 110, 110, "last position 95", bounds=SHOWN_GONE, policy="resume-stale"
    ),
    "offset forgotten, newest output beyond the input": Case(
        stored(floor=10, block=10), Recovery.COLD, 60, 60, "last position 95", bounds=SHOWN_BEYOND, policy="resume-cold"
    ),
    "offset forgotten, nothing tells the position": Case(
        without_floor(), Recovery.STALE, 80, 80, "nothing tells", bounds=FORGOTTEN, policy="resume-stale"
    ),
    "offset forgotten, only corrupt records": Case(
        StoredState(corrupt={FLOOR: "damaged"}),
        Recovery.COLD,
        0,
        0,
        "nothing tells",
        bounds=FORGOTTEN,
        policy="resume-cold",
    ),
    "offset forgotten, other cluster": Case(
        stored(OTHER_CLUSTER), Recovery.COLD, 0, 0, "cluster", bounds=FORGOTTEN, policy="resume-cold"
    ),
    "offset forgotten, other partition count": Case(
        stored(OTHER_COUNT), Recovery.STALE, 40, 95, "2 partitions", bounds=SHOWN, policy="resume-stale"
    ),
    "other topic, no committed offset": Case(
        stored(OTHER_TOPIC), Recovery.STALE, 0, 0, "topic", bounds=FORGOTTEN, policy="resume-stale"
    ),
    "no state, and outputs of a former topic only": Case(
        StoredState(),
        Recovery.COLD,
        0,
        0,
        "newest outputs",
        bounds=replaced(BOUNDS, has_outputs_of_other_input=True),
        policy="resume-cold",
    ),
    "readable state and its input": Case(stored(), Recovery.RESTORED, 40, 100),
    "input gone, but only before the floor": Case(stored(floor=60), Recovery.RESTORED, 60, 100, bounds=INPUT_GONE),
    "other settings": Case(stored(OTHER_SETTINGS), Recovery.REWARMED, 40, 100, "other settings"),
    "a checkpoint that is gone": Case(with_missing_checkpoint(), Recovery.REWARMED, 40, 100, "checkpoint"),
    "no state": Case(StoredState(), Recovery.REBUILT, 0, 100, "no stored state"),
    "no floor": Case(without_floor(), Recovery.REBUILT, 0, 100, "no stored state"),
    "a corrupt block": Case(with_corrupt_block(), Recovery.REBUILT, 0, 100, "hash is wrong"),
    "the state topic lost records": Case(
        after_loss(), Recovery.REBUILT, 0, 100, "state topic state: its records before offset 30 were deleted"
    ),
    "the state topic was created again": Case(
        in_log(StateLog("state id", 5), StateLog("another", 5)), Recovery.REBUILT, 0, 100, "created again (id state id"
    ),
    "the state topic lost records, and a block is corrupt": Case(
        after_loss(with_corrupt_block()), Recovery.REBUILT, 0, 100, "hash is wrong; blocks may be missing"
    ),
    "the state topic lost records, other settings": Case(
        after_loss(stored(OTHER_SETTINGS)), Recovery.REBUILT, 0, 100, "were deleted"
    ),
    "the state topic lost records, offset moved back": Case(
        after_loss(stored(floor=110, block=110)), Recovery.REBUILT, 0, 100, "were deleted"
    ),
    "the state topic lost records, offset forgotten": Case(
        after_loss(), Recovery.REBUILT, 0, 95, "were deleted", bounds=SHOWN
    ),
    "the state topic lost records, resume-cold": Case(
        after_loss(stored(floor=60)), Recovery.COLD, 100, 100, "deleted", bounds=INPUT_GONE, policy="resume-cold"
    ),
    "the state topic lost records, resume-stale": Case(
        after_loss(stored(floor=60)), Recovery.STALE, 60, 100, "deleted", bounds=INPUT_GONE, policy="resume-stale"
    ),
    "the state topic is the floor's": Case(
        in_log(StateLog("state id", 5), StateLog("state id", 5)), Recovery.RESTORED, 40, 100
    ),
    "the floor is of an earlier version": Case(in_log(None, StateLog("state id", 5)), Recovery.RESTORED, 40, 100),
    "floor above the committed offset": Case(stored(floor=110, block=110), Recovery.REWOUND, 100, 100, "110"),
    "block above the committed offset": Case(stored(block=101), Recovery.REWOUND, 100, 100, "101"),
    "other cluster, resume-cold": Case(stored(OTHER_CLUSTER), Recovery.COLD, 100, 100, "cluster", policy="resume-cold"),
    "other cluster, resume-stale": Case(
        stored(OTHER_CLUSTER), Recovery.STALE, 100, 100, "cluster", policy="resume-stale"
    ),
    "other topic, resume-stale": Case(stored(OTHER_TOPIC), Recovery.STALE, 0, 0, "topic", policy="resume-stale"),
    "input gone, resume-cold": Case(
        stored(), Recovery.COLD, 100, 100, "retention", bounds=INPUT_GONE, policy="resume-cold"
    ),
    "input gone, resume-stale": Case(
        stored(), Recovery.STALE, 60, 100, "retention", bounds=INPUT_GONE, policy="resume-stale"
    ),
    "committed offset gone, resume-stale": Case(
        stored(), Recovery.STALE, 110, 110, "no longer in the input", bounds=COMMITTED_GONE, policy="resume-stale"
    ),
    "other partition count, resume-cold": Case(
        stored(OTHER_COUNT), Recovery.COLD, 100, 100, "2 partitions", policy="resume-cold"
    ),
    "other partition count, resume-stale": Case(
        stored(OTHER_COUNT), Recovery.STALE, 40, 100, "2 partitions", policy="resume-stale"
    ),
}


def plan(state: StoredState, bounds: InputBounds, policy: OnLostInput) -> RecoveryPlan:
    return plan_recovery(OURS, state, bounds, policy, SOURCE)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_situation_leads_to_its_recovery(case: Case) -> None:
    planned = plan(case.stored, case.bounds, case.policy)
    assert (planned.recovery, planned.replay_from, planned.begin) == (case.recovery, case.replay_from, case.begin)
    assert case.reason in planned.reason
    assert bool(planned.reason) == bool(case.reason), "a usual recovery has no reason"


def test_the_cases_cover_every_recovery() -> None:
    assert {case.recovery for case in CASES.values()} == set(Recovery) - {Recovery.INCOMPLETE}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_group_commits_an_offset_at_once_where_kafka_has_none(case: Case) -> None:
    """Otherwise the next start would have to find the position again; a new group commits with its first batch."""
    planned = plan(case.stored, case.bounds, case.policy)
    assert planned.is_offset_lost == (case.bounds.committed is None and planned.recovery != Recovery.NEW)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_plan_begins_within_the_input(case: Case) -> None:
    planned = plan(case.stored, case.bounds, case.policy)
    assert case.bounds.log_start <= planned.begin <= case.bounds.log_end
    assert planned.replay_from <= planned.begin


@pytest.mark.parametrize(
    ("state", "bounds", "error"),
    [
        (stored(OTHER_CLUSTER), BOUNDS, StateError),
        (stored(OTHER_TOPIC), BOUNDS, StateError),
        (stored(OTHER_COUNT), BOUNDS, TopicError),
        (stored(), INPUT_GONE, StateError),
        (stored(), COMMITTED_GONE, StateError),
        (without_floor(), INPUT_GONE, StateError),
        (with_corrupt_block(), INPUT_GONE, StateError),
        (without_floor(), FORGOTTEN, StateError),
        (stored(OTHER_TOPIC), FORGOTTEN, StateError),
        (stored(), SHOWN_BEYOND, StateError),
        (StoredState(), SHOWN_INPUT_GONE, StateError),
        (after_loss(stored(floor=60)), INPUT_GONE, StateError),
    ],
    ids=[
        "cluster",
        "topic",
        "partition count",
        "input",
        "committed offset",
        "floor",
        "block",
        "position unknown",
        "topic without offset",
        "position beyond",
        "outputs alone",
        "records of the state topic",
    ],
)
def test_fail_refuses_state_that_cannot_be_restored(
    state: StoredState, bounds: InputBounds, error: type[FatalError]
) -> None:
    """The error names topic and partition, and the variable that lets the worker start all the same."""
    with pytest.raises(error, match=rf"^{SOURCE}: .*FORECASTER_STATE__ON_LOST_INPUT=resume-cold"):
        plan(state, bounds, "fail")


def test_the_policy_does_not_matter_while_the_state_is_complete() -> None:
    policies: list[OnLostInput] = ["fail", "resume-cold", "resume-stale"]
    assert {plan(stored(), BOUNDS, policy).recovery for policy in policies} == {Recovery.RESTORED}


def test_a_corrupt_floor_counts_like_a_corrupt_block() -> None:
    """Without the floor, the blocks are of no use: nothing tells where their replay must begin."""
    state = StoredState(blocks=stored().blocks, corrupt={FLOOR: "it is damaged"}, block_numbers={0})
    assert plan(state, BOUNDS, "fail") == RecoveryPlan(Recovery.REBUILT, 0, 100, f"{FLOOR}: it is damaged")
