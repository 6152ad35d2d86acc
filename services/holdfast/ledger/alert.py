"""A tenant that has named a destination hears of every run that is set aside, with its cause.

The effect is staged in the transaction that sets the run aside: it goes out exactly if that lands. What
cannot be staged, for there is no such destination or an agent has taken the key, is logged and holds nothing
up: a run must come to its end whether or not somebody can be told.
"""

import json
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID, uuid5

from holdfast.kit.db import Connection
from holdfast.kit.errors import DestinationNotFound, InvalidField
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger import outbox
from holdfast.ledger.domain.status import RunStatus

_log: Final = logger("alert")
_NAMES: Final = UUID("5e3c7f2a-94b1-4b5d-8a36-1d0f6c2e9b47")

WITH_LISTENER: Final = f"""
SELECT s.run_id, s.tenant, s.epoch, s.attempt, split_part(s.pool, '@', 1) AS intent, t.alert_destination,
       o.failure, r.correlation_id
FROM run_state s JOIN run r ON r.run_id = s.run_id JOIN tenant t ON t.tenant = s.tenant
JOIN run_outcome o ON o.run_id = s.run_id
WHERE s.run_id = ANY($1::uuid[]) AND s.status = {RunStatus.DEAD_LETTERED:d} AND t.alert_destination <> ''
ORDER BY s.run_id
"""  # noqa: S608 - a number of ours


async def dead_lettered(connection: Connection, run_ids: Sequence[UUID]) -> None:
    """Stage an alert for each of these runs that was just set aside and whose tenant wants to hear of it.

    Inside the caller's transaction, after the runs' outcomes are written and as the last thing it locks.
    Repeatable: a run that is retried and set aside once more has another epoch, and another alert.
    """
    if not run_ids:
        return
    for row in await connection.fetch(WITH_LISTENER, list(run_ids)):
        try:
            async with connection.transaction():  # a savepoint: what it refuses undoes only itself
                await outbox.stage(connection, [_effect(row)])
        except (DestinationNotFound, InvalidField) as fault:
            _log.warning(
                "nobody was told of a dead letter",
                run_id=str(row["run_id"]),
                correlation_id=row["correlation_id"],
                reason=fault.reason,
            )


def _effect(row: Any) -> outbox.StagedEffect:
    key = f"!dead-letter/{row['run_id']}/{row['epoch']}"
    body = {
        "type": "run.dead_lettered",
        "run_id": str(row["run_id"]),
        "intent": row["intent"],
        "attempts": row["attempt"],
        "failure": json.loads(row["failure"]) if row["failure"] else None,
    }
    return outbox.StagedEffect(
        effect_id=uuid5(_NAMES, key),
        tenant=row["tenant"],
        destination=row["alert_destination"],
        idempotency_key=key,
        body=json.dumps(body, ensure_ascii=False, sort_keys=True).encode(),
        run_id=row["run_id"],
    )
