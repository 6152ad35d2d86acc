"""Sealed payloads in the chart: those who read them have the keys, and nobody else does."""

import pytest

from holdfast.kit.settings import load
from holdfast.runner.settings import RunnerSettings
from tests.deploy.chart import HelmError, rendered, template, variables

KEYS = 'payloads={"existingSecret": "payloads"}'
BOTH = 'payloads={"existingSecret": "payloads", "console": true}'


def holders(*sets: str) -> set[str]:
    """Return the containers that have the keys: mounted, and told where."""
    found = set()
    for name, container in rendered("console", *sets).containers().items():
        mounted = {each["name"]: each["mountPath"] for each in container.get("volumeMounts", ())}
        told = variables(container).get("HOLDFAST_PAYLOAD_KEYS_FILE")
        assert ("payloads" in mounted) == (told is not None)
        if told is not None:
            assert str(told) == f"{mounted['payloads']}/payload-keys"
            found.add(name.rpartition("/")[2])
    return found


def test_the_runners_have_the_keys_and_the_console_where_that_is_wanted() -> None:
    assert holders() == set()
    assert holders(KEYS) == {"runner"}
    assert holders(BOTH) == {"runner", "console"}
    (edge,) = (one for name, one in rendered("edge", KEYS).containers().items() if name.endswith("/edge"))
    assert variables(edge)["HOLDFAST_PAYLOAD_KEYS_FILE"] == "/etc/holdfast/payloads/payload-keys"
    assert "payloads" in {each["name"] for each in edge["volumeMounts"]}
    pods = rendered("console", KEYS).pods()
    having = [name for name, pod in pods.items() if "payloads" in str(pod["spec"].get("volumes"))]
    assert having == ["hf-holdfast-runner-main"]


def test_a_runner_starts_with_what_it_is_told() -> None:
    container = rendered("console", KEYS).containers()["hf-holdfast-runner-main/runner"]
    settings = load(RunnerSettings, {key: str(value) for key, value in variables(container).items()})
    assert str(settings.payload_keys_file) == "/etc/holdfast/payloads/payload-keys"


def test_the_file_is_the_charts_to_name() -> None:
    with pytest.raises(HelmError, match="HOLDFAST_PAYLOAD_KEYS_FILE, which the chart sets itself"):
        template("console", 'runner.env={"HOLDFAST_PAYLOAD_KEYS_FILE": "/a"}')
