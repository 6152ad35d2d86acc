"""The values, their schema, and the settings of the services say the same."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from holdfast.approval.settings import ApprovalSettings
from holdfast.checkpoint.settings import CheckpointSettings
from holdfast.dispatcher.settings import DispatcherSettings
from holdfast.invoker.settings import InvokerSettings
from holdfast.kit.settings import load, variable
from holdfast.runner.settings import RunnerSettings
from tests.deploy.chart import CHART, Manifests, decoded, rendered, template, variables

SETTINGS: dict[str, type] = {
    "invoker": InvokerSettings,
    "checkpoint": CheckpointSettings,
    "approval": ApprovalSettings,
    "dispatcher": DispatcherSettings,
    "runner": RunnerSettings,
}
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text("utf-8"))


def test_every_value_has_a_comment() -> None:
    lines = (CHART / "values.yaml").read_text("utf-8").splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"\s*(- )?\w+:", line) and not before.lstrip().startswith("#") and " # " not in line
    ]
    assert not bare


def test_the_schema_knows_every_value_and_no_value_that_is_not_written_down() -> None:
    (values,) = decoded((CHART / "values.yaml").read_text("utf-8"))
    assert set(values) == set(SCHEMA["properties"]) - {"global"}
    common = set(values["defaults"])
    of_edge = (common | set(values["edge"])) - {"autoscaling"}
    of_runners = set(values["runner"]) - common - {"pools"}
    of_dispatchers = set(values["dispatcher"]) - common
    of_console = set(values["console"]) - common
    expected = {
        "defaults": common,
        "invoker": common | {"batchSources"},
        "dispatcher": common | of_dispatchers,
        "console": common | of_console,
        "runner": common | of_runners | {"pools"},
        "pool": common | of_runners | {"agents"},
        "edge": of_edge,
    }
    for name, keys in expected.items():
        assert set(_properties(name)) == keys, name
    for name in (
        "image",
        "database",
        "migration",
        "networkPolicy",
        "gateway",
        "identity",
        "tls",
        "telemetry",
    ):
        assert set(_properties(name)) == set(values[name]), name


def test_the_values_in_the_guide_are_accepted(tmp_path: Path) -> None:
    guide = (CHART.parents[2] / "docs/operating.md").read_text("utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "guide.yaml").write_text(text)
    manifests = Manifests(decoded(template(tmp_path / "guide.yaml")))
    assert manifests.containers()["hf-holdfast-runner-support/runner"]["image"] == "support:7"


def test_no_value_holds_a_password() -> None:
    (values,) = decoded((CHART / "values.yaml").read_text("utf-8"))
    assert values["database"]["existingSecret"] == ""
    assert "://" not in json.dumps(values)


@pytest.mark.parametrize("values", ["minimal", "full", "pools", "identity"])
def test_a_service_starts_with_what_the_chart_tells_it(values: str) -> None:
    for name, container in rendered(values).containers().items():
        if (settings := SETTINGS.get(name.partition("/")[2])) is None:
            continue
        told = {key: str(value) for key, value in variables(container).items()}
        load(settings, told)
        known = {variable(field) for field in dataclasses.fields(settings)}
        assert {key for key in told if key.startswith("HOLDFAST_")} <= known, name


def test_the_ports_are_those_the_services_have_by_default() -> None:
    for name, container in rendered("minimal").containers().items():
        if (settings := SETTINGS.get(name.partition("/")[2])) is None:
            continue
        (default,) = (one.default for one in dataclasses.fields(settings) if one.name == "listen")
        assert container["ports"][0]["containerPort"] == int(str(default).rpartition(":")[2])


def test_the_chart_and_the_package_have_one_version() -> None:
    (chart,) = decoded((CHART / "Chart.yaml").read_text("utf-8").replace("apiVersion: v2\n", ""))
    project = (CHART.parents[2] / "pyproject.toml").read_text("utf-8")
    assert f'\nversion = "{chart["appVersion"]}"\n' in project


def _properties(name: str) -> dict[str, Any]:
    found = SCHEMA["definitions"].get(name) if name == "pool" else SCHEMA["properties"][name]
    while "$ref" in found:
        found = SCHEMA["definitions"][found["$ref"].rpartition("/")[2]]
    properties: dict[str, Any] = found["properties"]
    return properties
