"""Keys go to the partitions that Kafka's own clients choose."""

from __future__ import annotations

import pytest

from forecaster.broker.consumer_groups import partition_of


@pytest.mark.parametrize(
    ("key", "murmur2"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_a_key_goes_where_the_default_partitioner_of_java_puts_it(key: bytes, murmur2: int) -> None:
    """The hashes are those of the tests of Kafka's `Utils.murmur2`."""
    assert partition_of(key, 12) == (murmur2 & 0x7FFFFFFF) % 12
    assert partition_of(key, 1) == 0
