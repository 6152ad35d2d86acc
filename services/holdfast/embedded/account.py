"""PostgreSQL refuses to run as root: this chooses whom it runs as, and tells what that account can reach."""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from holdfast.embedded.error import EmbeddedError

_NOBODY = 65534  # where the system names no such account


@dataclass(frozen=True)
class Account:
    """The user and group PostgreSQL runs as."""

    uid: int
    gid: int

    @property
    def is_ours(self) -> bool:
        """Tell whether that is who we are, so that no change of user is needed."""
        return self.uid == os.geteuid()

    def can_reach(self, path: Path) -> bool:
        """Tell whether the account may enter every folder above `path`; nothing is changed on the way."""
        return self.barrier(path) is None

    def barrier(self, path: Path) -> Path | None:
        """Return the first folder above `path` that is closed to the account; ACLs are not looked at."""
        if self.is_ours:
            return None
        for parent in reversed(path.resolve().parents):
            if parent.exists() and not self._may_enter(parent.stat()):
                return parent
        return None

    def own(self, path: Path) -> None:
        """Give `path` to the account, if it is not ours to begin with; links are not followed."""
        if not self.is_ours:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def own_tree(self, root: Path) -> None:
        """Give `root` and all below it to the account."""
        if self.is_ours:
            return
        self.own(root)
        for folder, folders, files in os.walk(root):
            for name in (*folders, *files):
                self.own(Path(folder, name))

    def _may_enter(self, status: os.stat_result) -> bool:
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


def choose_account(directory: Path | None) -> Account:
    """Choose who runs PostgreSQL: ourselves; when root, the owner of `directory`, or else `nobody`.

    Raises `EmbeddedError` when a normal user asks for a directory that belongs to another.
    """
    owner = directory.stat() if directory is not None and directory.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            raise EmbeddedError(
                f"The data directory {directory} belongs to another user (uid {owner.st_uid})."
            )
        return Account(os.geteuid(), os.getegid())
    if owner is not None and owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return Account(_NOBODY, _NOBODY)
    return Account(nobody.pw_uid, nobody.pw_gid)
