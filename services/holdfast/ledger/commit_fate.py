"""Decides where the commits that move their run take it, and what the platform notes about it."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from holdfast.ledger import commit_sql
from holdfast.ledger.commit_value import CommitItem, Requeue
from holdfast.ledger.domain.attempt import after_failed_attempt, after_hand_back
from holdfast.ledger.domain.status import ENDED, RunStatus
from holdfast.ledger.values import Failure, Outcome


@dataclass(frozen=True, slots=True)
class Fate:
    """What a commit does to its run: the status after it, attempts given back, failure, note, outcome."""

    status: RunStatus = RunStatus.RUNNING
    uncounted: int = 0
    last_failure: str | None = None
    note: str | None = None
    outcome: Outcome | None = None


_STAYS = Fate()


async def decide(connection: Any, items: Sequence[CommitItem]) -> list[Fate]:
    """Decide for each commit; locks the runs that are to be requeued, for someone may ask to cancel them."""
    failed = [item.run_id for item in items if isinstance(item.move, Requeue)]
    held: Mapping[uuid.UUID, Any] = {}
    if failed:
        held = {row["run_id"]: row for row in await connection.fetch(commit_sql.HOLD, failed)}
    return [fate_of(item, held) for item in items]


def fate_of(item: CommitItem, held: Mapping[uuid.UUID, Any]) -> Fate:
    """Decide for one commit; `held` has the locked rows of the runs that are to be requeued."""
    if isinstance(item.move, Outcome):
        return Fate(item.move.status, outcome=item.move)
    run = held.get(item.run_id)
    if not isinstance(item.move, Requeue) or run is None:
        return _STAYS  # an unknown run: the fence refuses it
    move = item.move
    cancelled = run["cancel_requested"]
    if move.blameless:
        after = after_hand_back(run["attempt"], cancel_requested=cancelled)
    else:
        after = after_failed_attempt(run["attempt"], run["max_attempts"], cancel_requested=cancelled)
    failure = _why(run) if after.status is RunStatus.CANCELLED else move.failure
    ended = after.status in ENDED
    return Fate(
        after.status,
        uncounted=run["attempt"] - after.attempt,
        last_failure=None if move.failure is None else move.failure.to_json(),
        note=_note(item.epoch, move.delay, after.status, failure, run["now"]),
        outcome=Outcome(after.status, failure=failure) if ended else None,
    )


def _why(run: Any) -> Failure:
    return Failure("CANCELLED", run["cancel_reason"] or "Someone asked to cancel the run.")


def _note(epoch: int, delay: float, status: RunStatus, failure: Failure | None, now: datetime) -> str:
    note: dict[str, object] = {"kind": "requeued", "epoch": epoch, "time": now.isoformat()}
    if status in ENDED:
        note |= {"kind": "ended", "status": int(status)}
    elif delay > 0:
        note["not_before"] = (now + timedelta(seconds=delay)).isoformat()
    if failure is not None:
        note["failure"] = asdict(failure)
    return json.dumps(note, ensure_ascii=False)
