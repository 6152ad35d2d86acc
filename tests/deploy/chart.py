"""The chart as the real helm renders it, decoded strictly by Kubernetes' own types."""

import functools
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "deploy/helm/holdfast"
VALUES: Final = Path(__file__).parent / "values"
TOOLS: Final = ROOT / ".tools/bin"
KUBERNETES: Final = "1.30.0"
NAMESPACE: Final = "prod"


class HelmError(Exception):
    """What helm said when it refused."""


def helm(*arguments: str | Path) -> str:
    """Run helm and return what it prints. Raises `HelmError`."""
    done = subprocess.run([tool("helm"), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HelmError(done.stderr + done.stdout)
    return done.stdout


def tool(name: str) -> Path:
    """Return a tool's path, or skip the test where it could not be built."""
    path = TOOLS / name
    if not path.exists():
        pytest.skip(f"{name} is not in .tools/bin: 'make chart-tools' builds it where Go is at hand")
    return path


def decoded(text: str) -> list[dict[str, Any]]:
    """Return YAML documents as JSON; a manifest with a field that Kubernetes does not know fails the test."""
    done = subprocess.run([tool("manifests")], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def template(values: str | Path, *sets: str, kubernetes: str = KUBERNETES, chart: Path = CHART) -> str:
    """Render the chart with a file of values (by name, or any) and some more, as YAML."""
    more = [part for each in sets for part in ("--set-json", each)]
    file = values if isinstance(values, Path) else VALUES / f"{values}.yaml"
    place = ("--namespace", NAMESPACE, "--kube-version", kubernetes)
    return helm("template", "hf", chart, *place, "--values", file, *more)


@dataclass(frozen=True, slots=True)
class Manifests:
    """What a rendering consists of."""

    all: Sequence[dict[str, Any]]

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the manifests of a kind by name."""
        return {one["metadata"]["name"]: one for one in self.all if one["kind"] == kind}

    def pods(self) -> dict[str, dict[str, Any]]:
        """Return every pod there would be, by the name of what makes it: `metadata` and `spec`."""
        made = self.of("Deployment") | self.of("Job")
        return {name: one["spec"]["template"] for name, one in made.items()} | self.of("Pod")

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return every container, sidecars too, by `pod/container`."""
        return {
            f"{name}/{one['name']}": one
            for name, pod in self.pods().items()
            for one in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
        }


@functools.cache
def rendered(values: str, *sets: str, kubernetes: str = KUBERNETES) -> Manifests:
    """Render the chart and decode it; made once for the same arguments."""
    return Manifests(decoded(template(values, *sets, kubernetes=kubernetes)))


def variables(container: dict[str, Any]) -> dict[str, Any]:
    """Return a container's environment: by name the value, or where it comes from."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", ())}
