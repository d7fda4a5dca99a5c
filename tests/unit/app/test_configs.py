"""Everything that decides what a stored row means is in the pipeline hash; rows with another hash are re-warmed."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.app.configs import pipeline_hash
from forecaster.core.ensemble import experts, seasonal
from forecaster.core.series.denoising import DenoiseState
from forecaster.core.series.state import InputState
from forecaster.settings import Settings, load_settings


def settings(**groups: object) -> Settings:
    return load_settings(kafka={"bootstrap_servers": "none"}, topics={"input": "none"}, **groups)


def test_the_hash_depends_on_the_settings_that_shape_rows_only() -> None:
    assert pipeline_hash(settings()) == pipeline_hash(settings(log={"level": "DEBUG"}, state={"ttl": "3d"}))
    assert pipeline_hash(settings()) != pipeline_hash(settings(network={"context": "48"}))


def test_a_version_that_keeps_rows_in_another_way_has_another_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    before = pipeline_hash(settings())
    with monkeypatch.context() as patched:
        patched.setattr(seasonal, "MAX_BINS", 100)
        assert pipeline_hash(settings()) != before
    with monkeypatch.context() as patched:
        patched.setattr(experts, "LAST_VALUE", "as now")
        assert pipeline_hash(settings()) != before, "the losses in a row would belong to other experts"
    empty = InputState.empty

    def wider(n: int, config: object) -> InputState:
        state = empty(n, config)  # type: ignore[arg-type]
        assert isinstance(state.denoise, DenoiseState)
        state.denoise.rms_change = np.zeros(n, np.float32)
        return state

    monkeypatch.setattr(InputState, "empty", wider)
    assert pipeline_hash(settings()) != before
