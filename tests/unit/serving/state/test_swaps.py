"""Another checkpoint serves without a forecast missing, each group from its own place in the log on."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import orjson
import pytest
from builders import HOUR_MS, START_MS, Lineup, Serving, pipeline_config, random_model, readings
from fakes import STATE, FakeClient, FakeKafka, setup

from forecaster.core.arrays import convert
from forecaster.core.network.model import NO_CHECKPOINT, NO_NETWORK, Model, body_code
from forecaster.core.rewarm import rewarm
from forecaster.core.series.step_inputs import StepInputs
from forecaster.formats.state import Swap, decode_floor
from forecaster.serving.state.store import StateStore
from forecaster.serving.state.swaps import RewarmProgress, active_swap, folded, new_swap
from forecaster.serving.worker import Worker

CONFIG = pipeline_config(context=30)
OLD, NEW, NEWER = (random_model(CONFIG, cell=cell, seed=seed) for cell, seed in (("gru", 1), ("lstm", 2), ("rnn", 3)))
SERIES, MANY = 8, 150


def worker(kafka: FakeKafka, lineup: Lineup, **options: object) -> Worker:
    client = FakeClient(kafka)
    one = setup(pipeline=CONFIG, lineup=lineup, **options).worker(client)
    while client.held:
        one.iterate()
    return one


def lineup(*models: Model) -> Lineup:
    """All three are there, so that rows have room for each; the last one named is to serve."""
    found = Lineup(OLD, NEW, NEWER)
    found.champion = models[-1].id if models else NO_CHECKPOINT
    return found


def feed(kafka: FakeKafka, first: int, hours: int) -> None:
    for hour in range(first, first + hours):
        for series in range(SERIES):
            kafka.hours(0, range(hour, hour + 1), b"pump-%d" % series)


def feed_many(kafka: FakeKafka, hour: int) -> None:
    """A reading of half of many series: the others come an hour later."""
    for series in range(hour % 2, MANY, 2):
        kafka.hours(0, range(hour, hour + 1), b"pump-%d" % series)


def turn(one: Worker) -> None:
    one.iterate()


def checkpoints(kafka: FakeKafka) -> dict[str, list[str]]:
    """Which checkpoints made the forecasts of each series, in their order."""
    found: dict[str, list[str]] = defaultdict(list)
    for topic, _, value in kafka.published:
        if topic == "forecasts":
            body = orjson.loads(value)
            found[body["series_id"]].append(body["checkpoint"])
    return found


def changes(names: list[str]) -> list[str]:
    """The names without those that repeat the one before."""
    return [name for number, name in enumerate(names) if number == 0 or name != names[number - 1]]


def test_every_series_changes_its_checkpoint_once_and_no_forecast_is_missing() -> None:
    kafka, served = FakeKafka(), lineup(OLD)
    one = worker(kafka, served)
    for hour in range(60):
        feed(kafka, hour, 1)
        turn(one)
        if hour == 20:
            served.serve(NEW)
    found = checkpoints(kafka)
    assert all(len(names) == 60 and changes(names) == [OLD.id, NEW.id] for names in found.values())


def test_the_next_champion_waits_for_the_end_of_a_swap() -> None:
    kafka, served = FakeKafka(), lineup(OLD)
    one = worker(kafka, served)
    for hour in range(80):
        feed(kafka, hour, 1)
        turn(one)
        if hour in (20, 22):
            served.serve(NEW if hour == 20 else NEWER)
    assert all(changes(names) == [OLD.id, NEW.id, NEWER.id] for names in checkpoints(kafka).values())


@pytest.mark.parametrize("limit", [40, 1_000_000])
def test_a_worker_that_begins_anew_at_every_batch_swaps_at_the_same_places(limit: int) -> None:
    kafka, calm, served = FakeKafka(), FakeKafka(), lineup()
    never = worker(calm, served)
    for hour in range(30):
        for log in (kafka, calm):
            feed_many(log, hour)
        turn(worker(kafka, served, replay_limit=limit))
        turn(never)
        if hour in (5, 14, 15):
            served.serve({5: OLD, 14: NEW, 15: NEWER}[hour])
    assert kafka.published == calm.published
    assert all(changes(names) == [NO_CHECKPOINT, OLD.id, NEW.id, NEWER.id] for names in checkpoints(kafka).values())
    assert len({names.index(NEW.id) for names in checkpoints(kafka).values()}) > 1, "there were several slots"


def test_a_swap_whose_transaction_fails_has_not_begun() -> None:
    kafka, calm = FakeKafka(), FakeKafka()
    for log, failures in ((kafka, ["", "dropped", "", "happened"]), (calm, [])):
        served = lineup(OLD)
        client = FakeClient(log)
        one = setup(pipeline=CONFIG, lineup=served).worker(client)
        while client.held:
            turn(one)
        client.failures = failures
        feed(log, 0, 20)
        turn(one)
        served.serve(NEW)
        feed(log, 20, 5)
        turn(one)
        if failures:
            turn(one)
        feed(log, 25, 30)
        turn(one)
        turn(one)
    assert checkpoints(kafka) == checkpoints(calm)


def test_a_new_readout_of_the_same_body_serves_at_once_and_the_hidden_states_stay() -> None:
    before = Swap(0, "body")
    assert new_swap(before, "body.3", 70, series=1_000, context=96) == Swap(70, "body.3")
    assert body_code("body.3") == body_code("body")
    assert body_code(NO_CHECKPOINT) == NO_NETWORK
    slow = new_swap(before, "other", 70, series=1_000, context=96)
    assert slow.slots == 16
    assert slow.end - slow.offset >= 3 * 1_000
    assert new_swap(before, "other", 70, series=64, context=96) == Swap(70, "other"), "one tile is done at once"


def test_a_checkpoint_that_is_nowhere_is_not_swapped_to() -> None:
    kafka, served = FakeKafka(), lineup(OLD)
    one = worker(kafka, served)
    served.champion = "nowhere"
    feed(kafka, 0, 5)
    turn(one)
    assert all(changes(names) == [OLD.id] for names in checkpoints(kafka).values())


def test_an_idle_series_goes_straight_to_the_newest_at_its_next_reading() -> None:
    kafka, served = FakeKafka(), lineup(OLD)
    one = worker(kafka, served)
    feed(kafka, 0, 20)
    kafka.hours(0, range(20), b"idle")
    turn(one)
    for model, first in ((NEW, 20), (NEWER, 45)):
        served.serve(model)
        feed(kafka, first, 25)
        turn(one)
    kafka.hours(0, range(30, 31), b"idle")
    turn(one)
    assert changes(checkpoints(kafka)["idle"]) == [OLD.id, NEWER.id]


def test_the_floor_names_the_swaps_that_a_replay_needs_and_no_others() -> None:
    kafka, served = FakeKafka(), lineup(OLD)
    one = worker(kafka, served, replay_limit=150)
    for hour in range(100):
        feed(kafka, hour, 1)
        turn(one)
        served.serve((OLD, NEW, NEWER)[hour // 30 % 3])
    floors = [decode_floor(record.value or b"") for record in kafka.logs[STATE, 0] if record.key == b"group/0/floor"]
    assert {swap.checkpoint for floor in floors for swap in floor.swaps} == {OLD.id, NEW.id, NEWER.id}
    assert max(len(floor.swaps) for floor in floors) == 2
    assert len(floors[-1].swaps) == 1


def test_rows_that_are_due_at_once_are_re_warmed_some_tiles_at_a_time_and_each_once() -> None:
    switching = RewarmProgress(Swap(10, "a"), np.zeros(1_000, np.int64))
    assert not len(switching.next_rows(9))
    switching.forget([3, 999, 5_000])
    parts = []
    while len(rows := switching.next_rows(10)):
        parts.append(rows)
    assert max(map(len, parts)) <= 256
    assert sorted(np.concatenate(parts).tolist()) == [row for row in range(1_000) if row not in (3, 999)]


def test_who_is_in_force_is_decided_by_offset_and_group_alone() -> None:
    swaps = [Swap(0, "a"), Swap(100, "b", slots=10, stride=7), Swap(300, "c")]
    groups = [f"group-{number}" for number in range(400)]
    offsets = np.arange(400)
    whole = active_swap(swaps, offsets, groups)
    one_by_one = [int(active_swap(swaps, offsets[n : n + 1], groups[n : n + 1])[0]) for n in range(400)]
    assert whole.tolist() == one_by_one
    assert (whole[:100] == 0).all()
    assert (whole[163:300] == 1).all()
    assert {0, 1} == set(whole[100:163].tolist())
    assert (whole[300:] == 2).all()
    assert folded(swaps, 150) == swaps
    assert folded(swaps, 163) == swaps[1:]
    assert folded(swaps, 299) == swaps[1:]
    assert folded(swaps, 10_000) == swaps[2:]


@pytest.mark.parametrize("model", [OLD, NEW, NEWER], ids=["gru", "lstm", "rnn"])
def test_a_warmed_state_is_that_of_a_stepping_through(model: Model) -> None:
    dice = np.random.default_rng(0)
    steps, series, width = 30, 70, CONFIG.observation.context

    def normal(*shape: int) -> np.ndarray:
        return dice.normal(size=shape).astype(np.float32)

    inputs = StepInputs(
        context=normal(steps, series, width),
        last=normal(steps, series),
        scale=np.abs(normal(steps, series)),
        levels=normal(steps, series, 3),
        calendar=normal(steps, series, 8),
        masked=np.zeros((steps, series), np.float32),
        gap=np.zeros((steps, series), np.float32),
        group=normal(steps, series, 5),
    )
    known = dice.random((steps, series)) < 0.8
    state = np.zeros((series, model.state_size), np.float32)
    for tick in range(steps):
        of_tick = convert(inputs, lambda array, tick=tick: array[tick])
        state = np.where(known[tick, :, None], model.forecast(of_tick, state).state, state)
    np.testing.assert_allclose(model.warm(inputs, known), state, atol=1e-5)


def test_rows_are_re_warmed_alike_one_by_one_and_together_and_as_their_contexts_say() -> None:
    serving = Serving(CONFIG, OLD)
    dice = np.random.default_rng(0)
    for hour in range(40):
        rows = [(f"pump-{n}", START_MS + hour * HOUR_MS, float(dice.normal())) for n in range(100)]
        serving.feed(readings([row for row in rows if dice.random() < 0.8]))
    state = serving.partitions[0].table.state
    rows = np.arange(100)
    rewarm(NEWER, state, rows)
    together = state.hidden.copy()
    assert together.any(axis=1).all()
    assert (state.body == NEWER.body_code).all()
    for row in rows:
        rewarm(NEWER, state, np.array([row]))
    assert np.array_equal(state.hidden, together)
    rewarm(NEWER, state, np.random.default_rng(2).permutation(rows))
    assert np.array_equal(state.hidden, together), "nor does its place among them matter"
    state.inputs.context[:50] = np.nan
    rewarm(NEWER, state, rows)
    assert not state.hidden[:50].any()
    assert np.array_equal(state.hidden[50:], together[50:])
    rewarm(None, state, rows)
    assert not state.hidden.any()


def test_rows_are_re_warmed_before_their_readings_come_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    eager, lazy = FakeKafka(), FakeKafka()
    for log in (eager, lazy):
        if log is lazy:
            monkeypatch.setattr(StateStore, "rewarm_next_slot", lambda _: None)
        served = lineup(OLD)
        one = worker(log, served)
        for hour in range(40):
            feed_many(log, hour)
            turn(one)
            if hour == 10:
                served.serve(NEW)
            if hour == 11 and log is eager:
                rows = one._store.partitions[0].table.state  # noqa: SLF001 - the law is about what it holds
                assert (rows.body == NEW.body_code).sum() > 40, "a slot is there at once, half of its readings are not"
    assert eager.published == lazy.published
    assert len({names.index(NEW.id) for names in checkpoints(eager).values()}) > 1, "there were several slots"
