"""The chart and the alert rules pass helm, the Kubernetes schemas and promtool."""

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
"""Kinds that operators define; Kubernetes has no schema of them."""


def run(*command: str, fails: bool = False) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def rendered(*values: str, files: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """Return the objects that the chart renders with these values, checked against the schemas of Kubernetes."""
    options = [part for value in (*REQUIRED, *values) for part in ("--set", value)]
    options += [part for file in files for part in ("--values", str(file))]
    run("helm", "lint", "--strict", str(CHART), *options)
    done = subprocess.run(
        ["helm", "template", "fc", str(CHART), *options], capture_output=True, text=True, timeout=120, check=True
    )
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    for document in documents:
        if document["kind"] not in OF_OPERATORS:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    return documents


def kind(documents: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (only,) = [document for document in documents if document["kind"] == name]
    return only


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in pod["spec"]["containers"][0]["env"]}


def test_workers_are_static_members_and_the_trainer_is_separate() -> None:
    """The name of the pod is the id of the static member."""
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


def test_every_pod_is_unprivileged_and_probed() -> None:
    """Its root file system is read-only."""
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
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert volumes >= {mount["name"] for mount in container["volumeMounts"]}


def test_without_a_separate_trainer_the_workers_train() -> None:
    documents = rendered("trainer.enabled=false")
    assert not [document for document in documents if document["kind"] == "Deployment"]
    assert environment(kind(documents, "StatefulSet")["spec"]["template"])["FORECASTER_ROLE"] == "both"


def test_keda_scales_the_workers_by_the_lag() -> None:
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


def test_settings_become_variables_of_the_daemon(tmp_path: Path) -> None:
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
        names = [variable["name"] for variable in template["spec"]["containers"][0]["env"]]
        assert len(names) == len(set(names))


def test_probes_follow_the_http_port() -> None:
    """Without a port there are no probes, no service and no pod monitor."""
    documents = rendered("settings.HTTP__PORT=9000", "podMonitor.enabled=true")
    container = kind(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    assert container["ports"] == [
        {"name": "http", "containerPort": 9000},
        {"name": "probes", "containerPort": 8081},
    ]
    assert kind(documents, "Service")["spec"]["ports"][0]["port"] == 9000
    assert kind(documents, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"] == "http"
    documents = rendered("settings.HTTP__PORT=", "podMonitor.enabled=true")
    container = kind(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    assert not {"ports", "livenessProbe", "readinessProbe", "startupProbe"} & set(container)
    assert not {"Service", "PodMonitor"} & {document["kind"] for document in documents}
    assert "ingress" not in kind(documents, "NetworkPolicy")["spec"]


@pytest.mark.parametrize("name", ["StatefulSet", "Deployment"])
def test_probes_go_to_a_port_of_their_own_unless_it_is_empty(name: str) -> None:
    """The policy admits no other pod there: Kubernetes always admits the node."""
    for settings, number, port in (((), "8081", "probes"), (("settings.HTTP__PROBE_PORT=9001",), "9001", "probes")):
        documents = rendered(*settings)
        template = kind(documents, name)["spec"]["template"]
        (container,) = template["spec"]["containers"]
        assert environment(template)["FORECASTER_HTTP__PROBE_PORT"] == number
        assert {"name": "probes", "containerPort": int(number)} in container["ports"]
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            assert container[probe]["httpGet"]["port"] == port
        assert kind(documents, "NetworkPolicy")["spec"]["ingress"][0]["ports"] == [{"port": "http"}]
    documents = rendered("settings.HTTP__PROBE_PORT=")
    (container,) = kind(documents, name)["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": 8080}]
    assert container["livenessProbe"]["httpGet"]["port"] == "http"


def test_probes_and_metrics_can_be_all_that_is_served() -> None:
    documents = rendered("settings.HTTP__PORT=", "settings.HTTP__PROBE_PORT=9001", "podMonitor.enabled=true")
    (container,) = kind(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "probes", "containerPort": 9001}]
    assert container["readinessProbe"]["httpGet"]["port"] == "probes"
    assert kind(documents, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"] == "probes"
    assert kind(documents, "NetworkPolicy")["spec"]["ingress"][0]["ports"] == [{"port": "probes"}]


def test_each_release_has_its_own_group_unless_one_is_named() -> None:
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
def test_without_training_there_is_no_trainer(settings: tuple[str, ...]) -> None:
    documents = rendered(*settings)
    assert not [document for document in documents if document["kind"] == "Deployment"]
    assert environment(kind(documents, "StatefulSet")["spec"]["template"])["FORECASTER_ROLE"] == "worker"


def test_additional_volumes_are_mounted(tmp_path: Path) -> None:
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
def test_settings_that_the_chart_sets_itself_are_refused(name: str) -> None:
    options = [part for value in (*REQUIRED, f"settings.{name}=x") for part in ("--set", value)]
    assert f"settings.{name}" in run("helm", "template", "fc", str(CHART), *options, fails=True)


@pytest.mark.parametrize(
    "wrong",
    ["replicaCount=2", "trainer.enable=false", "keda.minReplica=1", "settings.log__format=json", "replicas=two"],
)
def test_misspelt_and_wrongly_typed_values_are_refused(wrong: str) -> None:
    options = [part for value in (*REQUIRED, wrong) for part in ("--set", value)]
    output = run("helm", "template", "fc", str(CHART), *options, fails=True)
    assert wrong.split("=")[0].rsplit(".", 1)[-1] in output


def test_only_pods_of_the_namespace_may_connect() -> None:
    rules = kind(rendered(), "NetworkPolicy")["spec"]["ingress"]
    assert rules == [{"ports": [{"port": "http"}], "from": [{"podSelector": {}}]}]


def test_a_missing_required_setting_is_named() -> None:
    output = run("helm", "template", "fc", str(CHART), "--set", REQUIRED[0], fails=True)
    assert "settings.TOPICS__INPUT is required" in output


def test_promtool_accepts_rules_and_configuration() -> None:
    run("promtool", "check", "rules", "--lint=all", "--lint-fatal", str(DEPLOY / "prometheus" / "alerts.yml"))
    run("promtool", "check", "config", "--lint=all", "--lint-fatal", str(DEPLOY / "prometheus" / "prometheus.yml"))
