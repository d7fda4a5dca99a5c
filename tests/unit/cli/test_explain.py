"""The explanation of a series equals the row that its worker holds."""

from __future__ import annotations

import msgspec
import numpy as np
import orjson
import pytest
from builders import HOUR_MS, START_MS, Lineup, pipeline_config, random_model
from fakes import FakeClient, FakeKafka
from setups import Setup, setup

from forecaster.broker.consumer_groups import partition_of
from forecaster.cli.explain import explain_from, explanation_json, likely_partitions, print_explanation
from forecaster.core.checkpoint_ids import NO_CHECKPOINT
from forecaster.errors import UsageError
from forecaster.formats.readings import InputSchema
from forecaster.printable import printable_json
from forecaster.serving.inspect.explanation import Explanation
from forecaster.serving.state.recovery import Recovery

CONFIG = pipeline_config()
MODEL, NEWER = random_model(CONFIG), random_model(CONFIG, cell="lstm", seed=3)


def send(kafka: FakeKafka, hours: range, name: str = "pump", partition: int = 0) -> None:
    for hour in hours:
        value = orjson.dumps({"timestamp": START_MS + hour * HOUR_MS, "value": (hour * hour) % 23})
        kafka.append(partition, value, name.encode())


def explained(kafka: FakeKafka, made_of: Setup, name: str = "pump") -> Explanation:
    restorer = made_of.restorer(FakeClient(kafka))
    lineup = made_of.checkpoints()
    return explain_from(restorer, name, len(kafka.partitions), lineup.champion, lineup.models)


