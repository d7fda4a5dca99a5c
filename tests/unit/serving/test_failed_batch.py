"""The committed offsets decide what becomes of a batch whose transaction failed."""

from __future__ import annotations

import pytest

from forecaster.serving.failed_batch import Resolution, resolve

BEGIN, END = {0: 4, 1: 10}, {0: 8, 1: 12}


@pytest.mark.parametrize(
    ("committed", "resolution"),
    [
        pytest.param({0: 8, 1: 12}, Resolution(END, {}, []), id="it was committed"),
        pytest.param({0: 4, 1: 10}, Resolution({}, BEGIN, []), id="it was not"),
        pytest.param({0: 0, 1: 3}, Resolution({}, BEGIN, []), id="markers lie before it"),
        pytest.param({0: 6, 1: 10}, Resolution({}, {1: 10}, [0]), id="another process is in the middle of it"),
        pytest.param({0: 4, 1: 20}, Resolution({}, {0: 4}, [1]), id="another process is further"),
        pytest.param({0: 8, 1: 10}, Resolution({0: 8}, {1: 10}, []), id="another process committed one part"),
        pytest.param({1: 12}, Resolution({1: 12}, {}, [0]), id="Kafka has lost an offset"),
        pytest.param({}, Resolution({}, {}, [0, 1]), id="Kafka has lost all offsets"),
    ],
)
def test_the_committed_offset_decides_about_each_partition(committed: dict[int, int], resolution: Resolution) -> None:
    assert resolve(BEGIN, END, committed) == resolution


def test_a_batch_is_committed_only_with_all_its_parts() -> None:
    assert resolve(BEGIN, END, END).is_committed
    assert not resolve(BEGIN, END, {**END, 1: 10}).is_committed
    assert not resolve(BEGIN, END, {**END, 1: 20}).is_committed
