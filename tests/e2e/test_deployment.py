"""The chart and the alert rules, by the checkers of those who read them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

pytestmark = pytest.mark.tools
DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "forecaster"
KUBERNETES = "1.31"
REQUIRED = ("settings.KAFKA__BOOTSTRAP_SERVERS=kafka:9092", "settings.TOPICS__INPUT=readings")
OF_OPERATORS = {"ScaledObject", "PodMonitor"}
"""Kinds that Kubernetes itself does not know."""


def run(*command: str, fails: bool = False) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def rendered(*values: str, files: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """What the chart makes of values, each valid as Kubernetes says."""
    options = [part for value in (*REQUIRED, *values) for part in ("--set", value)]
    options += [part for file in files for part in ("--values", str(file))]
    run("helm", "lint", "--strict", str(CHART), *options)
    done = subprocess.run(
        ["helm", "template", "fc", str(CHART), *options], capture_output=True, text=True, timeout=120, check=True
    )
    found = [one for one in yaml.safe_load_all(done.stdout) if one]
    for one in found:
        if one["kind"] not in OF_OPERATORS:
            kubernetes_validate.validate(one, KUBERNETES, strict=True)
    return found


def kind(documents: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (one,) = [one for one in documents if one["kind"] == name]
    return one


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value") for one in pod["spec"]["containers"][0]["env"]}


def test_workers_are_static_members_named_by_their_ordinal_and_a_trainer_stands_beside() -> None:
    documents = rendered()
    workers = kind(documents, "StatefulSet")["spec"]
    assert workers["podManagementPolicy"] == "Parallel"
    variables = environment(workers["template"])
    assert variables["FORECASTER_KAFKA__INSTANCE_ID"] == "$(POD_NAME)"
    assert variables["FORECASTER_ROLE"] == "worker"
    assert variables["FORECASTER_KAFKA__BOOTSTRAP_SERVERS"] == "kafka:9092"
    trainer = kind(documents, "Deployment")["spec"]["template"]
    assert environment(trainer)["FORECASTER_ROLE"] == "trainer"
    assert "FORECASTER_KAFKA__INSTANCE_ID" not in environment(trainer)


def test_every_pod_runs_without_rights_on_a_read_only_root_and_is_probed() -> None:
    documents = rendered("secret=kafka")
    for name in ("StatefulSet", "Deployment"):
        pod = kind(documents, name)["spec"]["template"]["spec"]
        container = pod["containers"][0]
        assert pod["enableServiceLinks"] is False
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert {one["name"] for one in pod["volumes"]} >= {one["name"] for one in container["volumeMounts"]}


def test_without_a_trainer_of_its_own_the_workers_train() -> None:
    documents = rendered("trainer.enabled=false")
    assert not [one for one in documents if one["kind"] == "Deployment"]
    assert environment(kind(documents, "StatefulSet")["spec"]["template"])["FORECASTER_ROLE"] == "both"


def test_with_keda_the_lag_decides_how_many_workers_there_are() -> None:
    login = ("keda.authentication=kafka-login", "keda.metadata.sasl=scram_sha512")
    monitor = ("podMonitor.enabled=true", "podMonitor.labels.release=prometheus")
    documents = rendered("keda.enabled=true", "cache.persistent=true", *monitor, *login)
    assert kind(documents, "PodMonitor")["metadata"]["labels"]["release"] == "prometheus"
    assert "replicas" not in kind(documents, "StatefulSet")["spec"]
    (trigger,) = kind(documents, "ScaledObject")["spec"]["triggers"]
    assert trigger["metadata"]["topic"] == "readings"
    assert trigger["metadata"]["consumerGroup"] == "default-fc"
    assert trigger["metadata"]["sasl"] == "scram_sha512"
    assert trigger["authenticationRef"] == {"name": "kafka-login"}


def test_settings_become_what_the_daemon_reads(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    settings: dict[str, object] = {"STATE__MAX_SERIES": 1_000_000, "TRAINING__DROPOUT": 0.25, "TOPICS__CREATE": False}
    settings |= {"KAFKA__OPTIONS": {"fetch_min_bytes": 1}, "LOG__FORMAT": "text", "TRAINING__SCHEDULE": False}
    settings |= {"INPUT__VALUE_FIELDS": ["flow", "temperature"], "FORECAST__QUANTILE_LEVELS": [0.1, 0.9]}
    values.write_text(yaml.safe_dump({"settings": settings}))
    documents = rendered(files=[values])
    for name in ("StatefulSet", "Deployment"):
        template = kind(documents, name)["spec"]["template"]
        variables = environment(template)
        assert variables["FORECASTER_STATE__MAX_SERIES"] == "1000000"
        assert variables["FORECASTER_TRAINING__DROPOUT"] == "0.25"
        assert variables["FORECASTER_TOPICS__CREATE"] == "false"
        assert variables["FORECASTER_LOG__FORMAT"] == "text"
        assert variables["FORECASTER_TRAINING__SCHEDULE"] == "off", "which YAML reads as false"
        assert variables["FORECASTER_INPUT__VALUE_FIELDS"] == "flow,temperature"
        assert variables["FORECASTER_FORECAST__QUANTILE_LEVELS"] == "0.1,0.9"
        assert yaml.safe_load(variables["FORECASTER_KAFKA__OPTIONS"]) == {"fetch_min_bytes": 1}
        names = [one["name"] for one in template["spec"]["containers"][0]["env"]]
        assert len(names) == len(set(names))


def test_another_port_or_none_is_probed_as_it_is() -> None:
    documents = rendered("settings.HTTP__PORT=9000", "podMonitor.enabled=true")
    container = kind(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    assert container["ports"] == [{"name": "http", "containerPort": 9000}]
    assert kind(documents, "Service")["spec"]["ports"][0]["port"] == 9000
    documents = rendered("settings.HTTP__PORT=", "podMonitor.enabled=true")
    container = kind(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    assert not {"ports", "livenessProbe", "readinessProbe", "startupProbe"} & set(container)
    assert not {"Service", "PodMonitor"} & {one["kind"] for one in documents}
    assert "ingress" not in kind(documents, "NetworkPolicy")["spec"]


def test_each_release_is_a_group_of_its_own_unless_one_is_named() -> None:
    for settings, group in (((), "default-fc"), (("settings.KAFKA__GROUP_ID=pumps",), "pumps")):
        documents = rendered(*settings)
        for name in ("StatefulSet", "Deployment"):
            assert environment(kind(documents, name)["spec"]["template"])["FORECASTER_KAFKA__GROUP_ID"] == group


@pytest.mark.parametrize(
    "settings",
    [
        ("settings.NETWORK__CHECKPOINT=/model",),
        ("settings.TRAINING__SCHEDULE=off", "settings.TRAINING__READOUT_SCHEDULE=off"),
    ],
)
def test_where_nobody_trains_there_is_no_trainer(settings: tuple[str, ...]) -> None:
    documents = rendered(*settings)
    assert not [one for one in documents if one["kind"] == "Deployment"]
    assert environment(kind(documents, "StatefulSet")["spec"]["template"])["FORECASTER_ROLE"] == "worker"


def test_more_volumes_are_mounted(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    volume = {"name": "model", "configMap": {"name": "model"}}
    mount = {"name": "model", "mountPath": "/model", "readOnly": True}
    values.write_text(yaml.safe_dump({"extraVolumes": [volume], "extraVolumeMounts": [mount], "secret": "kafka"}))
    documents = rendered(files=[values])
    for name in ("StatefulSet", "Deployment"):
        pod = kind(documents, name)["spec"]["template"]["spec"]
        assert volume in pod["volumes"]
        assert mount in pod["containers"][0]["volumeMounts"]


@pytest.mark.parametrize("name", ["ROLE", "KAFKA__INSTANCE_ID", "CACHE__DIRECTORY"])
def test_what_the_chart_sets_cannot_be_set_beside_it(name: str) -> None:
    options = [part for value in (*REQUIRED, f"settings.{name}=x") for part in ("--set", value)]
    assert f"settings.{name}" in run("helm", "template", "fc", str(CHART), *options, fails=True)


@pytest.mark.parametrize(
    "wrong",
    ["replicaCount=2", "trainer.enable=false", "keda.minReplica=1", "settings.log__format=json", "replicas=two"],
)
def test_a_value_that_is_misspelt_or_of_the_wrong_kind_is_refused(wrong: str) -> None:
    options = [part for value in (*REQUIRED, wrong) for part in ("--set", value)]
    said = run("helm", "template", "fc", str(CHART), *options, fails=True)
    assert wrong.split("=")[0].rsplit(".", 1)[-1] in said


def test_nobody_outside_of_the_namespace_may_ask() -> None:
    rules = kind(rendered(), "NetworkPolicy")["spec"]["ingress"]
    assert rules == [{"ports": [{"port": "http"}], "from": [{"podSelector": {}}]}]


def test_what_is_required_is_asked_for() -> None:
    said = run("helm", "template", "fc", str(CHART), "--set", REQUIRED[0], fails=True)
    assert "settings.TOPICS__INPUT is required" in said


def test_prometheus_takes_rules_and_configuration() -> None:
    run("promtool", "check", "rules", "--lint=all", "--lint-fatal", str(DEPLOY / "prometheus" / "alerts.yml"))
    run("promtool", "check", "config", "--lint=all", "--lint-fatal", str(DEPLOY / "prometheus" / "prometheus.yml"))
