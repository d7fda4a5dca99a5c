"""The interfaces of Kafka and of the formats that several packages need; tests implement them with fakes."""

from __future__ import annotations

from typing import Protocol

from forecaster.records import Decoded, SourceRecord, Transaction, TransactionFailure


class Producer(Protocol):
    """A `TransactionalProducer`."""

    @property
    def failure(self) -> TransactionFailure:
        """Reason of the newest failed transaction."""

    def commit(self, transaction: Transaction) -> bool:
        """Return whether the transaction was committed as far as is known; `restart` after a failure."""

    def restart(self) -> None:
        """End the failed transaction and connect again."""


class PartitionReader(Protocol):
    """A `LogReader`, which reads one partition at a time."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset of the log, and the offset after its last record."""

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Continue at the offset of the partition."""

    def read(self, *, wait: bool = True) -> list[SourceRecord]:
        """Return the next records; an empty list if none arrives within a moment.

        Args:
            wait: whether to wait that moment for records that are not fetched yet.
        """

    @property
    def position(self) -> int:
        """Offset of the next record, after the transaction markers that were read."""


class RecordDecoder(Protocol):
    """A `formats.readings.Decoder`."""

    def decode(self, records: list[SourceRecord]) -> Decoded:
        """Return the readings and the dead letters of the records."""
