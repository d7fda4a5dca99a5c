"""Alert rules and the dashboard use only metrics and labels that the daemon exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import FakeClient, FakeKafka
from prometheus_client.parser import text_string_to_metric_families
from setups import iterate, setup

from forecaster.app.watchdog import Pulse, Watchdog
from forecaster.serving.worker import Worker
from forecaster.web.metrics import metrics_encoder
from forecaster.web.service import Service

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\b((?:forecaster|process)_[a-z_]+|up(?=[ {]))(?:\{([^}]*)\})?")
LABEL = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)")
BY = re.compile(r"\bby \(([a-z_, ]+)\)")
OF_SCRAPE = {"instance", "job"}
"""Labels that Prometheus adds."""


def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana" / "forecaster.json").read_text())


def queries() -> Iterator[tuple[str, str]]:
    """Yield every expression of the alert rules and of the dashboard, with its place."""
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield f"{panel['title']}, {target['refId']}", target["expr"]


class Trainer:
    """The public face of a training coordinator."""

    def __init__(self) -> None:
        self.is_elected, self.running, self.counters = True, "training", {"training_promoted": 1}


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Return the labels of each sample of a daemon that serves and trains, by the name of the sample."""
    kafka = FakeKafka(2)
    worker: Worker = setup().worker(FakeClient(kafka))
    service = Service("both", "readings", "group", Watchdog(Pulse(), lambda _: None))
    service.monitor, trainer = worker.monitor, Trainer()
    service.coordinator = trainer  # type: ignore[assignment]
    iterate(worker, 4)
    labels: dict[str, set[str]] = {"up": set()}  # Prometheus adds this metric itself
    for family in text_string_to_metric_families(metrics_encoder(service)().decode()):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


@pytest.mark.parametrize(("place", "query"), list(queries()), ids=lambda value: value if len(value) < 40 else "")
def test_every_query_names_what_the_daemon_exports(place: str, query: str, exported: dict[str, set[str]]) -> None:
    names = NAME.findall(query)
    assert names, place
    for name, selector in names:
        assert name in exported, f"{place}: {name}"
        assert set(LABEL.findall(re.sub(r'"[^"]*"', '""', selector))) <= exported[name] | OF_SCRAPE, (
            f"{place}: {selector}"
        )
    known = set().union(*(exported[name] for name, _ in names)) | OF_SCRAPE
    for labels in BY.findall(query):
        assert {label.strip() for label in labels.split(",")} <= known, f"{place}: by {labels}"


def test_every_alert_says_what_to_do() -> None:
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert {"summary", "what_to_do"} <= set(rule["annotations"]), rule["alert"]
            assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
