"""Records of the history topic: decoding returns the readings that were encoded."""

from __future__ import annotations

import numpy as np
from builders import history_flags, readings
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.formats.history import decode_history, encode_history
from forecaster.records import Readings

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
values = st.one_of(st.none(), st.floats(-1e30, 1e30))
rows = st.lists(st.tuples(names, st.integers(0, 253_402_300_799_999), values), min_size=1, max_size=40)


def bits(column: np.ndarray) -> list[int]:
    return np.nan_to_num(column, nan=np.inf).view(np.int64).tolist()


@settings(max_examples=100, deadline=None)
@given(rows, st.data())
def test_decoded_history_equals_the_encoded_readings(
    batch: list[tuple[str, int, float | None]], data: st.DataObject
) -> None:
    grouped = data.draw(st.booleans())
    count = len(batch)
    records = np.cumsum(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    encoded = readings(batch, records.tolist())
    if grouped:
        group = {name: data.draw(names) for name in dict.fromkeys(encoded.series_ids)}
        columns = (encoded.series_ids, encoded.timestamp_ms, encoded.values, encoded.record_of_reading)
        encoded = Readings(*columns, [group[name] for name in encoded.series_ids])
    chosen = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    masked = np.array(data.draw(st.lists(st.booleans(), min_size=len(chosen), max_size=len(chosen))), bool)
    messages = encode_history(3, encoded, chosen, masked)
    assert len(messages) == bool(len(chosen))
    for message in messages:
        part = decode_history(message.value or b"")
        assert (message.partition, dict(message.headers)) == (3, {"readings": str(len(chosen)).encode()})
        assert [part.series_ids[row] for row in part.row] == [encoded.series_ids[at] for at in chosen]
        assert len(set(part.series_ids)) == len(part.series_ids)
        assert part.groups == ([group[name] for name in part.series_ids] if grouped else [])
        assert part.timestamp_ms.tolist() == encoded.timestamp_ms[chosen].tolist()
        assert bits(part.values) == bits(encoded.values[chosen])
        flags = history_flags(message.value or b"")
        assert (flags & 1 != 0).tolist() == (~np.isnan(encoded.values[chosen])).tolist()
        assert (flags & 2 != 0).tolist() == masked.tolist()
        records = np.unique(encoded.record_of_reading[chosen], return_inverse=True)[1]
        assert part.record_of_reading.tolist() == records.tolist()
