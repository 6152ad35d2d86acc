"""Makes a cluster once: UTF-8, checksummed, open to its own unix socket alone."""

import asyncio
import hashlib
import logging
import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

from holdfast.embedded.binaries import Binaries
from holdfast.embedded.directory import DataDirectory
from holdfast.embedded.error import EmbeddedError, StartError
from holdfast.embedded.process import launch

_log = logging.getLogger(__name__)

MAJOR = "18"
SUPERUSER = "postgres"

_INITDB = (
    f"--username={SUPERUSER}",
    "--encoding=UTF8",
    # PostgreSQL's own C.UTF-8: the same order on every machine, whatever locales are installed.
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    # Who may open the socket is decided by the mode of its folder; nothing listens on a network.
    "--auth-local=trust",
    "--auth-host=reject",
    "--no-instructions",
)


async def ensure_cluster(binaries: Binaries, directory: DataDirectory) -> None:
    """Make the cluster unless it is there.

    Repeatable; a crash in the middle leaves a folder that the next call removes. Raises `EmbeddedError` when
    the cluster is of another major version, `StartError` when PostgreSQL's initdb fails.
    """
    if directory.cluster.is_dir():
        major = (directory.cluster / "PG_VERSION").read_text().strip()
        if major != MAJOR:
            raise EmbeddedError(
                f"{directory.path} holds data of PostgreSQL {major}; this is PostgreSQL {MAJOR}."
            )
        return
    fresh = directory.path / "cluster.new"
    if fresh.is_dir():
        await asyncio.to_thread(shutil.rmtree, fresh)
    if directory.ephemeral:
        await _copy_of_template(binaries, directory, fresh)
    else:
        await _initdb(binaries, directory, fresh)
    fresh.rename(directory.cluster)
    _sync(directory.path)


async def _initdb(binaries: Binaries, directory: DataDirectory, target: Path, *options: str) -> None:
    command = [str(binaries.initdb), f"--pgdata={target}", *_INITDB, *options]
    process = await launch(command, directory, death_signal=signal.SIGTERM)
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    if code != 0:
        raise StartError(f"initdb ended with code {code}:", directory.log_tail())


async def _copy_of_template(binaries: Binaries, directory: DataDirectory, target: Path) -> None:
    """Copy a cluster made earlier, which is ten times faster; the copy need not survive the machine."""
    template = _template_folder(binaries)
    if template.is_dir():
        await asyncio.to_thread(shutil.copytree, template, target)
        await asyncio.to_thread(directory.account.own_tree, target)
        return
    await _initdb(binaries, directory, target, "--no-sync")
    try:
        await asyncio.to_thread(_keep_as_template, target, template)
    except OSError as error:
        _log.info("no template of the cluster is kept: %s", error)


def _template_folder(binaries: Binaries) -> Path:
    digest = hashlib.sha256(" ".join(_INITDB).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "holdfast" / f"cluster-{binaries.release}-{digest}"


def _keep_as_template(cluster: Path, template: Path) -> None:
    template.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=template.parent))
    try:
        shutil.copytree(cluster, fresh, dirs_exist_ok=True)
        fresh.rename(template)  # fails when another process was first, whose template is as good
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
