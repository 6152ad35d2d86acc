"""A tenant that has named a destination hears of every run and effect that is set aside, with its cause.

The effect is staged in the transaction that sets the other aside: it goes out exactly if that lands. What
cannot be staged, for there is no such destination or an agent has taken the key, is logged and holds nothing
up: a run must come to its end whether or not somebody can be told. Of an alert that is itself set aside
nobody is told: it would be one alert after the other.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid5

from holdfast.kit.db import Connection
from holdfast.kit.errors import DestinationNotFound, InvalidField
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger import outbox
from holdfast.ledger.domain.delivery import EffectStatus
from holdfast.ledger.domain.status import RunStatus

_log: Final = logger("alert")
_NAMES: Final = UUID("5e3c7f2a-94b1-4b5d-8a36-1d0f6c2e9b47")
RUN_ALERT: Final = "!dead-letter/"
EFFECT_ALERT: Final = "!dead-effect/"
"""How the keys of alerts begin."""

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
    rows = await connection.fetch(WITH_LISTENER, list(run_ids))
    await _tell(
        connection,
        [_effect(row) for row in rows],
        [{"run_id": str(row["run_id"]), "correlation_id": row["correlation_id"]} for row in rows],
    )


DEAD_WITH_LISTENER: Final = f"""
SELECT e.effect_id, e.tenant, e.attempts, e.run_id, e.step, e.last_failure AS failure, e.idempotency_key,
       d.name AS destination, t.alert_destination
FROM effect e JOIN tenant t ON t.tenant = e.tenant CROSS JOIN LATERAL (
    SELECT name FROM destination WHERE destination.destination_id = e.destination_id LIMIT 1) d
WHERE e.effect_id = ANY($1::uuid[]) AND e.status = {EffectStatus.DEAD_LETTERED:d}
      AND t.alert_destination <> ''
      AND NOT starts_with(e.idempotency_key, '{RUN_ALERT}')
      AND NOT starts_with(e.idempotency_key, '{EFFECT_ALERT}')
ORDER BY e.effect_id
"""  # noqa: S608 - a number and texts of ours


async def effects_dead_lettered(connection: Connection, effect_ids: Sequence[UUID]) -> None:
    """Stage an alert for each of these effects that was just set aside and whose tenant wants to hear of it.

    Inside the caller's transaction, after they are settled and as the last thing it locks. Repeatable: an
    effect that is sent again and set aside once more has made more attempts, and another alert.
    """
    if not effect_ids:
        return
    rows = await connection.fetch(DEAD_WITH_LISTENER, list(effect_ids))
    await _tell(
        connection, [_of_effect(row) for row in rows], [{"effect_id": str(row["effect_id"])} for row in rows]
    )


async def _tell(
    connection: Connection, alerts: Sequence[outbox.StagedEffect], about: Sequence[Mapping[str, str]]
) -> None:
    """Stage alerts together; one that is refused is found by halving, and keeps back no other."""
    if not alerts:
        return
    try:
        async with connection.transaction():  # a savepoint: what it refuses undoes only itself
            await outbox.stage(connection, alerts)
    except (DestinationNotFound, InvalidField) as fault:
        if middle := len(alerts) // 2:
            await _tell(connection, alerts[:middle], about[:middle])
            await _tell(connection, alerts[middle:], about[middle:])
        else:
            _log.warning("nobody was told of a dead letter", **about[0], reason=fault.reason)


def _of_effect(row: Any) -> outbox.StagedEffect:
    key = f"{EFFECT_ALERT}{row['effect_id']}/{row['attempts']}"
    body = {
        "type": "effect.dead_lettered",
        "effect_id": str(row["effect_id"]),
        "destination": row["destination"],
        "idempotency_key": row["idempotency_key"],
        "run_id": str(row["run_id"]) if row["run_id"] else None,
        "step": row["step"],
        "attempts": row["attempts"],
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


def _effect(row: Any) -> outbox.StagedEffect:
    key = f"{RUN_ALERT}{row['run_id']}/{row['epoch']}"
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
