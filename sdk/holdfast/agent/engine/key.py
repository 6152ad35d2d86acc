"""Keys that the world sees: of a run, the same in every try and replay."""

import hashlib
from typing import Final

LONGEST_KEY: Final = 255
"""Bytes of an idempotency key."""


def stable_key(run_id: str, path: str) -> str:
    """Return the key of what a run does at a place; a long path is told by its digest."""
    key = f"{run_id}/{path}"
    if len(key.encode()) > LONGEST_KEY:
        key = f"{run_id}/{hashlib.sha256(path.encode()).hexdigest()}"
    return key
