"""Decides where the commits that move their run take it, and what the platform notes about it."""

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from holdfast.ledger import commit_sql, park
from holdfast.ledger.commit_value import CommitItem, Compensate, Park, Requeue
from holdfast.ledger.domain.attempt import Next, after_failed_attempt, after_hand_back, after_park
from holdfast.ledger.domain.status import ENDED, RunStatus
from holdfast.ledger.domain.undo import Undoing, UndoOn, called_for
from holdfast.ledger.values import Failure, Outcome


@dataclass(frozen=True, slots=True)
class Fate:
    """What a commit does to its run: the status after it, attempts given back, failure, note, outcome."""

    status: RunStatus = RunStatus.RUNNING
    uncounted: int = 0
    last_failure: str | None = None
    note: str | None = None
    outcome: Outcome | None = None
    undone_for: Failure | None = None
    """Why its steps are to be undone, if they are."""


_STAYS = Fate()


async def decide(connection: Any, items: Sequence[CommitItem]) -> list[Fate]:
    """Decide for each commit; locks the runs that are to be requeued, for someone may ask to cancel them."""
    leaving = [item.run_id for item in items if isinstance(item.move, Requeue | Park | Compensate)]
    held: Mapping[uuid.UUID, Any] = {}
    if leaving:
        held = {row["run_id"]: row for row in await connection.fetch(commit_sql.HOLD, leaving)}
    called = await park.called(
        connection, [(item, item.move) for item in items if isinstance(item.move, Park)]
    )
    return [fate_of(item, held, called) for item in items]


def fate_of(
    item: CommitItem, held: Mapping[uuid.UUID, Any], called: Collection[uuid.UUID] = frozenset()
) -> Fate:
    """Decide for one commit; `held` has the locked rows of the runs that leave their runner without an end.

    `called` are those of them that want to wait for what is there already.
    """
    move = item.move
    if isinstance(move, Outcome):
        return Fate(move.status, outcome=move)
    run = held.get(item.run_id)
    if move is None or run is None:
        return _STAYS  # an unknown run: the fence refuses it
    if isinstance(move, Compensate):
        return _undone(item, move.cause, run)
    after = _after(move, run, called=item.run_id in called)
    why = move.failure if isinstance(move, Requeue) else None
    failure = _why(run) if after.status is RunStatus.CANCELLED else why
    ended = after.status in ENDED
    if failure is not None and called_for(after.status, Undoing(UndoOn(run["undo_on"]), run["undoing"])):
        return _undone(item, failure, run)
    return Fate(
        after.status,
        uncounted=run["attempt"] - after.attempt,
        last_failure=None if why is None else why.to_json(),
        note=_note(item, after.status, failure, run["now"]),
        outcome=Outcome(after.status, failure=failure) if ended else None,
    )


def _undone(item: CommitItem, cause: Failure, run: Any) -> Fate:
    note = {
        "kind": "compensating",
        "epoch": item.epoch,
        "time": run["now"].isoformat(),
        "failure": asdict(cause),
    }
    return Fate(RunStatus.QUEUED, note=json.dumps(note, ensure_ascii=False), undone_for=cause)


def _after(move: Requeue | Park, run: Any, *, called: bool) -> Next:
    attempt, cancelled = run["attempt"], run["cancel_requested"]
    if isinstance(move, Park):
        return after_park(attempt, cancel_requested=cancelled, called=called)
    if move.blameless:
        return after_hand_back(attempt, cancel_requested=cancelled)
    return after_failed_attempt(attempt, run["max_attempts"], cancel_requested=cancelled)


def _why(run: Any) -> Failure:
    return Failure("CANCELLED", run["cancel_reason"] or "Someone asked to cancel the run.")


def _note(item: CommitItem, status: RunStatus, failure: Failure | None, now: datetime) -> str:
    note: dict[str, object] = {"kind": "requeued", "epoch": item.epoch, "time": now.isoformat()}
    move = item.move
    if status in ENDED:
        note |= {"kind": "ended", "status": int(status)}
    elif status is RunStatus.PARKED and isinstance(move, Park):
        note |= {"kind": "parked", "keys": list(move.keys)}
        if move.seconds is not None:
            note["until"] = (now + timedelta(seconds=move.seconds)).isoformat()
    elif isinstance(move, Requeue) and move.delay > 0:
        note["not_before"] = (now + timedelta(seconds=move.delay)).isoformat()
    if failure is not None:
        note["failure"] = asdict(failure)
    return json.dumps(note, ensure_ascii=False)
