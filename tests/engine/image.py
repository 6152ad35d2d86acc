"""The images as their Dockerfiles say, on a base that takes no registry: one of this machine's own Debian."""

import ast
import fcntl
import hashlib
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.engine.engine import EngineError, exists, podman

ROOT: Final = Path(__file__).parents[2]
DOCKER: Final = ROOT / "deploy/docker"
HOLDFAST: Final = "localhost/holdfast:0.1.0"
"""What `agents.Dockerfile` begins with."""
_PACKAGES: Final = "python3,python3-venv,ca-certificates"
_APT: Final = Path("/etc/apt")
_SOURCES: Final = ("sources.list.d/debian.sources", "sources.list.d/ubuntu.sources", "sources.list")
_AWAY: Final = re.compile(
    "Temporary failure|Could not (resolve|connect)|Connection failed|Failed to fetch"
    "|NewConnectionError|NameResolutionError|ConnectTimeoutError"
)


def base() -> str:
    """Return an image with glibc, Python and nothing of ours, made once for the same recipe."""
    sources = next(_APT / each for each in _SOURCES if (_APT / each).exists())
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    recipe = ("--variant=minbase", f"--include={_PACKAGES}", release)
    digest = hashlib.sha256(repr((recipe, sources.read_text())).encode()).hexdigest()
    tag = f"localhost/holdfast-base:{digest[:12]}"
    with _alone():
        if not exists(tag):
            _make(tag, [*recipe, "-", str(sources)])
    _ensure_it_runs(tag)
    return tag


def _make(tag: str, recipe: list[str]) -> None:
    with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
        done = subprocess.run(["mmdebstrap", *recipe], stdout=archive, stderr=subprocess.PIPE, check=False)
        told = done.stderr.decode()
        if _AWAY.search(told):
            pytest.skip(f"no mirror of packages can be reached from here for a base: {told[-300:]}")
        assert done.returncode == 0, told
        podman("import", archive.name, tag)


def _ensure_it_runs(tag: str) -> None:
    try:
        podman("run", "--rm", "--network", "none", tag, "true")
    except EngineError as error:
        pytest.skip(f"podman is here, and this machine lets it run no container: {error}")


def holdfast(base: str) -> str:
    """Build the image of all services on a base; what has not changed is taken from podman's cache."""
    _build(HOLDFAST, DOCKER / "Dockerfile", ROOT, "--build-arg", f"BASE={base}")
    return HOLDFAST


def agents(name: str, context: Path) -> str:
    """Build an image with agents, the `hello.py` of a folder, on the one of all services."""
    tag = f"localhost/{name}:0.1.0"
    _build(tag, DOCKER / "agents.Dockerfile", context)
    return tag


def _build(tag: str, file: Path, context: Path, *options: str) -> None:
    """Build with this machine's network, and tell pip what it was told here; nothing of it stays."""
    with _alone(), tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "pip.conf")
        told = _pip_config()
        config.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in told.items())]))
        shown = {config: "/etc/pip.conf"} | {path: str(path) for path in _files(told.values())}
        volumes = [part for path, there in shown.items() for part in ("--volume", f"{path}:{there}:ro")]
        try:
            podman("build", "--network", "host", *volumes, *options, "--tag", tag, "--file", file, context)
        except EngineError as error:
            if _AWAY.search(str(error)):
                pytest.skip(f"no package index can be reached from here: {str(error)[-300:]}")
            raise


def _pip_config() -> dict[str, str]:
    arguments = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    lines = (line.partition("=") for line in done.stdout.splitlines())
    return {name.rpartition(".")[2]: str(ast.literal_eval(value)) for name, _, value in lines}


def _files(values: Iterable[str]) -> list[Path]:
    words = (word for value in values for word in value.split())
    return [Path(word) for word in words if word.startswith("/") and Path(word).exists()]


@contextmanager
def _alone() -> Iterator[None]:
    """Hold back other processes that would build the same."""
    with Path(tempfile.gettempdir(), "holdfast-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
