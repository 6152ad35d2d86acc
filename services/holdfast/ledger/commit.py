"""A commit lands whole, once, and only under the lease that is the run's now.

Commits that arrive together are stored together: those that only report progress by one statement, those
that move their run or release effects by one transaction (`commit_move`), in the ledger's lock order. A
commit that cannot be stored (a value PostgreSQL refuses, an unknown destination) fails alone: the group is
divided until it is found. Each commit is safe to send again: stored ones are known by epoch and number.
"""

from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Final
from uuid import UUID

import asyncpg

from holdfast.kit.db import Access
from holdfast.kit.errors import Fault, InvalidField, LedgerUnavailable
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger import commit_move, commit_sql
from holdfast.ledger.commit_column import progress_columns
from holdfast.ledger.commit_refusal import answered
from holdfast.ledger.commit_value import CommitItem, CommitResult, Refused, Stored
from holdfast.ledger.domain.status import STATUSES

_log: Final = logger("commit")

# Classes of SQLSTATE that speak of a row's values: data exception, integrity constraint, limit exceeded.
_POISON: Final = ("22", "23", "54")
_PROGRESS = commit_sql.progress()

_Store = Callable[[Sequence[CommitItem]], Awaitable[list[CommitResult]]]


def _unheard(_: object) -> None:
    """Nobody is told; whoever waits for work or for signals polls."""


async def commit_group(
    db: Access,
    items: Sequence[CommitItem],
    *,
    on_ready: Callable[[str], None] = _unheard,
    on_mail: Callable[[UUID], None] = _unheard,
) -> list[CommitResult]:
    """Store commits and answer each, in the order given.

    Repeatable: what is stored is answered `Stored` again. Of two commits of one run the second is stored
    after the first. `on_ready` hears, after COMMIT, of the pools that got work, and `on_mail` of the runs
    that were sent a signal. Raises `LedgerUnavailable` if
    the ledger fails: then some may be stored and some not, and all may be sent again.
    """

    async def progress(group: Sequence[CommitItem]) -> list[CommitResult]:
        return await _store_progress(db, group)

    async def moves(group: Sequence[CommitItem]) -> list[CommitResult]:
        return await commit_move.store(db, group, on_ready, on_mail)

    results: dict[int, CommitResult] = {}
    waiting = list(range(len(items)))
    while waiting:
        taken: set[int] = set()
        wave: list[int] = []
        later: list[int] = []
        for at in waiting:
            run = items[at].run_id.int
            (later if run in taken else wave).append(at)
            taken.add(run)
        wave.sort(key=lambda at: items[at].run_id.int)  # the order of locks, and PostgreSQL's of a uuid
        for store, plain in ((progress, True), (moves, False)):
            kind = [at for at in wave if items[at].is_plain is plain]
            if kind:
                stored = await _isolating(store, [items[at] for at in kind])
                results.update(zip(kind, stored, strict=True))
        waiting = later
    return [results[at] for at in range(len(items))]


async def _store_progress(db: Access, items: Sequence[CommitItem]) -> list[CommitResult]:
    async def once() -> list[CommitResult]:
        async with db.connection() as connection:
            rows = await connection.fetch(_PROGRESS, *progress_columns(items))
            landed = {row[0]: Stored(STATUSES[row[1]], row[2]) for row in rows}
            return await answered(connection, items, landed)

    return await db.retrying(once)


async def _isolating(store: _Store, items: Sequence[CommitItem]) -> list[CommitResult]:
    """Store a group; if it is refused as a whole, find the commit that is the cause and refuse that alone."""
    try:
        return await store(items)
    except LedgerUnavailable:
        raise
    except (Fault, asyncpg.PostgresError) as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        if len(items) == 1:
            _log.warning("commit refused", reason=refusal.reason, **items[0].about)
            return [Refused(refusal)]
        at = _culprit(refusal, items)
    middle = len(items) // 2
    cuts = (0, middle, len(items)) if at is None else (0, at, at + 1, len(items))
    results: list[CommitResult] = []
    for start, end in pairwise(cuts):
        if start < end:
            results += await _isolating(store, items[start:end])
    return results


def _culprit(refusal: Fault, items: Sequence[CommitItem]) -> int | None:
    """Return the place of the commit that a fault names; PostgreSQL names none, then the group is halved."""
    run_id = refusal.facts.get("run_id")
    return next((at for at, item in enumerate(items) if str(item.run_id) == run_id), None)


def _refusal(error: Fault | asyncpg.PostgresError) -> Fault | None:
    if isinstance(error, Fault):
        return error
    if not (error.sqlstate or "").startswith(_POISON):
        return None
    return InvalidField("The ledger cannot store a value of this commit.")
