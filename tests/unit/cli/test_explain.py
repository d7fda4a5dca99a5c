"""What is explained of a series is what its worker holds of it."""

from __future__ import annotations

import msgspec
import numpy as np
import orjson
import pytest
from builders import HOUR_MS, START_MS, Lineup, pipeline_config, random_model
from fakes import FakeClient, FakeKafka, Setup, setup

from forecaster.broker.consumer_groups import partition_of
from forecaster.cli.explain import explain_from, explanation_json, likely_partitions, print_explanation
from forecaster.core.network.model import NO_CHECKPOINT
from forecaster.errors import UsageError
from forecaster.formats.readings import InputSchema
from forecaster.serving.inspect.explanation import Explanation
from forecaster.serving.state.recovery import Recovery
from forecaster.serving.worker import Worker

CONFIG = pipeline_config()
MODEL, NEWER = random_model(CONFIG), random_model(CONFIG, cell="lstm", seed=3)


def worker(kafka: FakeKafka, made_of: Setup) -> Worker:
    client = FakeClient(kafka)
    one = made_of.worker(client)
    while client.held:
        one.iterate()
    return one


def send(kafka: FakeKafka, hours: range, name: str = "pump", partition: int = 0) -> None:
    for hour in hours:
        value = orjson.dumps({"timestamp": START_MS + hour * HOUR_MS, "value": (hour * hour) % 23})
        kafka.append(partition, value, name.encode())


def turn(one: Worker) -> None:
    one.iterate()


def explained(kafka: FakeKafka, made_of: Setup, name: str = "pump") -> Explanation:
    restorer = made_of.restorer(FakeClient(kafka))
    there = made_of.checkpoints()
    return explain_from(restorer, name, len(kafka.partitions), there.champion, there.models)


