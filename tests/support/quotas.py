"""Quotas of a real Kafka."""

from __future__ import annotations

from contextlib import closing

from kafka.net.compat import KafkaNetClient
from kafka.protocol.admin import AlterClientQuotasRequest


def limit_writes(address: str, client_id: str, bytes_per_second: float | None) -> None:
    """Limit the bytes that the broker takes each second from producers with this client id; None = no limit."""
    entry = AlterClientQuotasRequest.EntryData
    operation = entry.OpData(key="producer_byte_rate", value=bytes_per_second or 0.0, remove=bytes_per_second is None)
    entity = entry.EntityData(entity_type="client-id", entity_name=client_id)
    request = AlterClientQuotasRequest(entries=[entry(entity=[entity], ops=[operation])], validate_only=False)
    with closing(KafkaNetClient(bootstrap_servers=[address], api_version=None)) as client:
        client.check_version()
        node = client.least_loaded_node(bootstrap_fallback=True)
        answer = client.send_and_receive(node, request)
        assert [result.error_code for result in answer.entries] == [0], answer
