"""What a commit leaves in a session, read from the wire."""

import json
import math
from typing import Any, Final

from holdfast.kit.errors import Violation
from holdfast.ledger.commit_value import Move, SessionWrite
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.session_state import Found
from holdfast.ledger.values import Outcome
from holdfast.v1.checkpoint_pb2 import SessionWrite as WireWrite
from holdfast.v1.checkpoint_service_pb2 import SessionRead

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 24
"""Levels of JSON: each is three of a message, and no reader of messages goes deeper than 100."""
_SAVE: Final = frozenset({RunStatus.SUCCEEDED, RunStatus.PARTIAL})


def session_of(write: WireWrite, move: Move | None, wrong: list[Violation]) -> SessionWrite:
    """Read what a run leaves, and check that it ends in a way that saves."""
    if not isinstance(move, Outcome) or move.status not in _SAVE:
        wrong.append(Violation("session", "must be set only if the run ends SUCCEEDED or PARTIAL"))
    if write.loaded_version < 0:
        wrong.append(Violation("session.loaded_version", "must not be negative"))
    if len(write.state) > MAX_BYTES:
        wrong.append(Violation("session.state", f"must be at most {MAX_BYTES:,} bytes"))
    elif not _is_json(write.state):
        wrong.append(Violation("session.state", f"must be JSON, at most {MAX_DEPTH} levels deep"))
    return SessionWrite(write.state, write.loaded_version)


def session_message(found: Found) -> SessionRead:
    """Return what a run finds in its session."""
    return SessionRead(state=found.state, version=found.version)


def _is_json(state: bytes) -> bool:
    try:
        return _fits(json.loads(state, parse_constant=_refused), MAX_DEPTH)
    except (ValueError, RecursionError, OverflowError):
        return False


def _refused(constant: str) -> None:
    raise ValueError(constant)


def _fits(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(_fits(member, depth - 1) for member in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_fits(member, depth - 1) for member in value)
    if isinstance(value, str):
        value.encode()  # half of a character (a lone surrogate) cannot be
        return True
    return value is None or math.isfinite(value)
