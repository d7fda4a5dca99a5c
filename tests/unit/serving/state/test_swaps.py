"""Swaps: another checkpoint serves without a missing forecast, each group from its own offset on."""

from __future__ import annotations

from collections import defaultdict
from operator import itemgetter

import numpy as np
import orjson
import pytest
from builders import HOUR_MS, START_MS, Lineup, Serving, pipeline_config, random_model, readings
from fakes import STATE, FakeKafka
from setups import iterate, serving

from forecaster.core.arrays import convert
from forecaster.core.checkpoint_ids import NO_CHECKPOINT, NO_NETWORK, body_code
from forecaster.core.network.model import Model
from forecaster.core.rewarm import rewarm
from forecaster.core.series.step_inputs import StepInputs
from forecaster.formats.state import Swap, decode_floor
from forecaster.serving.state.store import StateStore
from forecaster.serving.state.swaps import RewarmProgress, active_swap, drop_ended, new_swap
from forecaster.serving.worker import Worker

CONFIG = pipeline_config(context=30)
OLD, NEW, NEWER = (random_model(CONFIG, cell=cell, seed=seed) for cell, seed in (("gru", 1), ("lstm", 2), ("rnn", 3)))
SERIES, MANY = 8, 150


def start_worker(kafka: FakeKafka, lineup: Lineup, **options: object) -> Worker:
    return serving(kafka, pipeline=CONFIG, lineup=lineup, **options)[1]


def lineup(*models: Model) -> Lineup:
    """Return a lineup that holds all three models, so that rows have space for each; the last one named is champion."""
    full = Lineup(OLD, NEW, NEWER)
    full.champion = models[-1].id if models else NO_CHECKPOINT
    return full


def feed(kafka: FakeKafka, first: int, hours: int) -> None:
    for hour in range(first, first + hours):
        for series in range(SERIES):
            kafka.hours(0, range(hour, hour + 1), b"pump-%d" % series)


def feed_many(kafka: FakeKafka, hour: int) -> None:
    """Append a reading of every other series; the others follow an hour later."""
    for series in range(hour % 2, MANY, 2):
        kafka.hours(0, range(hour, hour + 1), b"pump-%d" % series)


def checkpoints(kafka: FakeKafka) -> dict[str, list[str]]:
    """Return the checkpoints of each series' forecasts, in order."""
    ids: dict[str, list[str]] = defaultdict(list)
    for topic, _, value in kafka.published:
        if topic == "forecasts":
            body = orjson.loads(value)
            ids[body["series_id"]].append(body["checkpoint"])
    return ids


def changes(names: list[str]) -> list[str]:
    """Return the names without repetitions of the one before."""
    return [name for number, name in enumerate(names) if number == 0 or name != names[number - 1]]


def test_every_series_switches_once_and_no_forecast_is_missing() -> None:
    kafka, served = FakeKafka(), lineup(OLD)
    worker = start_worker(kafka, served)
    for hour in range(60):
        feed(kafka, hour, 1)
        iterate(worker)
        if hour == 20:
            served.serve(NEW)
    names_of_series = checkpoints(kafka).values()
    assert all(len(names) == 60 and changes(names) == [OLD.id, NEW.id] for names in names_of_series)


def test_the_next_champion_waits_for_the_end_of_a_swap() -> None:
    kafka, served = FakeKafka(), lineup(OLD)
    worker = start_worker(kafka, served)
    for hour in range(80):
        feed(kafka, hour, 1)
        iterate(worker)
        if hour in (20, 22):
            served.serve(NEW if hour == 20 else NEWER)
    assert all(changes(names) == [OLD.id, NEW.id, NEWER.id] for names in checkpoints(kafka).values())


@pytest.mark.parametrize("limit", [40, 1_000_000])
def test_a_worker_restarted_at_every_batch_swaps_at_the_same_offsets(limit: int) -> None:
    kafka, undisturbed, served = FakeKafka(), FakeKafka(), lineup()
    unstopped = start_worker(undisturbed, served)
    for hour in range(30):
        for log in (kafka, undisturbed):
            feed_many(log, hour)
        iterate(start_worker(kafka, served, replay_limit=limit))
        iterate(unstopped)
        if hour in (5, 14, 15):
            served.serve({5: OLD, 14: NEW, 15: NEWER}[hour])
    assert kafka.published == undisturbed.published
    assert all(changes(names) == [NO_CHECKPOINT, OLD.id, NEW.id, NEWER.id] for names in checkpoints(kafka).values())
    assert len({names.index(NEW.id) for names in checkpoints(kafka).values()}) > 1, "there were several slots"


def test_a_swap_whose_transaction_fails_has_not_begun() -> None:
    kafka, undisturbed = FakeKafka(), FakeKafka()
    for log, failures in ((kafka, ["", "dropped", "", "happened"]), (undisturbed, [])):
        served = lineup(OLD)
        client, worker = serving(log, pipeline=CONFIG, lineup=served)
        client.failures = failures
        feed(log, 0, 20)
        iterate(worker)
        served.serve(NEW)
        feed(log, 20, 5)
        iterate(worker)
        if failures:
            iterate(worker)
        feed(log, 25, 30)
        iterate(worker)
        iterate(worker)
    assert checkpoints(kafka) == checkpoints(undisturbed)


def test_a_new_readout_of_the_same_body_serves_at_once() -> None:
    """Hidden states belong to the body, so that no row is re-warmed; another body needs slots, a tile of rows each."""
    before = Swap(0, "body")
    assert new_swap(before, "body.3", 70, series=1_000, context=96) == Swap(70, "body.3")
    assert body_code("body.3") == body_code("body")
    assert body_code(NO_CHECKPOINT) == NO_NETWORK
    slow = new_swap(before, "other", 70, series=1_000, context=96)
    assert slow.slots == 16
    assert slow.end - slow.offset >= 3 * 1_000
    assert new_swap(before, "other", 70, series=64, context=96) == Swap(70, "other"), "a single tile switches at once"


