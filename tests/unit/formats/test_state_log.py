"""What two looks at the log of the state topic tell about the records between them."""

from __future__ import annotations

import pytest
from golden import IDENTITY
from msgspec.structs import replace

from forecaster.formats.state import CorruptState, Floor, Swap, decode_floor, encode
from forecaster.formats.state_log import StateLog, state_log

NO_IDS = ["", "None", "00000000-0000-0000-0000-000000000000"]
FLOOR = Floor(IDENTITY, 7, swaps=[Swap(7, "none")], state_log=StateLog("a", 5))


@pytest.mark.parametrize(
    ("before", "now", "loss"),
    [
        (StateLog("a", 5), StateLog("a", 5), ""),
        (StateLog("a", 5), StateLog("a", 6), "before offset 6 were deleted (its log began at offset 5)"),
        (StateLog("a", 5), StateLog("a", 4), ""),
        (StateLog("a", 5), StateLog("b", 5), "created again (id a, now b)"),
        (StateLog("a", 5), StateLog("b", 0), "created again (id a, now b)"),
        (StateLog("", 5), StateLog("", 5), ""),
        (StateLog("", 5), StateLog("", 6), "before offset 6 were deleted"),
        (StateLog("", 5), StateLog("", 0), "created again (its log began at offset 5, now at 0)"),
        (StateLog("", 5), StateLog("a", 5), ""),
        (StateLog("a", 5), StateLog("", 5), ""),
        (StateLog("a", 5), StateLog("", 6), "before offset 6 were deleted"),
    ],
)
def test_another_id_or_a_later_beginning_is_a_loss(before: StateLog, now: StateLog, loss: str) -> None:
    assert loss in before.loss(now)
    assert bool(loss) == bool(before.loss(now))


@pytest.mark.parametrize("topic_id", NO_IDS)
def test_a_topic_of_a_broker_without_ids_has_none(topic_id: str) -> None:
    assert state_log(topic_id, 3) == StateLog("", 3)


def test_a_floor_names_the_log_or_is_of_an_earlier_version() -> None:
    for floor in (FLOOR, replace(FLOOR, state_log=None)):
        assert decode_floor(encode(floor)) == floor


@pytest.mark.parametrize("start", [-1, 2**62])
def test_a_log_that_begins_nowhere_is_corrupt(start: int) -> None:
    with pytest.raises(CorruptState, match="first offset of the state topic"):
        decode_floor(encode(replace(FLOOR, state_log=StateLog("a", start))))
