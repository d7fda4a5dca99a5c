"""What rows hold is in the hash that they are stored with: others are re-warmed, never read as if they were ours."""

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


def test_settings_that_shape_no_row_change_nothing() -> None:
    assert pipeline_hash(settings()) == pipeline_hash(settings(log={"level": "DEBUG"}, state={"ttl": "3d"}))
    assert pipeline_hash(settings()) != pipeline_hash(settings(network={"context": "48"}))


def test_a_version_that_keeps_rows_otherwise_has_another_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    before = pipeline_hash(settings())
    with monkeypatch.context() as patched:
        patched.setattr(seasonal, "MAX_BINS", 100)
        assert pipeline_hash(settings()) != before
    with monkeypatch.context() as patched:
        patched.setattr(experts, "LAST_VALUE", "as now")
        assert pipeline_hash(settings()) != before, "whose losses are whose would be another thing"
    empty = InputState.empty

    def wider(n: int, config: object) -> InputState:
        found = empty(n, config)  # type: ignore[arg-type]
        assert isinstance(found.denoise, DenoiseState)
        found.denoise.change = np.zeros(n, np.float32)
        return found

    monkeypatch.setattr(InputState, "empty", wider)
    assert pipeline_hash(settings()) != before
