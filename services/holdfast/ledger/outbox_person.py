"""What a person may do with an effect: send a dead-lettered one again, give up one that is not being sent.

Lock order: effect_lane, then where it waits, then the effect itself.
"""

import uuid
from typing import Any, Final

from holdfast.kit.db import Database
from holdfast.kit.errors import EffectNotRetryable
from holdfast.ledger import outbox_inspect
from holdfast.ledger.domain.delivery import EffectStatus
from holdfast.ledger.outbox_inspect import EffectView
from holdfast.ledger.outbox_settle import LOCK_LANES, PROMOTE

_ENTER_LANE: Final = """
-- Lock the effect's lane; it becomes the head if the lane is not in use.
INSERT INTO effect_lane AS lane (destination_id, ordering_key, head)
SELECT destination_id, ordering_key, effect_id FROM effect
WHERE effect_id = $1 AND ordering_key <> '' AND status = 4
ON CONFLICT (destination_id, ordering_key) DO UPDATE SET head = lane.head
RETURNING head
"""

_SEND_AGAIN: Final = """
-- Make a dead-lettered effect due again, or let it wait in its old place in its lane; the attempts that were
-- made stay on record, and none counts against its limit.
WITH again AS (
    UPDATE effect SET status = 1, deliver_time = NULL,
                      next_attempt_time = CASE WHEN NOT $2::boolean THEN statement_timestamp() END
    WHERE effect_id = $1 AND status = 4
    RETURNING effect_id, destination_id, ordering_key, seq, attempts, next_attempt_time
), due AS (
    INSERT INTO effect_due (destination_id, due_time, seq, effect_id, ordering_key, attempts)
    SELECT destination_id, next_attempt_time, seq, effect_id, ordering_key, attempts
    FROM again WHERE NOT $2::boolean
), waiting AS (
    INSERT INTO effect_waiting (destination_id, ordering_key, seq, effect_id, attempts)
    SELECT destination_id, ordering_key, seq, effect_id, attempts FROM again WHERE $2::boolean
)
SELECT true FROM again
"""


async def retry(db: Database, tenant: str, effect_id: uuid.UUID) -> EffectView:
    """Send a dead-lettered effect again, with its attempts afresh.

    In its order it goes before all that have not been sent. Raises `EffectNotFound`, and `EffectNotRetryable`
    if it is not dead-lettered (so a repeated call is refused, and harmless).
    """

    async def once() -> EffectView:
        async with db.transaction() as connection:
            await outbox_inspect.get(connection, tenant, effect_id)
            head = await connection.fetchval(_ENTER_LANE, effect_id)
            waits = head is not None and head != effect_id
            if await connection.fetchval(_SEND_AGAIN, effect_id, waits) is None:
                raise await _wrong_status(connection, tenant, effect_id, "sent again")
            return await outbox_inspect.get(connection, tenant, effect_id)

    return await db.retrying(once)


_LANE_OF: Final = """
SELECT destination_id, ordering_key FROM effect WHERE effect_id = $1 AND ordering_key <> ''
"""

_DISCARD: Final = f"""
-- Give up an effect where it waits, unless a dispatcher has it; the next of its order is due.
WITH wanted AS (
    SELECT effect_id, destination_id, ordering_key, seq, next_attempt_time FROM effect WHERE effect_id = $1
), not_due AS (
    DELETE FROM effect_due d USING wanted w
    WHERE d.destination_id = w.destination_id AND d.due_time = w.next_attempt_time AND d.seq = w.seq
    RETURNING d.effect_id
), not_waiting AS (
    DELETE FROM effect_waiting q USING wanted w
    WHERE q.destination_id = w.destination_id AND q.ordering_key = w.ordering_key AND q.seq = w.seq
    RETURNING q.effect_id
), discarded AS (
    UPDATE effect e SET status = 5, discard_reason = $2, next_attempt_time = NULL
    WHERE e.effect_id = $1
      AND (e.status = 4
           OR (e.status = 1 AND (EXISTS (SELECT FROM not_due) OR EXISTS (SELECT FROM not_waiting))))
    RETURNING e.effect_id, e.destination_id, e.ordering_key
), left_lanes AS (
    SELECT d.destination_id, d.ordering_key FROM discarded d
    JOIN effect_lane lane USING (destination_id, ordering_key)
    WHERE lane.head = d.effect_id
), {PROMOTE}
SELECT true FROM discarded
"""  # noqa: S608 - composed of our own constants


async def discard(db: Database, tenant: str, effect_id: uuid.UUID, reason: str) -> EffectView:
    """Give up a pending or dead-lettered effect; those behind it in its order go on.

    Raises `EffectNotFound`, and `EffectNotRetryable` if it is being sent, delivered, or discarded before.
    """

    async def once() -> EffectView:
        async with db.transaction() as connection:
            await outbox_inspect.get(connection, tenant, effect_id)
            lanes = await connection.fetch(_LANE_OF, effect_id)
            if lanes:
                await connection.fetch(LOCK_LANES, [lanes[0][0]], [lanes[0][1]])
            if await connection.fetchval(_DISCARD, effect_id, reason) is None:
                raise await _wrong_status(connection, tenant, effect_id, "discarded")
            return await outbox_inspect.get(connection, tenant, effect_id)

    return await db.retrying(once)


async def _wrong_status(connection: Any, tenant: str, effect_id: uuid.UUID, what: str) -> EffectNotRetryable:
    status = (await outbox_inspect.get(connection, tenant, effect_id)).status
    return EffectNotRetryable(
        f"Effect {effect_id} is {EffectStatus(status).name}, and cannot be {what}.",
        facts={"effect_id": str(effect_id), "status": status.name},
    )