def last_forecasts(kafka: FakeKafka, name: str = "pump") -> dict[int, dict[str, object]]:
    """The published forecasts of a series by their hour."""
    bodies = [orjson.loads(value) for topic, _, value in kafka.published if topic == "forecasts"]
    return {(body["timestamp"] - START_MS) // HOUR_MS: body for body in bodies if body["series_id"] == name}


def test_an_explanation_is_of_the_rows_of_the_live_worker() -> None:
    made_of, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka()
    one = worker(kafka, made_of)
    for hour in range(50):
        send(kafka, range(hour, hour + 1))
        send(kafka, range(hour, hour + 1), "other")
        turn(one)
    partition = one._store.partitions[0]  # noqa: SLF001 - the law is about what it holds
    row, state = partition.table.row("pump"), partition.table.state
    found = explained(kafka, made_of)
    assert found.place.recovery == Recovery.RESTORED.value
    assert (found.place.partition, found.place.offset) == (0, partition.position)
    assert found.inputs.scale == state.inputs.scaler.scale()[row]
    assert list(found.inputs.levels.values()) == state.inputs.scaler.levels[row].tolist()
    assert (found.inputs.count, found.inputs.tick) == (50, 49)
    assert found.inputs.last_ms == START_MS + 49 * HOUR_MS
    assert [(one.tick, one.timestamp_ms, one.value) for one in found.inputs.readings] == [
        (hour, START_MS + hour * HOUR_MS, (hour * hour) % 23) for hour in range(38, 50)
    ]
    assert found.network.checkpoint == found.network.hidden_of == MODEL.id
    assert found.network.hidden_is_its
    assert found.network.hidden_norm == np.linalg.norm(state.hidden[row].astype(np.float64)) > 0
    assert [one.drift for one in found.pending] == pytest.approx(state.pending.drift[row, [0, 1, 2, 3]].tolist())


def test_what_waits_for_the_next_tick_is_what_was_published() -> None:
    made_of, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka()
    one = worker(kafka, made_of)
    send(kafka, range(50))
    turn(one)
    found, forecasts = explained(kafka, made_of), last_forecasts(kafka)
    assert found.next_ms == START_MS + 50 * HOUR_MS
    assert [one.horizon for one in found.pending] == [1, 2, 3, 4]
    for pending in found.pending:
        made = forecasts[50 - pending.horizon]
        assert pending.made_ms == made["timestamp"]
        assert pending.point == pytest.approx(made["point"][pending.horizon - 1], rel=1e-2, abs=0.1)  # type: ignore[index]
        assert list(pending.quantiles) == ["0.1", "0.5", "0.9"]
        assert pending.quantiles["0.5"] is not None
        assert list(pending.weights) == [
            "last value",
            "mean 1d",
            "change 1d",
            "mean 1w",
            "change 1w",
            "level",
            "network",
        ]
        assert sum(pending.weights.values()) == pytest.approx(1.0, abs=1e-5)
        assert 0.0 <= pending.gate <= 1.0


def test_a_gap_is_shown_and_nothing_waits_from_it() -> None:
    made_of, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka()
    one = worker(kafka, made_of)
    send(kafka, range(30))
    send(kafka, range(32, 34))
    turn(one)
    found = explained(kafka, made_of)
    shown = {one.tick: one.value for one in found.inputs.readings}
    assert shown[30] is shown[31] is None
    assert shown[29] is not None
    made = {pending.horizon: pending.made_ms for pending in found.pending}
    assert made[1] == START_MS + 33 * HOUR_MS
    assert made[3] is made[4] is None


def test_a_series_whose_interval_is_not_known_yet_shows_its_readings() -> None:
    made_of, kafka = setup(pipeline=pipeline_config(interval_ms=0), model=MODEL), FakeKafka()
    one = worker(kafka, made_of)
    send(kafka, range(3))
    turn(one)
    found = explained(kafka, made_of)
    assert (found.inputs.interval_ms, found.inputs.tick, found.next_ms, found.pending) == (None, None, None, [])
    assert [(one.tick, one.value) for one in found.inputs.readings] == [(None, 0.0), (None, 1.0), (None, 4.0)]


def test_after_a_swap_the_hidden_state_is_of_the_old_body_until_the_next_reading() -> None:
    kafka, served = FakeKafka(), Lineup(NEWER, MODEL)
    made_of = setup(pipeline=CONFIG, lineup=served)
    one = worker(kafka, made_of)
    send(kafka, range(30))
    send(kafka, range(30), "other")
    turn(one)
    served.champion = NEWER.id
    send(kafka, range(30, 31), "other")
    turn(one)
    found = explained(kafka, made_of)
    assert (found.network.checkpoint, found.network.hidden_of) == (NEWER.id, MODEL.id)
    assert not found.network.hidden_is_its
    for hour in range(31, 60):
        send(kafka, range(hour, hour + 1))
        turn(one)
    found = explained(kafka, made_of)
    assert found.network.checkpoint == found.network.hidden_of == NEWER.id
    assert found.network.hidden_is_its


def test_before_any_training_there_is_no_hidden_state() -> None:
    made_of, kafka = setup(pipeline=CONFIG), FakeKafka()
    one = worker(kafka, made_of)
    send(kafka, range(5))
    turn(one)
    network = explained(kafka, made_of).network
    assert (network.checkpoint, network.hidden_of, network.hidden_norm) == (NO_CHECKPOINT, NO_CHECKPOINT, 0.0)


def test_an_unknown_series_is_refused_with_the_ids_that_are_near() -> None:
    made_of, kafka = setup(pipeline=CONFIG), FakeKafka(2)
    with pytest.raises(UsageError, match="has no state yet"):
        explained(kafka, made_of, "pump-71")
    one = worker(kafka, made_of)
    for number, name in enumerate(("pump-17", "pump-11", "boiler")):
        send(kafka, range(5), name, number % 2)
    turn(one)
    with pytest.raises(
        UsageError, match=r"group group has no such series; similar ids: pump-(17, pump-11|11, pump-17)$"
    ):
        explained(kafka, made_of, "pump-71")
    with pytest.raises(UsageError, match="none of its 3 series has a similar id"):
        explained(kafka, made_of, "xyz")


def test_likely_partitions_come_first_and_each_once() -> None:
    series, group = partition_of(b"pump-1/in", 50), partition_of(b"pump-1", 50)
    assert series != group
    order = list(likely_partitions("pump-1/in", 50))
    assert order[:2] == [series, group]
    assert sorted(order) == list(range(50))


def test_a_series_is_found_wherever_it_lies_and_with_its_group() -> None:
    made_of, kafka = setup(pipeline=CONFIG, schema=InputSchema(value_fields=("in", "out")), group_size=2), FakeKafka(3)
    one = worker(kafka, made_of)
    elsewhere = next(number for number in range(3) if number not in list(likely_partitions("pump/out", 3))[:2])
    for hour in range(6):
        kafka.append(elsewhere, orjson.dumps({"timestamp": START_MS + hour * HOUR_MS, "in": 1, "out": hour}), b"pump")
    turn(one)
    place = explained(kafka, made_of, "pump/out").place
    assert (place.group, place.partition) == ("pump", elsewhere)


def test_what_people_and_scripts_see_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    made_of, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka()
    one = worker(kafka, made_of)
    send(kafka, range(30), "[b]pump")
    turn(one)
    found = explained(kafka, made_of, "[b]pump")
    assert msgspec.json.decode(explanation_json(found), type=Explanation) == found
    capsys.readouterr()
    print_explanation(found)
    shown = capsys.readouterr().out
    for part in ("[b]pump", "last tick 29", "2025-01-02T05:00:00Z", MODEL.id, "the hidden state is its"):
        assert part in shown
