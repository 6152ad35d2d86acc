"""The lock of a data directory: free only when no process of its former server is left.

It is a flock on the file `lock`, whose content is the parent's pid. PostgreSQL and its children inherit the
open file and with it the lock, so it outlives a killed parent for as long as any of them lives.
"""

import fcntl
import os
import time
from pathlib import Path

from holdfast.embedded.error import DirectoryInUseError
from holdfast.embedded.leftover import is_alive, kill_leftovers

_PATIENCE_S = 15.0
_LAST_ORDERS_S = 6.0  # told to quit, PostgreSQL itself kills its children after five seconds


def take_lock(directory: Path) -> int:
    """Take the lock and return its descriptor; closing it in every process frees it.

    When the parent that had it is dead, waits for the last processes of its server, and ends what is deaf.
    Raises `DirectoryInUseError` when the parent lives.
    """
    descriptor = _open(directory, os.O_CREAT)
    try:
        _wait_for(descriptor, directory)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def take_abandoned(directory: Path) -> int | None:
    """Take the lock if it exists and is free; returns None if not, and never waits."""
    try:
        descriptor = _open(directory)
    except OSError:
        return None
    if _try(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _open(directory: Path, flags: int = 0) -> int:
    # No links: as root we must not write to what the directory's owner made of it.
    return os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)


def _wait_for(descriptor: int, directory: Path) -> None:
    start = time.monotonic()
    while not _try(descriptor):
        owner = int(os.pread(descriptor, 32, 0) or b"0")
        waited = time.monotonic() - start
        if is_alive(owner) or waited >= _PATIENCE_S:
            raise DirectoryInUseError(directory, owner)
        # The parent is dead, and the server was told. Its sessions it ends itself, unless it was killed too.
        if waited >= _LAST_ORDERS_S or not is_alive(_server_pid(directory / "cluster")):
            kill_leftovers(directory / "cluster")
        time.sleep(0.02)


def _server_pid(cluster: Path) -> int:
    """Return the pid PostgreSQL wrote down, 0 if there is none."""
    try:
        return int((cluster / "postmaster.pid").read_text().partition("\n")[0] or "0")
    except FileNotFoundError:
        return 0


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