def last_forecasts(kafka: FakeKafka, name: str = "pump") -> dict[int, dict[str, object]]:
    """The published forecasts of a series by their hour."""
    bodies = [orjson.loads(value) for topic, _, value in kafka.published if topic == "forecasts"]
    return {(body["timestamp"] - START_MS) // HOUR_MS: body for body in bodies if body["series_id"] == name}


def test_an_explanation_equals_the_rows_of_the_live_worker() -> None:
    made_of, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka()
    worker = made_of.serving(FakeClient(kafka))
    for hour in range(50):
        send(kafka, range(hour, hour + 1))
        send(kafka, range(hour, hour + 1), "other")
        worker.iterate()
    partition = worker._store.partitions[0]  # noqa: SLF001 - the law is about the rows that it holds
    row, state = partition.table.row("pump"), partition.table.state
    explanation = explained(kafka, made_of)
    assert explanation.place.recovery == Recovery.RESTORED.value
    assert (explanation.place.partition, explanation.place.offset) == (0, partition.position)
    assert explanation.inputs.scale == state.inputs.scaler.scale()[row]
    assert list(explanation.inputs.levels.values()) == state.inputs.scaler.levels[row].tolist()
    assert (explanation.inputs.count, explanation.inputs.tick) == (50, 49)
    assert explanation.inputs.last_ms == START_MS + 49 * HOUR_MS
    assert [(reading.tick, reading.timestamp_ms, reading.value) for reading in explanation.inputs.readings] == [
        (hour, START_MS + hour * HOUR_MS, (hour * hour) % 23) for hour in range(38, 50)
    ]
    assert explanation.network.checkpoint == explanation.network.hidden_of == MODEL.id
    assert explanation.network.hidden_is_its
    assert explanation.network.hidden_norm == np.linalg.norm(state.hidden[row].astype(np.float64)) > 0
    assert [forecast.last_value_rmse for forecast in explanation.pending] == pytest.approx(
        state.pending.last_value_rmse[row, [0, 1, 2, 3]].tolist()
    )


def test_pending_forecasts_are_the_published_ones() -> None:
    made_of, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka()
    worker = made_of.serving(FakeClient(kafka))
    send(kafka, range(50))
    worker.iterate()
    explanation, forecasts = explained(kafka, made_of), last_forecasts(kafka)
    assert explanation.next_ms == START_MS + 50 * HOUR_MS
    assert [forecast.horizon for forecast in explanation.pending] == [1, 2, 3, 4]
    for pending in explanation.pending:
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


def test_a_gap_has_no_value_and_no_pending_forecast() -> None:
    made_of, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka()
    worker = made_of.serving(FakeClient(kafka))
    send(kafka, range(30))
    send(kafka, range(32, 34))
    worker.iterate()
    explanation = explained(kafka, made_of)
    shown = {reading.tick: reading.value for reading in explanation.inputs.readings}
    assert shown[30] is shown[31] is None
    assert shown[29] is not None
    made = {pending.horizon: pending.made_ms for pending in explanation.pending}
    assert made[1] == START_MS + 33 * HOUR_MS
    assert made[3] is made[4] is None


def test_a_series_without_interval_shows_its_readings() -> None:
    made_of, kafka = setup(pipeline=pipeline_config(interval_ms=0), model=MODEL), FakeKafka()
    worker = made_of.serving(FakeClient(kafka))
    send(kafka, range(3))
    worker.iterate()
    explanation = explained(kafka, made_of)
    assert (explanation.inputs.interval_ms, explanation.inputs.tick, explanation.next_ms, explanation.pending) == (
        None,
        None,
        None,
        [],
    )
    assert [(reading.tick, reading.value) for reading in explanation.inputs.readings] == [
        (None, 0.0),
        (None, 1.0),
        (None, 4.0),
    ]


def test_a_hidden_state_is_rewarmed_at_the_reading_after_a_swap() -> None:
    kafka, lineup = FakeKafka(), Lineup(NEWER, MODEL)
    made_of = setup(pipeline=CONFIG, lineup=lineup)
    worker = made_of.serving(FakeClient(kafka))
    send(kafka, range(30))
    send(kafka, range(30), "other")
    worker.iterate()
    lineup.champion = NEWER.id
    send(kafka, range(30, 31), "other")
    worker.iterate()
    explanation = explained(kafka, made_of)
    assert (explanation.network.checkpoint, explanation.network.hidden_of) == (NEWER.id, MODEL.id)
    assert not explanation.network.hidden_is_its
    for hour in range(31, 60):
        send(kafka, range(hour, hour + 1))
        worker.iterate()
    explanation = explained(kafka, made_of)
    assert explanation.network.checkpoint == explanation.network.hidden_of == NEWER.id
    assert explanation.network.hidden_is_its


def test_without_a_checkpoint_there_is_no_hidden_state() -> None:
    made_of, kafka = setup(pipeline=CONFIG), FakeKafka()
    worker = made_of.serving(FakeClient(kafka))
    send(kafka, range(5))
    worker.iterate()
    network = explained(kafka, made_of).network
    assert (network.checkpoint, network.hidden_of, network.hidden_norm) == (NO_CHECKPOINT, NO_CHECKPOINT, 0.0)


def test_an_unknown_series_is_refused_with_similar_ids() -> None:
    made_of, kafka = setup(pipeline=CONFIG), FakeKafka(2)
    with pytest.raises(UsageError, match="has no state yet"):
        explained(kafka, made_of, "pump-71")
    worker = made_of.serving(FakeClient(kafka))
    for number, name in enumerate(("pump-17", "pump-11", "boiler")):
        send(kafka, range(5), name, number % 2)
    worker.iterate()
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


def test_a_series_is_found_in_any_partition_with_its_group() -> None:
    made_of, kafka = setup(pipeline=CONFIG, schema=InputSchema(value_fields=("in", "out")), group_size=2), FakeKafka(3)
    worker = made_of.serving(FakeClient(kafka))
    elsewhere = next(number for number in range(3) if number not in list(likely_partitions("pump/out", 3))[:2])
    for hour in range(6):
        kafka.append(elsewhere, orjson.dumps({"timestamp": START_MS + hour * HOUR_MS, "in": 1, "out": hour}), b"pump")
    worker.iterate()
    place = explained(kafka, made_of, "pump/out").place
    assert (place.group, place.partition) == ("pump", elsewhere)


def test_text_and_json_show_the_same_explanation(capsys: pytest.CaptureFixture[str]) -> None:
    made_of, kafka = setup(pipeline=CONFIG, model=MODEL), FakeKafka()
    worker = made_of.serving(FakeClient(kafka))
    send(kafka, range(30), "[b]pump")
    worker.iterate()
    explanation = explained(kafka, made_of, "[b]pump")
    assert msgspec.json.decode(explanation_json(explanation), type=Explanation) == explanation
    capsys.readouterr()
    print_explanation(explanation)
    shown = capsys.readouterr().out
    for part in ("[b]pump", "last tick 29", "2025-01-02T05:00:00Z", MODEL.id, "the hidden state is its own"):
        assert part in shown


def test_an_id_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither where the series is shown, nor in JSON, nor where an error names it or suggests it."""
    made_of, kafka, hostile = setup(pipeline=CONFIG), FakeKafka(), "pump\x1b[2J\n\x9b7\u202e"
    worker = made_of.serving(FakeClient(kafka))
    send(kafka, range(30), hostile)
    worker.iterate()
    explanation = explained(kafka, made_of, hostile)
    capsys.readouterr()
    print_explanation(explanation)
    shown = capsys.readouterr().out
    assert r"pump\x1b[2J\n\x9b7\u202e" in shown
    document = printable_json(explanation_json(explanation))
    assert msgspec.json.decode(document, type=Explanation) == explanation
    with pytest.raises(UsageError) as unknown:
        explained(kafka, made_of, hostile + "8")
    for text in (shown, document, str(unknown.value)):
        assert all(char.isprintable() or char == "\n" for char in text)
    assert str(unknown.value).count("\n") == 0
