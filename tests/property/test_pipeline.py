"""The pipeline on arbitrary streams of readings."""

from __future__ import annotations

import numpy as np
from builders import HOUR_MS, START_MS, Serving, pipeline_config, random_model, readings
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.pipeline import PipelineConfig
from forecaster.records import Outcome

stamps = st.one_of(
    st.integers(0, 60).map(lambda hour: START_MS + hour * HOUR_MS),
    st.integers(0, 253_402_300_799_999),
)
values = st.one_of(
    st.none(), st.floats(allow_nan=False, allow_infinity=False), st.floats(-1e30, 1e30), st.integers(-5, 5).map(float)
)
streams = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), stamps, values), max_size=60)
NO_FILTERS: tuple[str, ...] = ()
CONFIGS: dict[tuple[int, tuple[str, ...]], PipelineConfig] = {
    (interval, chain): pipeline_config(interval_ms=interval, chain=chain)
    for interval in (0, HOUR_MS)
    for chain in (NO_FILTERS, ("range", "hampel", "stuck"))
}
MODELS = {key: random_model(config) for key, config in CONFIGS.items()}


@settings(max_examples=60, deadline=None)
@given(streams, st.sampled_from(sorted(CONFIGS)), st.sampled_from(["none", "gru"]), st.integers(1, 20))
def test_every_reading_has_one_outcome_and_only_steps_have_forecasts(
    rows: list[tuple[str, int, float | None]], key: tuple[int, tuple[str, ...]], network: str, size: int
) -> None:
    serving = Serving(CONFIGS[key], MODELS[key] if network == "gru" else None)
    for begin in range(0, len(rows), size):
        batch = readings(rows[begin : begin + size])
        outputs = serving.feed(batch)
        assert len(outputs.outcomes) == len(batch)
        accepted = np.flatnonzero(outputs.outcomes == Outcome.FORECAST)
        np.testing.assert_array_equal(outputs.forecasts.reading, accepted)
        np.testing.assert_array_equal(outputs.matured.reading, accepted)
        assert np.isfinite(outputs.forecasts.point).all()
        assert np.isfinite(outputs.forecasts.quantiles).all()
        assert (np.diff(outputs.forecasts.quantiles, axis=1) >= 0).all()
        assert (outputs.forecasts.target_ms > outputs.forecasts.timestamp_ms[:, None] - 366 * 86_400_000).all()
        assert serving.state_config.shape.invalid(serving.partitions[0].table.state) == "", "it could not be restored"
