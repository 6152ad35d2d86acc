"""Knows what of a scope's recorded past lies ahead of the code that runs now.

Code is replaying while its scope has recorded what it has not asked for yet. That is decided by what was
asked for, not by what has been awaited, and so by the order of the code alone: each replay finds the same.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

from holdfast.agent.wire.draft import PATCHED

LONGEST_MARK: Final = 255
"""Characters: what the ledger takes as the name of a count."""


def ahead_of(keys: Iterable[str]) -> dict[str, set[str]]:
    """Return for each scope the names recorded in it: of its steps, and of the scopes inside of it."""
    ahead: dict[str, set[str]] = {}
    for key in keys:
        path, _, name = key.rpartition("/")
        ahead.setdefault(path, set()).add(name)
        while path:
            path, _, name = path.rpartition("/")
            ahead.setdefault(path, set()).add(whole(name))
    return ahead


def whole(name: str) -> str:
    """Return the name of what a branch is one of: `map#2` for `map#2.7`."""
    before, dot, number = name.rpartition(".")
    return before if dot and number.isdigit() else name


def mark_of(path: str, patch: str) -> str:
    """Return the name under which a commit says that a scope passed a patch."""
    mark = f"{path}{PATCHED}{patch}"
    if len(mark.encode()) > LONGEST_MARK:
        mark = PATCHED + hashlib.sha256(mark.encode()).hexdigest()
    return mark
