"""The way of a reading: forecasts, scores, and what they may depend on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import (
    HOUR_MS,
    START_MS,
    Serving,
    hourly,
    pipeline_config,
    random_checkpoint,
    random_model,
    readings,
    with_local_readouts,
)

from forecaster.core.arrays import arrays, convert
from forecaster.core.network.model import Model
from forecaster.records import Outcome, Outputs
from forecaster.serving.state.checkout import adopt, check_out
from forecaster.serving.state.partition import Partition


def noisy(hours: int, seed: int = 0) -> list[float | None]:
    return np.random.default_rng(seed).normal(20, 3, hours).round(3).tolist()


def with_gaps(rows: list, every: int = 7) -> list:
    return [row for number, row in enumerate(rows) if number % every]


def rows_of(outputs: Outputs) -> list[tuple[int, bytes, bytes]]:
    forecasts = outputs.forecasts
    parts = zip(forecasts.timestamp_ms, forecasts.point, forecasts.quantiles, strict=True)
    return [(int(stamp), point.tobytes(), quantiles.tobytes()) for stamp, point, quantiles in parts]


def snapshot(serving: Serving) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays(serving.partitions[0].table.state)}


GROUPS = [["a/x", "a/y"], ["b/x", "b/y"], ["pump"], *([f"pump-{number}"] for number in range(40))]
"""Series with local readouts, and their groups, in the model `local`."""


@pytest.fixture(params=["none", "gru", "lstm", "rnn", "local"])
def serving(request: pytest.FixtureRequest) -> Serving:
    config = pipeline_config()
    if request.param == "local":
        return Serving(replace(config, heads=3), Model(with_local_readouts(random_checkpoint(config), GROUPS)))
    return Serving(config, None if request.param == "none" else random_model(config, cell=request.param))


def test_before_training_the_point_is_the_last_value() -> None:
    """This holds from the first reading on."""
    outputs = Serving().feed(readings(hourly([3.0, 5.0])))
    assert outputs.forecasts.checkpoint.tolist() == ["none", "none"]
    np.testing.assert_array_equal(outputs.forecasts.point, [[3.0] * 4, [5.0] * 4])
    assert outputs.forecasts.spread_known.tolist() == [False, True]
    assert (outputs.forecasts.quantiles[0] == 3.0).all()
    assert (np.diff(outputs.forecasts.quantiles[1], axis=0) > 0).all()


def test_before_training_the_spread_follows_past_differences() -> None:
    values = np.cumsum(np.random.default_rng(0).normal(size=600)).tolist()
    outputs = Serving().feed(readings(hourly(values)))
    inside = (outputs.matured.truth[:, None] >= outputs.matured.quantiles[:, 0]) & (
        outputs.matured.truth[:, None] <= outputs.matured.quantiles[:, 2]
    )
    matured = ~np.isnan(outputs.matured.point)
    assert 0.74 < inside[matured].mean() < 0.86


def test_with_an_unknown_interval_the_fourth_reading_is_forecast_first() -> None:
    serving = Serving(pipeline_config(interval_ms=0))
    outputs = serving.feed(readings(hourly([1.0, 2.0, 3.0, 4.0, 5.0])))
    assert outputs.outcomes.tolist() == [Outcome.WARMING] * 3 + [Outcome.FORECAST] * 2
    assert outputs.forecasts.target_ms[0].tolist() == [START_MS + hour * HOUR_MS for hour in range(4, 8)]
    inputs = serving.partitions[0].table.state.inputs
    np.testing.assert_array_equal(inputs.context[0, :5] + inputs.reference[0], [5, 4, 3, 2, 1])


def test_forecasts_are_scored_within_a_dozen_readings_after_a_burst_at_boot() -> None:
    burst: list = [("pump", START_MS + late, 5.0) for late in (0, 10, 20, 30)]
    serving = Serving(pipeline_config(interval_ms=0))
    outputs = serving.feed(readings(burst + hourly(noisy(40), start=1)))
    forecasts, matured = outputs.forecasts, outputs.matured
    late = forecasts.timestamp_ms > START_MS + 12 * HOUR_MS
    ahead = forecasts.target_ms[late] - forecasts.timestamp_ms[late, None]
    assert (np.abs(ahead - HOUR_MS * np.arange(1, 5)) < HOUR_MS // 2).all()
    assert np.isfinite(matured.point[late][4:]).all()
    assert serving.partitions[0].table.state.inputs.scaler.count.tolist() == [44]


@pytest.mark.parametrize("size", [1, 5])
def test_intervals_change_at_the_same_reading_in_any_batches(size: int) -> None:
    rows: list = [("pump", START_MS + late, 5.0) for late in (0, 10, 20, 30)] + hourly(noisy(20), start=1)
    rows += [("pump", START_MS + 20 * HOUR_MS + 60_000 * minute, float(minute)) for minute in range(1, 150)]
    config = pipeline_config(interval_ms=0)
    model = random_model(config)
    together, parts = Serving(config, model), Serving(config, model)
    expected = rows_of(together.feed(readings(rows)))
    batches = [readings(rows[begin : begin + size]) for begin in range(0, len(rows), size)]
    assert [row for batch in batches for row in rows_of(parts.feed(batch))] == expected
    assert snapshot(together) == snapshot(parts)
    assert together.partitions[0].table.state.timeline.interval_ms.tolist() == [60_000]


def test_a_missing_reading_is_forecast_from_the_last_valid_value() -> None:
    outputs = Serving().feed(readings(hourly([3.0, 5.0, None])))
    np.testing.assert_array_equal(outputs.forecasts.point[2], [5.0] * 4)
    assert np.isnan(outputs.matured.truth[2])


def test_a_series_without_any_value_is_warming() -> None:
    outputs = Serving().feed(readings(hourly([None, None, 4.0])))
    assert outputs.outcomes.tolist() == [Outcome.WARMING, Outcome.WARMING, Outcome.FORECAST]
    assert np.isfinite(outputs.forecasts.point).all()


def test_a_reading_scores_one_forecast_of_each_horizon(serving: Serving) -> None:
    """For each horizon h the reading scores the forecast that was made h ticks before."""
    outputs = serving.feed(readings(hourly(noisy(40))))
    for tick in range(40):
        for column, horizon in enumerate(serving.config.horizons):
            if tick < horizon:
                assert np.isnan(outputs.matured.point[tick, column])
            else:
                made = outputs.forecasts.point[tick - horizon, column]
                assert outputs.matured.point[tick, column] == pytest.approx(made, rel=2e-3, abs=2e-2)


def test_no_forecast_depends_on_a_later_reading(serving: Serving) -> None:
    values = noisy(60)
    changed = [*values[:40], *noisy(20, seed=9)]
    other = Serving(serving.config, serving.model)
    first = rows_of(serving.feed(readings(hourly(values))))
    second = rows_of(other.feed(readings(hourly(changed))))
    assert first[:40] == second[:40]
    assert first[40:] != second[40:]


def test_a_dropped_batch_leaves_no_trace(serving: Serving) -> None:
    serving.feed(readings(hourly(noisy(30))))
    before = snapshot(serving)
    batch = readings(hourly(noisy(10), start=30) + hourly(noisy(10), series_id="new"))
    dropped = rows_of(serving.dropped(batch))
    assert snapshot(serving) == before
    assert serving.series == 1
    assert rows_of(serving.feed(batch)) == dropped


def test_forecasts_are_the_same_bits_in_any_batches(serving: Serving) -> None:
    hours = [50] * 5 + [10] * 65  # more rows than a tile of the network has, and more than two days
    series = [with_gaps(hourly(noisy(hours[seed], seed), f"pump-{seed}", start=seed % 5)) for seed in range(70)]
    rows = sorted((row for part in series for row in part), key=lambda row: (row[1], row[0]))
    one_by_one = Serving(serving.config, serving.model)
    sizes = np.random.default_rng(1).integers(1, 200, 100)
    together: list[tuple[int, bytes, bytes]] = []
    begin = 0
    for size in sizes:
        if begin < len(rows):
            together += rows_of(serving.feed(readings(rows[begin : begin + size])))
            begin += size
    singly = [row for reading in rows[:begin] for row in rows_of(one_by_one.feed(readings([reading])))]
    assert together == singly


def test_groups_do_not_affect_each_other(serving: Serving) -> None:
    def groups(second: float) -> tuple[list, list[int]]:
        rows, records = [], []
        for hour in range(30):
            for series, value in (("a/x", hour % 5), ("a/y", -hour % 7), ("b/x", second * hour), ("b/y", second)):
                rows.append((series, START_MS + hour * HOUR_MS, float(value)))
                records.append(2 * hour + series.startswith("b"))
        return rows, records

    other = Serving(serving.config, serving.model)
    first = serving.feed(readings(*groups(1.0)))
    second = other.feed(readings(*groups(250.0)))
    of_a = np.arange(len(first.forecasts)) % 4 < 2
    np.testing.assert_array_equal(first.forecasts.point[of_a], second.forecasts.point[of_a])
    np.testing.assert_array_equal(first.forecasts.quantiles[of_a], second.forecasts.quantiles[of_a])
    assert (first.forecasts.point[~of_a] != second.forecasts.point[~of_a]).any()


def test_series_of_one_group_see_each_other() -> None:
    config = pipeline_config()
    model = random_model(config)

    def last_forecast(companion: float) -> np.ndarray:
        rows: list[tuple[str, int, float | None]] = []
        records: list[int] = []
        for hour in range(20):
            rows += [("a/x", START_MS + hour * HOUR_MS, hour % 5), ("a/y", START_MS + hour * HOUR_MS, hour % 3)]
            records += [hour, hour]
        rows[-1] = (rows[-1][0], rows[-1][1], companion)
        return Serving(config, model).feed(readings(rows, records)).forecasts.point[-2]

    assert (last_forecast(1.0) != last_forecast(9.0)).any()


def test_a_long_gap_resets_context_and_hidden_state_but_not_the_scale() -> None:
    config = pipeline_config()
    serving = Serving(config, random_model(config))
    serving.feed(readings(hourly(noisy(30))))
    scale = serving.partitions[0].table.state.inputs.scaler.scale().copy()
    away = 20 * 24
    outputs = serving.feed(readings(hourly([20.0, 21.0], start=away)))
    assert outputs.outcomes.tolist() == [Outcome.AHEAD, Outcome.FORECAST]
    state = serving.partitions[0].table.state
    assert np.isnan(state.inputs.context[0, 1:]).all()
    assert state.inputs.scaler.scale()[0] == pytest.approx(scale[0], rel=0.2)
    assert np.isnan(outputs.matured.point).all()


def test_an_expired_series_equals_a_new_one_bit_by_bit() -> None:
    """A series expires when it is idle for longer than its time to live."""
    config = pipeline_config()
    serving, new = Serving(config, random_model(config)), Serving(config, random_model(config))
    serving.feed(readings(hourly(noisy(30))))
    back = readings(hourly([20.0, 21.0, 22.0, 25.0], start=40 * 24))
    outputs = serving.feed(back)
    assert outputs.outcomes.tolist() == [Outcome.AHEAD] + [Outcome.FORECAST] * 3
    expected = new.feed(readings(hourly([21.0, 22.0, 25.0], start=40 * 24 + 1))).forecasts
    np.testing.assert_array_equal(outputs.forecasts.quantiles, expected.quantiles)
    assert snapshot(serving) == snapshot(new)


def test_small_changes_of_large_values_are_resolved() -> None:
    config = pipeline_config()
    model = random_model(config)
    values = np.round(np.random.default_rng(0).normal(size=40) * 64) / 64
    plain = Serving(config, model).feed(readings(hourly(values.tolist())))
    offset = Serving(config, model).feed(readings(hourly((values + 2.0**33).tolist())))
    np.testing.assert_allclose(offset.forecasts.point - 2.0**33, plain.forecasts.point, atol=1e-4)


def test_huge_tiny_and_constant_series_give_finite_forecasts(serving: Serving) -> None:
    rows = [
        *hourly([1e30, -1e30, 1e30, 0.0] * 5, "huge"),
        *hourly([1e-30, 3e-30, 0.0] * 6, "tiny"),
        *hourly([7.0] * 20, "constant"),
    ]
    outputs = serving.feed(readings(rows))
    assert len(outputs.forecasts) == len(rows)
    assert np.isfinite(outputs.forecasts.quantiles).all()
    assert np.isfinite(outputs.forecasts.point).all()
    assert (np.diff(outputs.forecasts.quantiles, axis=1) >= 0).all()
    np.testing.assert_array_equal(outputs.forecasts.point[-20:], 7.0)


def test_an_empty_batch_gives_no_outputs(serving: Serving) -> None:
    outputs = serving.feed(readings([]))
    assert len(outputs.forecasts) == 0
    assert len(outputs.outcomes) == 0


def test_partitions_do_not_share_rows() -> None:
    serving = Serving()
    serving.partitions[1] = Partition(1, serving.state_config)
    batch = readings(hourly([1.0]) + hourly([100.0]))
    checkout = check_out(serving.partitions, batch, np.array([0, 1]))
    assert checkout.row.tolist() == [0, 1]
    adopt(serving.partitions, checkout, [0, 1])
    assert (len(serving.partitions[0].table), len(serving.partitions[1].table)) == (1, 1)
    assert serving.series == 2


def test_a_table_grows_with_its_series() -> None:
    serving = Serving()
    ids = [f"s-{number}" for number in range(1000)]
    for hour in range(2):
        serving.feed(readings([(name, START_MS + hour * HOUR_MS, float(n)) for n, name in enumerate(ids)]))
    state = serving.partitions[0].table.state
    assert len(state) == 1000
    assert serving.partitions[0].table.names == ids
    np.testing.assert_array_equal(state.inputs.reference, np.arange(1000))
    assert convert(state, np.copy).timeline.tick.tolist() == [1] * 1000


def test_intervals_hold_soon_after_a_seasonal_expert_takes_over() -> None:
    """The first offsets rest on errors of the last value, which are ten times as large."""
    dice, hours = np.random.default_rng(3), np.arange(1_400)
    values = 10.0 * np.sin(hours * 2.0 * np.pi / 24.0) + dice.normal(size=len(hours))
    outputs = Serving(pipeline_config(horizon=12)).feed(readings(hourly(values)))
    matured = outputs.matured
    inside = (matured.truth[:, None] >= matured.quantiles[:, 0]) & (matured.truth[:, None] <= matured.quantiles[:, -1])
    assert 0.75 < inside[700:].mean() < 0.87


def test_100_000_series_are_forecast_like_a_few() -> None:
    config = pipeline_config(horizon=1)
    model = random_model(config)
    many, few = Serving(config, model), Serving(config, model)
    names, batch, shown = [f"pump-{number}" for number in range(100_000)], 10_000, slice(None, None, 997)
    for hour in range(2):
        rows = [(name, START_MS + hour * HOUR_MS, (number * 7 + hour) % 31) for number, name in enumerate(names)]
        outputs = [many.feed(readings(rows[begin : begin + batch])) for begin in range(0, len(rows), batch)]
        forecasts = [row for part in outputs for row in rows_of(part)]
        assert len(forecasts) == len(names)
        assert forecasts[shown] == rows_of(few.feed(readings(rows[shown])))
    state = many.partitions[0].table.state
    assert sum(array.nbytes for _, array in arrays(state)) < 1.5 * len(names) * many.state_config.row_bytes
