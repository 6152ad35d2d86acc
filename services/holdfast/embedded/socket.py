"""Where a server's unix socket is: a path short enough for one, in a folder that is its account's alone."""

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

from holdfast.embedded.account import Account
from holdfast.embedded.error import EmbeddedError

_NAME = ".s.PGSQL.5432"
_LIMIT = 107  # bytes of sun_path, without the closing NUL


def socket_folder(directory: Path) -> Path:
    """Return the folder for the socket of the server in `directory`: within it, unless its path is too long.

    The same directory has always the same folder.
    """
    inside = directory / "run"
    if len(os.fsencode(inside / _NAME)) <= _LIMIT:
        return inside
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Path("/tmp") / f"holdfast-{digest}"  # noqa: S108 — short for certain; made private or refused


def private_folder(path: Path, account: Account) -> None:
    """Make `path` a folder that is the account's alone, or raise `EmbeddedError` if it is someone else's."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        account.own(path)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (account.uid, os.geteuid()):
        raise EmbeddedError(f"The folder {path} belongs to another user.")
    path.chmod(0o700)
    account.own(path)
