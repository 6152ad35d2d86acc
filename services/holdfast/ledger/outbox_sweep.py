"""What a lost dispatcher held goes to the others; whether its calls were made is unknown, so they count.

What a living one was given and never heard of goes back, too; of that no call was made.
"""

import random
import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

from holdfast.kit.db import Database
from holdfast.ledger.destination import destination_of
from holdfast.ledger.domain.breaker import Breaker, BreakerPolicy
from holdfast.ledger.domain.delivery import Answer, BreakerVote, EffectStatus, Verdict, decide
from holdfast.ledger.outbox_settle import Settlement, settle_in
from holdfast.ledger.values import Failure

DISPATCHER_LOST: Final = "DISPATCHER_LOST"
"""The reason of an attempt whose dispatcher fell silent."""

_EXPIRED: Final = """
-- Lock one expired session; others sweep the others.
SELECT session_id FROM dispatcher_session WHERE expire_time <= clock_timestamp()
ORDER BY session_id LIMIT 1 FOR UPDATE SKIP LOCKED
"""

_HELD: Final = """
-- See what an expired session still holds.
SELECT l.effect_id, l.epoch, l.ordering_key, l.attempts, l.spent, l.probe, d.*
FROM effect_lease l JOIN destination d USING (destination_id)
WHERE l.session_id = $1 LIMIT $2
"""

_LOCK_SESSION: Final = """
-- Wait for a claim that still goes on though nobody waits for its answer.
SELECT session_id FROM dispatcher_session WHERE session_id = $1 FOR UPDATE
"""

_UNHEARD: Final = """
-- See what a session holds of which its dispatcher has not heard.
SELECT l.effect_id, l.epoch, l.destination_id, l.ordering_key, l.attempts, l.spent, l.probe, e.unsure
FROM effect_lease l JOIN effect e USING (effect_id)
WHERE l.session_id = $1 AND NOT EXISTS (
    SELECT FROM unnest($2::uuid[], $3::bigint[]) AS heard (effect_id, epoch)
    WHERE heard.effect_id = l.effect_id AND heard.epoch = l.epoch)
"""

_FORGET: Final = """
-- Forget a session that holds nothing.
DELETE FROM dispatcher_session WHERE session_id = $1
"""


async def sweep(db: Database, *, limit: int = 500) -> int:
    """Free leases of one expired session, and return how much was done; 0 if no session has expired.

    Repeatable; any number of dispatchers may sweep. Locks the session first, so that no lease is given to it
    meanwhile, then as `settle`.
    """

    async def once() -> int:
        async with db.transaction() as connection:
            session_id = await connection.fetchval(_EXPIRED)
            if session_id is None:
                return 0
            return 1 + await _free(connection, session_id, limit)

    return await db.retrying(once)


async def _free(connection: Any, session_id: uuid.UUID, limit: int) -> int:
    rows = await connection.fetch(_HELD, session_id, limit)
    if rows:
        await settle_in(connection, session_id, [_lost(row) for row in rows], _unmoved)
    if len(rows) < limit:
        await connection.execute(_FORGET, session_id)
    return len(rows)


async def give_back(db: Database, session_id: uuid.UUID, heard: Collection[tuple[uuid.UUID, int]]) -> int:
    """Free what a living session holds beside the leases (effect, epoch) that its dispatcher has heard of.

    Such are left by a claim whose answer was lost: none of them was sent. Returns how many. Repeatable; the
    dispatcher must not claim meanwhile. Locks the session first, then as `settle`.
    """

    async def once() -> int:
        async with db.transaction() as connection:
            await connection.execute(_LOCK_SESSION, session_id)
            rows = await connection.fetch(
                _UNHEARD, session_id, [effect_id for effect_id, _ in heard], [epoch for _, epoch in heard]
            )
            if rows:
                await settle_in(connection, session_id, [_unsent(row) for row in rows], _unmoved)
            return len(rows)

    return await db.retrying(once)


def _unsent(row: Any) -> Settlement:
    return Settlement(
        effect_id=row["effect_id"],
        epoch=row["epoch"],
        destination_id=row["destination_id"],
        ordering_key=row["ordering_key"],
        verdict=Verdict(EffectStatus.PENDING, row["attempts"], row["spent"]),
        vote=BreakerVote.ABSTAINS,
        probe=row["probe"],
        called=False,
        unsure=row["unsure"],
    )


def _lost(row: Any) -> Settlement:
    destination = destination_of(row)
    verdict = decide(
        Answer.UNCERTAIN,
        attempts=row["attempts"],
        spent=row["spent"],
        mode=destination.mode,
        policy=destination.retry,
        random=random.random,
    )
    return Settlement(
        effect_id=row["effect_id"],
        epoch=row["epoch"],
        destination_id=destination.destination_id,
        ordering_key=row["ordering_key"],
        verdict=verdict,
        vote=BreakerVote.ABSTAINS,
        probe=row["probe"],
        failure=Failure(
            DISPATCHER_LOST,
            "The dispatcher that was sending it fell silent; whether it was sent is not known.",
            attempts=verdict.attempts,
        ),
        unsure=True,
    )


def _unmoved(
    breaker: Breaker, _policy: BreakerPolicy, _votes: Sequence[BreakerVote], _now: datetime
) -> Breaker:
    """Leave the breaker as it is: a dispatcher's death says nothing about a destination."""
    return breaker
