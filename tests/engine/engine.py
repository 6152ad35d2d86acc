"""A container engine: podman as Debian has it, told what holds on machines that forbid more than most."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

PROGRAMS: Final = ("podman", "runc", "catatonit", "mmdebstrap", "iptables")
_CONFIG: Final = """\
[containers]
default_ulimits = [] # those of this process: not everybody may raise them
[network]
network_backend = "netavark"
[engine]
runtime = "runc" # crun refuses machines with both versions of cgroups
"""


def _missing() -> str:
    """Say why there is no engine here; empty if there is one."""
    absent = [each for each in PROGRAMS if shutil.which(each) is None]
    if absent:
        return f"there is no {', '.join(absent)}: 'make engine' installs them where apt can"
    return "" if os.geteuid() == 0 else "containers with addresses of their own take root"


MISSING: Final = _missing()
needs_engine: Final = pytest.mark.skipif(bool(MISSING), reason=MISSING)


class EngineError(Exception):
    """What podman said when it failed."""


def podman(*arguments: str | Path, given: str | None = None) -> str:
    """Run podman and return what it prints. Raises `EngineError`."""
    return _run(arguments, given).stdout.strip()


def exists(image: str) -> bool:
    """Tell whether an image is here."""
    return bool(podman("images", "--quiet", "--filter", f"reference={image}"))


def logs(container: str) -> str:
    """Return all that a container has said. Raises `EngineError`."""
    done = _run(("logs", container), None)
    return done.stdout + done.stderr


def _run(arguments: Sequence[str | Path], given: str | None) -> "subprocess.CompletedProcess[str]":
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        config.write(_CONFIG)
        config.flush()
        done = subprocess.run(
            ["podman", *arguments],
            input=given,
            env={**os.environ, "CONTAINERS_CONF": config.name},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise EngineError(f"podman {' '.join(map(str, arguments))}: {done.stderr}{done.stdout}")
    return done
