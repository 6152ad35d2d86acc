"""Commits that move or restart their run, release effects or consume signals: one transaction.

Lock order: tenants (the mutex of their queues: pools, lanes and leases with them, and of their sessions),
run_state, outbox lanes.
What is decided by reading is read in a statement after its lock.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Access
from holdfast.ledger import (
    alert,
    approval_end,
    child_end,
    commit_sql,
    handoff,
    mailbox,
    outbox,
    park,
    session_state,
    undo,
)
from holdfast.ledger.commit_column import move_columns
from holdfast.ledger.commit_fate import decide, fate_of
from holdfast.ledger.commit_refusal import answered
from holdfast.ledger.commit_value import CommitItem, CommitResult, Park, Requeue, Stored
from holdfast.ledger.domain.status import ENDED, LEASED, STATUSES, RunStatus
from holdfast.ledger.notice import ENDED as ENDED_NOTICE
from holdfast.ledger.release import Place, enqueue, lock_tenants_of, pass_lanes, release_leases
from holdfast.ledger.values import Outcome

_MOVE = commit_sql.move()
_FINISH = commit_sql.finish()
ANEW: Final = "The agent that asked for it has begun anew."


async def store(
    db: Access,
    items: Sequence[CommitItem],
    on_ready: Callable[[str], None],
    on_mail: Callable[[UUID], None],
) -> list[CommitResult]:
    """Store commits that are not plain, in order of run id, and answer each.

    After COMMIT `on_ready` hears of the pools that got work, `on_mail` of the runs that were sent a signal.
    Repeatable. Faults of staged effects, saved
    sessions and consumed signals refuse the group as a whole. Ends that set nothing else free are stored
    first, in a statement of their own.
    """
    results: dict[int, CommitResult] = {}
    simple = [at for at, item in enumerate(items) if _may_be_simple(item)]
    if simple:
        results = await db.retrying(lambda: _finish(db, items, simple))
    left = [at for at in range(len(items)) if at not in results]
    if left:
        answers, told = await db.retrying(lambda: _move(db, [items[at] for at in left]))
        results.update(zip(left, answers, strict=True))
        for pool in told.pools:
            on_ready(pool)
        for run_id in told.mail:
            on_mail(run_id)
    return [results[at] for at in range(len(items))]


def _may_be_simple(item: CommitItem) -> bool:
    plain = item.session is None and not item.handoff and not item.effects and not item.consumed
    return plain and not item.restarts and isinstance(item.move, Outcome)


async def _finish(db: Access, items: Sequence[CommitItem], simple: Sequence[int]) -> dict[int, CommitResult]:
    """End what ends simply; the others, and what is fenced, have no result.

    A run that ends alone has its notice in the same statement, a round trip earlier. Of many, whose COMMITs
    would wait for each other's notices, they are left to be sent together.
    """
    group = [items[at] for at in simple]
    fates = [fate_of(item, {}) for item in group]
    alone = len(items) == 1
    async with db.connection() as connection:
        rows = await connection.fetch(_FINISH, *move_columns(group, fates), ENDED_NOTICE if alone else None)
    return {
        simple[row["index"]]: Stored(STATUSES[row["status"]], row["cancel_requested"], told=alone)
        for row in rows
    }


async def _move(db: Access, items: Sequence[CommitItem]) -> tuple[list[CommitResult], child_end.Told]:
    async with db.transaction() as connection:
        return await _store(connection, items)


async def _store(connection: Any, items: Sequence[CommitItem]) -> tuple[list[CommitResult], child_end.Told]:
    moving = [item.run_id for item in items if item.move is not None or item.handoff or item.restarts]
    if moving:
        await lock_tenants_of(connection, moving)
    fates = await decide(connection, items)
    rows = await connection.fetch(_MOVE, *move_columns(items, fates))
    await mailbox.consume(
        connection, [(row["run_id"], ids) for row in rows if (ids := items[row["index"]].consumed)]
    )
    undone = [(row["run_id"], cause) for row in rows if (cause := fates[row["index"]].undone_for)]
    told = await _release(connection, items, [row for row in rows if row["status"] not in LEASED])
    if undone:
        await undo.enter(connection, undone)
    handed_off = [row["run_id"] for row in rows if items[row["index"]].handoff]
    if handed_off:
        await handoff.move(connection, handed_off)
    restarted = [row["run_id"] for row in rows if items[row["index"]].restarts]
    if restarted:
        await approval_end.close(connection, restarted, ANEW)
        await child_end.stop(connection, restarted, ANEW)
    savings = [saving for row in rows for saving in _saving(items[row["index"]], row)]
    if savings:
        await session_state.save(connection, savings)
    effects = [effect for row in rows for effect in _staged(items[row["index"]], row["tenant"])]
    if effects:
        await outbox.stage(connection, effects)
    landed = {row["index"]: Stored(RunStatus(row["status"]), row["cancel_requested"]) for row in rows}
    return await answered(connection, items, landed), told


async def _release(connection: Any, items: Sequence[CommitItem], left: Sequence[Any]) -> child_end.Told:
    """Take what the moved runs held, and give it to those that wait for it."""
    if not left:
        return child_end.Told()
    ended = [row for row in left if RunStatus(row["status"]) in ENDED]
    back = [row for row in left if row["status"] == RunStatus.QUEUED]
    ids = [row["run_id"] for row in left]
    await mailbox.forget(connection, [row["run_id"] for row in ended if row["mail_last"]])
    gated = [row["run_id"] for row in ended if row["gates"]]
    if gated:
        await approval_end.close(connection, gated)
    woken = await release_leases(connection, ids, ended=[row["run_id"] for row in ended])
    resting = [(row["run_id"], items[row["index"]].move) for row in left if row["status"] == RunStatus.PARKED]
    await park.rest(connection, [(run_id, move) for run_id, move in resting if isinstance(move, Park)])
    moves = [items[row["index"]].move for row in back]
    delays = [move.delay if isinstance(move, Requeue) else 0.0 for move in moves]
    woken += await enqueue(connection, [_place(row) for row in back], delays=delays)
    woken += await pass_lanes(
        connection, [(row["tenant"], row["ordering_key"], row["run_id"]) for row in ended]
    )
    related = [row["run_id"] for row in ended if row["related"]]
    told = await child_end.settle(connection, related) if related else child_end.Told()
    told.pools += woken
    await alert.dead_lettered(
        connection, [row["run_id"] for row in ended if row["status"] == RunStatus.DEAD_LETTERED]
    )
    return told


def _place(row: Any) -> Place:
    return Place(row["run_id"], row["tenant"], row["pool"], row["rank"], row["seq"], row["ordering_key"])


def _saving(item: CommitItem, row: Any) -> list[session_state.Saving]:
    left = item.session
    if left is None:
        return []
    return [
        session_state.Saving(
            run_id=item.run_id,
            tenant=row["tenant"],
            lane=row["ordering_key"],
            status=RunStatus(row["status"]),
            state=left.state,
            loaded_version=left.loaded_version,
        )
    ]


def _staged(item: CommitItem, tenant: str) -> list[outbox.StagedEffect]:
    step = item.records[-1].key if item.records else ""
    return [
        outbox.StagedEffect(
            effect_id=effect.effect_id,
            tenant=tenant,
            run_id=item.run_id,
            step=step,
            destination=effect.destination,
            idempotency_key=effect.idempotency_key,
            ordering_key=effect.ordering_key,
            body=effect.body,
            not_before=effect.not_before,
            traceparent=item.traceparent,
            correlation_id=item.correlation_id,
        )
        for effect in item.effects
    ]
