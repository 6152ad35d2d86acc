"""A data directory belongs to one server at a time, and an ephemeral one is gone when its server is.

Layout, all of it owned by the account PostgreSQL runs as, mode 0700:

    lock            flock, held by the parent and by every process of the server; holds the parent's pid
    cluster/        PostgreSQL's own data directory
    postgres.log    its log, with one older generation
    run/            the unix socket, unless the path is too long for one

The lock is inherited by PostgreSQL and its children, so a free lock means that no process of a former server
is left, whatever killed it.
"""

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast.embedded.account import Account
from holdfast.embedded.error import DirectoryInUseError, EmbeddedError
from holdfast.embedded.leftover import is_alive, kill_leftovers

_SOCKET_NAME = ".s.PGSQL.5432"
_SOCKET_LIMIT = 107  # bytes of sun_path, without the closing NUL
_PATIENCE_S = 15.0
_LAST_ORDERS_S = 6.0  # told to quit, PostgreSQL itself kills its children after five seconds
_LOG_LIMIT = 16 * 1024 * 1024


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
        """The folder of the unix socket: within the directory if the path is short enough for one."""
        return socket_folder(self.path)

    def prepare(self) -> None:
        """Make the folder of the socket and keep the log from growing without end; repeatable."""
        _private_folder(self.sockets, self.account)
        with suppress(FileNotFoundError):
            if self.log.stat().st_size > _LOG_LIMIT:
                self.log.replace(self.log.with_suffix(".log.old"))

    def log_tail(self, lines: int = 12) -> str:
        """Return the last lines of the log, empty if there is none."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def release(self) -> None:
        """Remove the socket's folder, remove the directory if it is ephemeral, and unlock it."""
        if self.ephemeral:
            with _exclusive(self.path.parent):  # or a starting server would look into half of it
                _remove(self.path, self.sockets)
        else:
            _remove(self.sockets)
        os.close(self.lock)


def socket_folder(directory: Path) -> Path:
    """Return where the server in `directory` has its socket, always the same for the same directory."""
    inside = directory / "run"
    if len(os.fsencode(inside / _SOCKET_NAME)) <= _SOCKET_LIMIT:
        return inside
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Path("/tmp") / f"holdfast-{digest}"  # noqa: S108 — short for certain; made private or refused


def open_persistent(path: Path, account: Account) -> DataDirectory:
    """Lock the data directory at `path`, making it if it is not there.

    Raises `DirectoryInUseError` when a living process holds it, `EmbeddedError` when the account cannot reach
    it or when it holds files that are none of ours. What a killed process left running is ended first.
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
        _private_folder(path, account)
        lock = _take_lock(path)
    except OSError as error:
        raise EmbeddedError(f"The data directory {path} cannot be made: {error.strerror}.") from error
    return DataDirectory(path, account, lock, ephemeral=False)


def open_ephemeral(account: Account) -> DataDirectory:
    """Make a data directory that `release` removes, and remove those whose process was killed."""
    root = _ephemeral_root(account)
    with _exclusive(root):
        for abandoned in root.iterdir():
            _remove_if_abandoned(abandoned)
        path = Path(tempfile.mkdtemp(prefix="", dir=root))
        account.own(path)
        return DataDirectory(path, account, _take_lock(path), ephemeral=True)


def _demand_reachable(path: Path, account: Account) -> None:
    if barrier := account.barrier(path):
        raise EmbeddedError(
            f"PostgreSQL cannot run as root, and uid {account.uid}, which it runs as instead, cannot enter"
            f" {barrier}: choose a data directory it can reach, or start as a normal user."
        )


def _ephemeral_root(account: Account) -> Path:
    for folder in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):  # noqa: S108 — checked below
        root = folder.resolve() / f"holdfast-ephemeral-{os.geteuid()}"
        if folder.is_dir() and account.can_reach(root):
            break
    else:
        raise EmbeddedError(
            f"The account PostgreSQL runs as (uid {account.uid}) can reach no temporary folder."
        )
    mode = 0o700 if account.is_ours else 0o711
    with suppress(FileExistsError):
        root.mkdir(mode=mode)
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise EmbeddedError(f"The folder {root} for temporary servers belongs to another user.")
    root.chmod(mode)
    return root


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_if_abandoned(path: Path) -> None:
    """Remove an ephemeral directory unless a living process holds it."""
    try:
        lock = _take_lock(path, patience_s=0.0)
    except DirectoryInUseError:
        return
    _remove(path, socket_folder(path))
    os.close(lock)


def _remove(*folders: Path) -> None:
    for folder in folders:
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def _private_folder(path: Path, account: Account) -> None:
    """Make `path` a folder that is the account's alone, or raise `EmbeddedError` if it is someone else's."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        account.own(path)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (account.uid, os.geteuid()):
        raise EmbeddedError(f"The folder {path} belongs to another user.")
    path.chmod(0o700)
    account.own(path)


def _take_lock(path: Path, patience_s: float = _PATIENCE_S) -> int:
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait_for_lock(descriptor, path, patience_s)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _wait_for_lock(descriptor: int, path: Path, patience_s: float) -> None:
    start = time.monotonic()
    while not _try_lock(descriptor):
        owner = int(os.pread(descriptor, 32, 0) or b"0")
        waited = time.monotonic() - start
        if is_alive(owner) or waited >= patience_s:
            raise DirectoryInUseError(path, owner)
        if waited >= _LAST_ORDERS_S:  # its parent is dead and it should be too: it is deaf to signals
            kill_leftovers(path / "cluster")
        time.sleep(0.02)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
