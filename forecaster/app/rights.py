"""The rights that a process needs, and which of them a refused one lacks."""

from __future__ import annotations

from forecaster.broker.refusals import refused_resources
from forecaster.errors import BrokerUnavailable
from forecaster.settings import Settings


def needed_rights(settings: Settings) -> list[tuple[str, str]]:
    """Return the resources that the daemon uses, each with the rights that it needs; SECURITY.md has the same list.

    The topics exist already; creating them takes more rights.
    """
    topics, group = settings.topics, settings.kafka.group_id
    written = [topics.named("forecasts"), topics.named("dead_letters"), topics.scores, topics.denoised]
    return [
        (f"topic {topics.input}", "Read"),
        *((f"topic {name}", "Write") for name in written if name),
        (f"topic {topics.named('state')}", "Read, Write, DescribeConfigs"),
        (f"topic {topics.named('models')}", "Read, Write, DescribeConfigs"),
        (f"topic {topics.named('history')}", "Read, Write"),
        (f"groups that begin with {group}", "Read"),
        (f"transactional ids that begin with {group}", "Write"),
    ]


def with_missing_rights(settings: Settings, error: BrokerUnavailable) -> BrokerUnavailable:
    """Return the error with the rights that the user needs on what the broker refused; other errors unchanged."""
    needed = [
        f"{rights} on {resource}"
        for resource, rights in needed_rights(settings)
        if any(_is_meant(resource, *refused) for refused in refused_resources(error))
    ]
    if not needed:
        return error
    user = settings.kafka.sasl_username or "this user"
    return BrokerUnavailable(f"{error}; {user} needs {', '.join(needed)}")


def _is_meant(resource: str, kind: str, name: str) -> bool:
    """Return whether a resource of `needed_rights` is one that the broker refused."""
    return resource == f"topic {name}" if kind == "topic" else resource.startswith(kind)
