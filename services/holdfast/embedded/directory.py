"""A data directory belongs to one server at a time, and is never taken from someone else.

Layout, all of it owned by the account PostgreSQL runs as, mode 0700:

    lock            see `holdfast.embedded.lock`
    cluster/        PostgreSQL's own data directory
    postgres.log    its log, with one older generation
    run/            the unix socket, unless the path is too long for one
"""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from holdfast.embedded.account import Account
from holdfast.embedded.ephemeral import make_ephemeral, remove_ephemeral
from holdfast.embedded.error import EmbeddedError
from holdfast.embedded.leftover import kill_leftovers
from holdfast.embedded.lock import take_lock
from holdfast.embedded.socket import private_folder, socket_folder

_LOG_LIMIT = 16 * 1024 * 1024
_LOG_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True)
class DataDirectory:
    """A locked data directory; `release` gives it back."""

    path: Path
    account: Account
    lock: int
    ephemeral: bool

    @property
    def cluster(self) -> Path:
        """PostgreSQL's own data directory."""
        return self.path / "cluster"

    @property
    def log(self) -> Path:
        """PostgreSQL's log."""
        return self.path / "postgres.log"

    @property
    def sockets(self) -> Path:
        """The folder of the unix socket."""
        return socket_folder(self.path)

    def clear_the_way(self) -> None:
        """Remove what a killed server leaves, so that the next can start; repeatable.

        We hold the lock, so nothing of it may live or claim the directory. PostgreSQL would judge its old pid
        files by the pid alone, which another process may have by now.
        """
        kill_leftovers(self.cluster)
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)
        private_folder(self.sockets, self.account)
        for left in self.sockets.iterdir():
            left.unlink()
        with suppress(FileNotFoundError):
            if self.log.stat().st_size > _LOG_LIMIT:
                self.log.replace(self.log.with_suffix(".log.old"))

    def open_log(self) -> IO[bytes]:
        """Open the log to append to it, as the account's file."""
        log = os.fdopen(os.open(self.log, _LOG_FLAGS, 0o600), "ab")
        if not self.account.is_ours:
            os.fchown(log.fileno(), self.account.uid, self.account.gid)
        return log

    def log_tail(self, lines: int = 12) -> str:
        """Return the last lines of the log, empty if there is none."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def release(self) -> None:
        """Remove the socket's folder, remove the directory if it is ephemeral, and unlock it."""
        try:
            if self.ephemeral:
                remove_ephemeral(self.path)
            else:
                with suppress(FileNotFoundError):
                    shutil.rmtree(self.sockets)
        finally:
            os.close(self.lock)


def open_ephemeral(account: Account) -> DataDirectory:
    """Make a data directory that `release` removes."""
    path, lock = make_ephemeral(account)
    return DataDirectory(path, account, lock, ephemeral=True)


def open_persistent(path: Path, account: Account) -> DataDirectory:
    """Lock the data directory at `path`, making it if it is not there.

    Raises `DirectoryInUseError` when a living process holds it, `EmbeddedError` when the account cannot reach
    it or when it holds files that are none of ours.
    """
    path = path.resolve()
    _demand_reachable(path, account)
    if path.exists() and not path.is_dir():
        raise EmbeddedError(f"The data directory {path} is not a directory.")
    if path.is_dir() and any(path.iterdir()) and not (path / "lock").exists():
        raise EmbeddedError(f"The directory {path} is not empty and holds no Holdfast data.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _demand_reachable(path, account)  # a strict umask closes the folders just made
        private_folder(path, account)
        lock = take_lock(path)
    except OSError as error:
        raise EmbeddedError(f"The data directory {path} cannot be made: {error.strerror}.") from error
    return DataDirectory(path, account, lock, ephemeral=False)


def _demand_reachable(path: Path, account: Account) -> None:
    if barrier := account.barrier(path):
        raise EmbeddedError(
            f"PostgreSQL cannot run as root, and uid {account.uid}, which it runs as instead, cannot enter"
            f" {barrier}: choose a data directory it can reach, or start as a normal user."
        )
