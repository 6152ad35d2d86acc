"""The images, built as their Dockerfiles say: what they hold, and as whom and where they run."""

import json
import sys

import pytest

from tests.engine import image
from tests.engine.engine import needs_engine, podman

pytestmark = [needs_engine, pytest.mark.timeout(600)]
SERVICES = ("invoker", "checkpoint", "approval", "dispatcher", "runner", "console", "edge")
TOLD = {
    "HOLDFAST_DATABASE_URL": "postgresql://nobody@db/holdfast",
    "HOLDFAST_AGENTS": "hello:app",
    "HOLDFAST_SOURCES_FILE": "/tmp/none",
}
CONFINED = ("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--network=none")
MOST_MB = 200
TOOLS = ("pip", "pip3", "cc", "gcc", "g++", "clang", "ld", "make", "go", "cargo", "uv")


def run(tag: str, *arguments: str, entrypoint: str = "holdfast", more: tuple[str, ...] = ()) -> str:
    """Run a container as confined as the chart's, but for a place to write to."""
    variables = [part for name, value in TOLD.items() for part in ("--env", f"{name}={value}")]
    return podman("run", "--rm", *CONFINED, *more, *variables, f"--entrypoint={entrypoint}", tag, *arguments)


def python(tag: str, code: str) -> str:
    """Return what some code prints in a container."""
    return run(tag, "-c", code, entrypoint="python")


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_a_command_of_the_image_where_nothing_can_be_written(
    holdfast: str, service: str
) -> None:
    shown = json.loads(run(holdfast, "serve", service, "--print-config"))
    assert shown["HOLDFAST_LISTEN"]


def test_it_is_not_root_and_owns_nothing(holdfast: str) -> None:
    code = """
import os, json
places = ("/", "/opt/holdfast", "/opt/holdfast/bin", "/agents", "/usr", "/etc")
print(json.dumps([os.getuid(), os.getgid(), [each for each in places if os.access(each, os.W_OK)]]))
"""
    where_nothing_is_read_only = podman(
        "run", "--rm", "--network=none", "--entrypoint=python", holdfast, "-c", code
    )
    assert json.loads(where_nothing_is_read_only) == [10001, 10001, []]


def test_nothing_in_it_installs_or_compiles(holdfast: str) -> None:
    code = f"""
import importlib.util, json, shutil
print(json.dumps([each for each in {TOOLS!r} if shutil.which(each)]))
print(json.dumps(importlib.util.find_spec("pip") is None))
"""
    assert python(holdfast, code).splitlines() == ["[]", "true"]


def test_it_adds_little_to_its_base(base: str, holdfast: str, capsys: pytest.CaptureFixture[str]) -> None:
    below, whole = (int(podman("inspect", "--format={{.Size}}", each)) // 10**6 for each in (base, holdfast))
    with capsys.disabled():
        sys.stdout.write(f"\nthe image is of {whole} MB, {below} of them its base\n")
    assert whole - below < MOST_MB


def test_agents_are_added_and_found(holdfast: str) -> None:
    tag = image.agents("holdfast-hello", image.ROOT / "examples")
    assert python(tag, "import hello; print(hello.app.name)") == "hello"
    assert json.loads(run(tag, "serve", "runner", "--print-config"))["HOLDFAST_AGENTS"] == ["hello:app"]
    assert podman("inspect", "--format={{.Config.User}}", tag) == "10001:10001"
    assert holdfast == image.HOLDFAST  # what it begins with
