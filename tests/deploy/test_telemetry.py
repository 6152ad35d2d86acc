"""The dashboard and the alerts ask for what the services show, and each alert says what to do."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from holdfast.approval.metrics import ApprovalMetrics
from holdfast.checkpoint.metrics import CheckpointMetrics
from holdfast.dispatcher.metrics import DispatcherMetrics
from holdfast.invoker.metrics import InvokerMetrics
from holdfast.kit.telemetry.metrics import Metrics
from holdfast.runner.metrics import RunnerMetrics
from tests.deploy.chart import CHART, decoded, rendered, variables
from tests.deploy.test_network import policies

DOCS = CHART.parents[2] / "docs/operating.md"
OF_SCRAPES = {"instance", "pod", "job", "le"}
OF_PROCESSES = {"process_cpu_seconds_total", "process_resident_memory_bytes"}


def registries() -> Iterator[CollectorRegistry]:
    """Return what each service shows before anything has happened."""
    for make in (InvokerMetrics, CheckpointMetrics, RunnerMetrics, ApprovalMetrics, DispatcherMetrics):
        metrics = Metrics("test")
        made: Any = make(metrics.registry)
        if isinstance(made, InvokerMetrics):
            made.watch_board(int, int)
        elif isinstance(made, RunnerMetrics):
            made.holds((), int)
        elif isinstance(made, CheckpointMetrics):
            made.waits(int)
        elif isinstance(made, DispatcherMetrics):
            made.watch(())
        yield metrics.registry


def shown() -> dict[str, set[str]]:
    """Return the names that services show, each with its labels."""
    names: dict[str, set[str]] = {}
    for registry in registries():
        _add(names, registry)
    return names | {"holdfast_db_pool_used": set(), "holdfast_db_pool_size": set()}


def _add(names: dict[str, set[str]], registry: CollectorRegistry) -> None:
    for collector in list(registry._collector_to_names):
        labels = set(getattr(collector, "_labelnames", ()))
        for name in registry._collector_to_names[collector]:
            names[name] = labels


def alerts() -> list[dict[str, Any]]:
    (file,) = decoded((CHART / "files/alerts.yaml").read_text("utf-8"))
    return [rule for group in file["groups"] for rule in group["rules"]]


def queries() -> Iterator[str]:
    for panel in json.loads((CHART / "files/dashboard.json").read_text("utf-8"))["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def asked(query: str) -> set[str]:
    return set(re.findall(r"\b(?:holdfast|process)_[a-z_]+\b", query))


def test_every_metric_that_is_asked_for_is_shown_and_every_one_shown_is_asked_for() -> None:
    known = set(shown())
    wanted = {name for query in (*queries(), *(rule["expr"] for rule in alerts())) for name in asked(query)}
    assert wanted - known - OF_PROCESSES == set()
    families = {re.sub(r"_(bucket|count|sum|total|created)$", "", name) for name in known}
    ours = {name for name in families if name.startswith("holdfast_")}
    assert ours - {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in wanted} == set()


def test_every_label_that_is_asked_for_is_one_of_the_metrics() -> None:
    labels = shown()
    for query in (*queries(), *(rule["expr"] for rule in alerts())):
        grouped = {
            label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")
        }
        matched = set(re.findall(r"[{,]\s*(\w+)\s*[=!]~?", query))
        of = set().union(*(labels.get(name, set()) for name in asked(query)))
        assert (grouped | matched) - OF_SCRAPES - of - {"service"} == set(), query


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    headings = set(re.findall(r"^### (Holdfast\w+)$", DOCS.read_text("utf-8"), re.MULTILINE))
    assert headings == {rule["alert"] for rule in alerts()}


def test_the_chart_makes_of_them_what_operators_install() -> None:
    manifests = rendered("full")
    (rules,) = manifests.of("PrometheusRule").values()
    made = [rule for group in rules["spec"]["groups"] for rule in group["rules"]]
    assert [rule["expr"] for rule in made] == [rule["expr"] for rule in alerts()]
    for rule in made:
        assert rule["annotations"]["runbook_url"] == f"https://example.com/operating#{rule['alert'].lower()}"
    assert rules["metadata"]["labels"]["release"] == "prometheus"
    dashboard = manifests.of("ConfigMap")["hf-dashboard"]["data"]["holdfast.json"]
    assert json.loads(dashboard)["uid"] == "holdfast"


@pytest.mark.parametrize("values", ["minimal", "full", "pools", "console"])
def test_prometheus_is_led_to_every_container_and_let_through_to_it(values: str) -> None:
    manifests = rendered(values, "telemetry.serviceMonitor.enabled=true")
    containers = {
        name: {port["name"]: port["containerPort"] for port in one.get("ports", ())}
        for name, one in manifests.containers().items()
    }
    monitored: set[tuple[str, str]] = set()
    for name, service in manifests.of("Service").items():
        deployment = manifests.of("Deployment")[name]
        assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
        for port in service["spec"]["ports"]:
            if port["name"].startswith("metrics"):
                monitored |= {
                    (one, port["name"])
                    for one, ports in containers.items()
                    if one.startswith(f"{name}/") and ports.get(port["targetPort"]) == port["port"]
                }
    served = {
        (one, port) for one, ports in containers.items() for port in ports if port.startswith("metrics")
    }
    assert monitored == served
    assert len(served) >= 5
    monitors = manifests.of("ServiceMonitor")
    for name, monitor in monitors.items():
        ports = {port["name"] for port in manifests.of("Service")[name]["spec"]["ports"]} - {"grpc"}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} == ports
    assert {one.partition("/")[0] for one, _ in served} == set(monitors)


@pytest.mark.parametrize("values", ["full", "console", "edge"])
def test_who_is_told_where_traces_go_is_let_through_to_there(values: str) -> None:
    there = {"to": [{"ipBlock": {"cidr": "10.9.8.7/32"}}]}
    manifests = rendered(
        values,
        'telemetry.traces.endpoint="http://collector:4317"',
        f"telemetry.traces.egress={json.dumps([there])}",
    )
    told = set()
    for name, container in manifests.containers().items():
        if "OTEL_EXPORTER_OTLP_ENDPOINT" in variables(container):
            labels = manifests.pods()[name.partition("/")[0]]["metadata"]["labels"]
            told.add(labels["app.kubernetes.io/component"])
    through = {
        of for of, specs in policies(manifests).items() for spec in specs if there in spec.get("egress", ())
    }
    assert told == through
    assert {"invoker", "checkpoint", "approval", "runner"} <= told
