"""Temporary data directories: gone when their server stops, or at the next start if their parent was killed.

A directory is locked while it bears its name; before that, and while it is removed, it bears a hidden one.
So a named directory whose lock is free belongs to nobody any more.
"""

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from holdfast.embedded.account import Account
from holdfast.embedded.error import EmbeddedError
from holdfast.embedded.lock import take_abandoned, take_lock
from holdfast.embedded.socket import socket_folder

_HIDDEN_FOR_LONG_S = 60.0


def make_ephemeral(account: Account) -> tuple[Path, int]:
    """Make a temporary data directory for `account`, and return it with the descriptor of its lock."""
    for folder in _places():
        if account.can_reach(folder / "any"):
            _remove_abandoned(folder, account)
            hidden = Path(tempfile.mkdtemp(prefix=_hidden(), dir=folder))
            account.own(hidden)
            lock = take_lock(hidden)
            return hidden.rename(folder / hidden.name.removeprefix(".")), lock
    raise EmbeddedError(f"The account PostgreSQL runs as (uid {account.uid}) can reach no temporary folder.")


def remove_ephemeral(directory: Path) -> None:
    """Remove a directory whose lock we hold, and its socket's folder."""
    # Hidden first: half removed, it may have lost its lock file.
    hidden = directory.rename(directory.with_name(f".{directory.name}"))
    for folder in (hidden, socket_folder(directory)):
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def _places() -> Iterator[Path]:
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 — names in it are random
        folder = Path(place).resolve()
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            yield folder


def _hidden() -> str:
    return f".holdfast-ephemeral-{os.geteuid()}-"


def _remove_abandoned(folder: Path, account: Account) -> None:
    for path in folder.glob(f"{_hidden().removeprefix('.')}*"):
        if _is_ours(path, account) and (lock := take_abandoned(path)) is not None:
            with suppress(FileNotFoundError):  # another start removes it at the same time
                remove_ephemeral(path)
            os.close(lock)
    for path in folder.glob(f"{_hidden()}*"):
        with suppress(FileNotFoundError):  # it is being removed
            if _is_ours(path, account) and time.time() - path.lstat().st_mtime > _HIDDEN_FOR_LONG_S:
                shutil.rmtree(path)


def _is_ours(path: Path, account: Account) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid in (os.geteuid(), account.uid)