def test_there_is_no_swap_to_a_missing_checkpoint() -> None:
    kafka, served = FakeKafka(), lineup(OLD)
    worker = start_worker(kafka, served)
    served.champion = "nowhere"
    feed(kafka, 0, 5)
    iterate(worker)
    assert all(changes(names) == [OLD.id] for names in checkpoints(kafka).values())


def test_an_idle_series_switches_straight_to_the_newest_checkpoint() -> None:
    kafka, served = FakeKafka(), lineup(OLD)
    worker = start_worker(kafka, served)
    feed(kafka, 0, 20)
    kafka.hours(0, range(20), b"idle")
    iterate(worker)
    for model, first in ((NEW, 20), (NEWER, 45)):
        served.serve(model)
        feed(kafka, first, 25)
        iterate(worker)
    kafka.hours(0, range(30, 31), b"idle")
    iterate(worker)
    assert changes(checkpoints(kafka)["idle"]) == [OLD.id, NEWER.id]


def test_the_floor_holds_only_the_swaps_that_a_replay_needs() -> None:
    kafka, served = FakeKafka(), lineup(OLD)
    worker = start_worker(kafka, served, replay_limit=150)
    for hour in range(100):
        feed(kafka, hour, 1)
        iterate(worker)
        served.serve((OLD, NEW, NEWER)[hour // 30 % 3])
    floors = [decode_floor(record.value or b"") for record in kafka.logs[STATE, 0] if record.key == b"group/0/floor"]
    assert {swap.checkpoint for floor in floors for swap in floor.swaps} == {OLD.id, NEW.id, NEWER.id}
    assert max(len(floor.swaps) for floor in floors) == 2
    assert len(floors[-1].swaps) == 1


def test_rows_due_at_once_are_rewarmed_some_tiles_at_a_time() -> None:
    """Each row is re-warmed once; freed rows are not."""
    switching = RewarmProgress(Swap(10, "a"), np.zeros(1_000, np.int64))
    assert not len(switching.next_rows(9))
    switching.forget([3, 999, 5_000])
    parts = []
    while len(rows := switching.next_rows(10)):
        parts.append(rows)
    assert max(map(len, parts)) <= 256
    assert sorted(np.concatenate(parts).tolist()) == [row for row in range(1_000) if row not in (3, 999)]


def test_the_active_swap_depends_on_offset_and_group_alone() -> None:
    swaps = [Swap(0, "a"), Swap(100, "b", slots=10, stride=7), Swap(300, "c")]
    groups = [f"group-{number}" for number in range(400)]
    offsets = np.arange(400)
    together = active_swap(swaps, offsets, groups)
    one_by_one = [int(active_swap(swaps, offsets[n : n + 1], groups[n : n + 1])[0]) for n in range(400)]
    assert together.tolist() == one_by_one
    assert (together[:100] == 0).all()
    assert (together[163:300] == 1).all()
    assert {0, 1} == set(together[100:163].tolist())
    assert (together[300:] == 2).all()
    assert drop_ended(swaps, 150) == swaps
    assert drop_ended(swaps, 163) == swaps[1:]
    assert drop_ended(swaps, 299) == swaps[1:]
    assert drop_ended(swaps, 10_000) == swaps[2:]


@pytest.mark.parametrize("model", [OLD, NEW, NEWER], ids=["gru", "lstm", "rnn"])
def test_warming_over_a_context_equals_stepping_through_it(model: Model) -> None:
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
        tick_inputs = convert(inputs, itemgetter(tick))
        state = np.where(known[tick, :, None], model.forecast(tick_inputs, state).state, state)
    np.testing.assert_allclose(model.warm(inputs, known), state, atol=1e-5)


def test_rewarming_a_row_depends_on_its_context_alone() -> None:
    """One by one, together and in any order the hidden states are the same; an empty context gives an empty state."""
    serving = Serving(CONFIG, OLD)
    dice = np.random.default_rng(0)
    for hour in range(40):
        values = [(f"pump-{n}", START_MS + hour * HOUR_MS, float(dice.normal())) for n in range(100)]
        serving.feed(readings([value for value in values if dice.random() < 0.8]))
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
    assert np.array_equal(state.hidden, together), "the order of the rows does not matter"
    state.inputs.context[:50] = np.nan
    rewarm(NEWER, state, rows)
    assert not state.hidden[:50].any()
    assert np.array_equal(state.hidden[50:], together[50:])
    rewarm(None, state, rows)
    assert not state.hidden.any()


def test_rewarming_ahead_of_readings_changes_no_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    eager, lazy = FakeKafka(), FakeKafka()
    for log in (eager, lazy):
        if log is lazy:
            monkeypatch.setattr(StateStore, "rewarm_next_slot", lambda _: None)
        served = lineup(OLD)
        worker = start_worker(log, served)
        for hour in range(40):
            feed_many(log, hour)
            iterate(worker)
            if hour == 10:
                served.serve(NEW)
            if hour == 11 and log is eager:
                rows = worker._store.partitions[0].table.state  # noqa: SLF001 - the law is about what it holds
                assert (rows.body == NEW.body_code).sum() > 40, (
                    "a slot is re-warmed at once, before half of its readings"
                )
    assert eager.published == lazy.published
    assert len({names.index(NEW.id) for names in checkpoints(eager).values()}) > 1, "there were several slots"
