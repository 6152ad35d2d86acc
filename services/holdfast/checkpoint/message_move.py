"""The end of a commit: where the run goes, read from the wire."""

import json
import math
from typing import Any, Final

from google.protobuf.struct_pb2 import Value

from holdfast.kit.errors import Violation
from holdfast.ledger.commit_value import Compensate, Move, Park, Requeue, Undo
from holdfast.ledger.domain.budget import Dimension
from holdfast.ledger.domain.status import ENDED, MOVES, RunStatus
from holdfast.ledger.domain.undo import UndoOn
from holdfast.ledger.values import Failure, Outcome
from holdfast.v1 import run_pb2
from holdfast.v1.checkpoint_pb2 import Commit, CompensateMove, Compensation, ParkMove, RequeueMove

# The dead letters are the ledger's decision, after the last attempt.
_ENDS: Final = {
    int(status): status
    for status in (MOVES[RunStatus.RUNNING] | MOVES[RunStatus.COMPENSATING])
    & ENDED - {RunStatus.DEAD_LETTERED}
}
_NEED_FAILURE: Final = frozenset({RunStatus.FAILED, RunStatus.DRIFTED})
_UNDO_ON: Final = {1: UndoOn.FAILURE, 2: UndoOn.CANCEL, 3: UndoOn.EXHAUSTED}
_MAX_DELAY: Final = 31 * 24 * 3600
_MAX_EXACT: Final = 2**53
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
MAX_PARK_KEYS: Final = 1000
MAX_KEY_BYTES: Final = 255


def move_of(commit: Commit, wrong: list[Violation]) -> Move | None:
    """Read where the run goes, None if it stays."""
    kind = commit.WhichOneof("move")
    if kind is None:
        return None
    if kind == "end":
        return _outcome(commit.end, wrong)
    if kind == "requeue":
        return _requeue(commit.requeue, wrong)
    if kind == "compensate":
        return _compensate(commit.compensate, wrong)
    return _park(commit.park, wrong)


def _outcome(end: run_pb2.Outcome, wrong: list[Violation]) -> Outcome | None:
    status = _ENDS.get(int(end.status))
    if status is None:
        wrong.append(Violation("end.status", "must be a status in which a runner can end a run"))
        return None
    if end.exhausted not in Dimension._value2member_map_:
        wrong.append(Violation("end.exhausted", "must be a dimension of the budget"))
        return None
    if (status is RunStatus.PARTIAL) != bool(end.exhausted):
        wrong.append(Violation("end.exhausted", "must be set if, and only if, the run ends PARTIAL"))
    failure = _failure(end.failure) if end.HasField("failure") else None
    if failure is None and status in _NEED_FAILURE:
        wrong.append(Violation("end.failure", f"must be set if the run ends {status.name}"))
    result = None
    if end.HasField("result"):
        try:
            result = _encode(_plain(end.result)).encode()
        except ValueError:
            wrong.append(Violation("end.result", "must hold JSON values"))
    return Outcome(status, result, failure, Dimension(end.exhausted))


def _requeue(move: RequeueMove, wrong: list[Violation]) -> Requeue:
    delay = move.delay.seconds + move.delay.nanos / 1e9
    if not 0 <= delay <= _MAX_DELAY:
        wrong.append(Violation("requeue.delay", "must be 0 to 31 days"))
    if move.HasField("failure"):
        return Requeue(_failure(move.failure), delay, move.blameless)
    if not move.blameless:
        wrong.append(Violation("requeue.failure", "must be set unless the runner is to blame for nothing"))
    return Requeue(None, delay, move.blameless)


def _compensate(move: CompensateMove, wrong: list[Violation]) -> Compensate | None:
    if not move.HasField("cause"):
        wrong.append(Violation("compensate.cause", "must be set"))
        return None
    return Compensate(_failure(move.cause))


def undo_of(terms: Compensation, wrong: list[Violation]) -> Undo:
    """Read which ends have the run's steps undone."""
    on = UndoOn.NONE
    for at, end in enumerate(terms.undo_on):
        if end not in _UNDO_ON:
            wrong.append(Violation(f"compensation.undo_on[{at}]", "must be an end of a run"))
        else:
            on |= _UNDO_ON[end]
    if not terms.undo_on:
        wrong.append(Violation("compensation.undo_on", "must name at least one end"))
    within_ms = terms.within.seconds * 1000 + terms.within.nanos // 1_000_000
    if not 0 < within_ms <= _MAX_DELAY * 1000:
        wrong.append(Violation("compensation.within", "must be above 0, at most 31 days"))
    return Undo(on, within_ms)


def _park(move: ParkMove, wrong: list[Violation]) -> Park:
    """Read what wakes the run. One that nothing would wake is refused: it would wait for its deadline."""
    seconds = None
    if move.HasField("wait_for"):
        seconds = move.wait_for.seconds + move.wait_for.nanos / 1e9
        if not 0 <= seconds <= _MAX_DELAY:
            wrong.append(Violation("park.wait_for", "must be 0 to 31 days"))
    elif not move.keys:
        wrong.append(Violation("park", "must have a key or a time that wakes the run"))
    if len(move.keys) > MAX_PARK_KEYS:
        wrong.append(Violation("park.keys", f"must be at most {MAX_PARK_KEYS:,}"))
    if any(not key or "\0" in key or len(key.encode()) > MAX_KEY_BYTES for key in move.keys):
        wrong.append(Violation("park.keys", f"must each have 1 to {MAX_KEY_BYTES} bytes and no NUL"))
    return Park(tuple(move.keys), seconds)


def _failure(failure: run_pb2.Failure) -> Failure:
    """Read a failure. Its texts are those of an agent's exception: a NUL is shown, not refused."""
    return Failure(
        _shown(failure.reason), _shown(failure.message), _shown(failure.step), max(0, failure.attempts)
    )


def _shown(text: str) -> str:
    return text.replace("\0", "\u2400")


def _plain(value: Value) -> Any:
    """Return what a Value holds, as json.dumps takes it; numbers without a fraction as integers."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {key: _plain(field) for key, field in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        if not math.isfinite(number):
            raise ValueError(number)
        return int(number) if number.is_integer() and abs(number) < _MAX_EXACT else number
    if kind == "string_value":
        return value.string_value
    return value.bool_value if kind == "bool_value" else None
