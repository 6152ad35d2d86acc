"""A lane is what runs go through one at a time, in order of admission: an ordering key's, or a session's.

Both kinds are texts of one table. A session's begins with a character that the door lets no ordering key
begin with, so the two never meet, whatever callers name them.
"""

from typing import Final

SESSION: Final = "\x01"
"""Begins the lane of a session, and of nothing else."""


def lane_of(ordering_key: str, session_id: str) -> str:
    """Name the lane of a run; empty if it has none. A session goes before an ordering key."""
    return SESSION + session_id if session_id else ordering_key


def session_of(lane: str) -> str:
    """Return the session whose lane this is; empty if it is none's."""
    return lane[len(SESSION) :] if lane.startswith(SESSION) else ""
