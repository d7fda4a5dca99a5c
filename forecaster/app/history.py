"""The history of a fleet, as a trainer reads it from the history topic."""

from __future__ import annotations

from contextlib import closing

from forecaster.app.configs import connection, history_config
from forecaster.app.connect import ask_broker
from forecaster.app.topics import needed_topics
from forecaster.broker.log_reader import LogReader
from forecaster.broker.topics import TopicAdmin
from forecaster.clock import epoch_ms
from forecaster.errors import UsageError
from forecaster.history import SeriesHistory
from forecaster.learning.data.history_reader import HistoryReader
from forecaster.settings import Settings

DAY_MS = 86_400_000


def read_history(settings: Settings) -> SeriesHistory:
    """Return the readings of the training window from the history topic.

    Raises:
        UsageError: there are none.
        TopicError: a topic is missing or does not fit.
        BrokerUnavailable: no broker answered within the deadline.
    """

    def read(topics: TopicAdmin) -> SeriesHistory:
        partitions = topics.ensure(settings.topics.input, needed_topics(settings), create=False)
        with closing(LogReader(connection(settings), topics)) as reader:
            return HistoryReader(history_config(settings, partitions), reader).read(epoch_ms())

    history = ask_broker(settings, read)
    if not len(history):
        raise UsageError(
            f"topic {settings.topics.named('history')}: no readings of the last {settings.training.window // DAY_MS} "
            "days: let a worker serve for a while, which writes it, or train from files"
        )
    return history
