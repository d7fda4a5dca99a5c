"""Fetches that name the topic by its id (KIP-516), so that they never continue in a topic that was created again.

Kafka's client fetches by name. If a topic is deleted and created again between two fetches, and the new log has reached
the client's offset, the client continues in the new topic without an error. A broker of version 3.1 or later refuses a
fetch that names the id of a deleted topic; older brokers are asked by name.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from kafka.consumer.fetcher import Fetcher

FETCH_VERSION = 13
"""First version of the fetch request that names topics by their ids."""


class FetchOffsets(dict[Any, int]):
    """Offsets that a fetch asks for, by partition.

    Attributes:
        topic_id: id of the topic that the fetch is of; None = it names the topic only.
    """

    topic_id: UUID | None = None


class IdentifiedFetcher(Fetcher):  # type: ignore[misc]
    """Fetches from the topic with one id only, once it is set.

    Attributes:
        topic_id: id of the only topic that is read; None = topics are read by their names.
        topic_name: name of that topic.
    """

    topic_id: UUID | None = None
    topic_name = ""

    def read_from(self, topic_name: str, topic_id: UUID) -> None:
        """Read only from the topic with this id, and drop what was fetched from another one."""
        if topic_id != self.topic_id:
            self._manager.run(self._change_topic, topic_name, topic_id)

    async def _change_topic(self, topic_name: str, topic_id: UUID) -> None:
        """Change the topic; on the I/O thread, where no answer to a fetch can arrive in the meantime."""
        self.topic_name, self.topic_id = topic_name, topic_id
        self._completed_fetches.clear()
        self._paused_completed_fetches.clear()
        self._paused_partition_records.clear()
        self._next_partition_records = None
        for session in self._session_handlers.values():
            session.handle_error(None)  # a session remembers the topics of earlier fetches

    def _create_fetch_requests(self) -> dict[Any, tuple[Any, FetchOffsets]]:
        requests: dict[Any, tuple[Any, FetchOffsets]] = {}
        for node, (request, offsets) in super()._create_fetch_requests().items():
            if self.topic_id is not None:
                for topic in [*request.topics, *request.forgotten_topics_data]:
                    topic.topic_id = self.topic_id
                request._max_version = FETCH_VERSION  # noqa: SLF001 - the client allows none that names ids
            requests[node] = request, FetchOffsets(offsets)
            requests[node][1].topic_id = self.topic_id
        return requests

    def _handle_fetch_response(self, node: Any, offsets: FetchOffsets, send_time: float, response: Any) -> None:
        if offsets.topic_id != self.topic_id:
            self._session_handlers[node].handle_error(None)
            return
        if response.API_VERSION >= FETCH_VERSION:
            for topic in response.responses:
                topic.topic = self.topic_name
        super()._handle_fetch_response(node, offsets, send_time, response)
