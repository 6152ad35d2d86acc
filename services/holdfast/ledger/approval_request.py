"""Gates are opened by the run that holds its lease: once for each of its steps, whoever asks again.

Locks the tenant, then the run's row, then the gate's; so a gate is opened before the run's end or not at all.
"""

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import DestinationNotFound
from holdfast.ledger.approval_change import Changed, id_of, tell, tell_run
from holdfast.ledger.approval_record import LOCK, REQUESTED, chain, digest, gate_json, next_change
from holdfast.ledger.domain.approval import ApprovalStatus, Gate, Policy, next_time
from holdfast.ledger.lease_held import held
from holdfast.ledger.release import lock_tenants_of


@dataclass(frozen=True, slots=True)
class Request:
    """What a run asks people to decide; `payload` is JSON."""

    run_id: UUID
    epoch: int
    step: str
    title: str
    payload: bytes
    policy: Policy


# What a run that comes back after its park asks for: nothing is to be changed, and so nothing is locked.
_STANDS: Final = """
SELECT a.approval_id FROM run_state s JOIN approval a ON a.run_id = s.run_id
WHERE s.run_id = $1 AND s.epoch = $2 AND s.status IN (2, 4) AND a.step = $3 AND (a.status = 1 OR EXISTS (
    SELECT FROM mailbox m
    WHERE m.run_id = a.run_id AND m.signal_id = 'approval:' || a.approval_id AND NOT m.consumed
))
"""

_RUN: Final = """
UPDATE run_state s SET gates = gates + 1 FROM run r
WHERE s.run_id = $1 AND r.run_id = s.run_id AND s.epoch = $2 AND s.status IN (2, 4)
RETURNING s.tenant, r.intent, r.user_id, r.labels, clock_timestamp() AS now
"""
_INSERT: Final = """
INSERT INTO approval (approval_id, tenant, run_id, step, intent, requester, title, labels, payload, gate,
                      status, change, create_time, update_time, deadline_time, next_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, 1, $11, $12, $12, $13, $14)
"""


async def request(db: Database, asked: Request) -> Changed:
    """Open a gate of a leased run, or find it. Repeatable, also under a later lease: the first terms stand.

    A run that has ended and was started again is told once more what people had decided; a gate that its end
    has closed undecided is opened anew.

    Raises `RunNotFound`, `Fenced` and `DestinationNotFound`.
    """

    async def once() -> Changed:
        async with db.connection() as connection:
            stands = await connection.fetchval(_STANDS, asked.run_id, asked.epoch, asked.step)
        if stands is not None:
            return Changed(stands, repeated=True)
        async with db.transaction() as connection:
            await lock_tenants_of(connection, [asked.run_id])
            await held(connection, asked.run_id, asked.epoch)
            approval_id, row = await _standing(connection, asked)
            if row is not None:
                return await _found(connection, row)
            run = await connection.fetchrow(_RUN, asked.run_id, asked.epoch)
            if run is None:  # it has left its runner since it was looked at
                await held(connection, asked.run_id, asked.epoch)
            return await _open(connection, approval_id, asked, run)

    return await db.retrying(once)


async def _standing(connection: Connection, asked: Request) -> tuple[UUID, Any]:
    """Return the gate that stands for a step, with its row if there is one already."""
    turn = 1
    while True:
        approval_id = id_of(asked.run_id, asked.step, turn)
        row = await connection.fetchrow(LOCK, [approval_id])
        if row is None or row["status"] != ApprovalStatus.CANCELLED:
            return approval_id, row
        turn += 1


async def _found(connection: Connection, row: Any) -> Changed:
    """Answer a repeated request: with an end, the mailbox has lost the decision, or never had one."""
    changed = Changed(row["approval_id"], repeated=True)
    if row["status"] != ApprovalStatus.PENDING:
        decision = json.loads(row["decision"])
        told = await tell_run(connection, row, decision, ApprovalStatus(row["status"]), row["payload"])
        changed.decided += [] if told.repeated else [row["run_id"]]
    return changed


async def _open(connection: Connection, approval_id: UUID, asked: Request, run: Any) -> Changed:
    now, tenant, policy = run["now"], run["tenant"], asked.policy
    await _known(connection, tenant, policy, asked.run_id)
    gate = Gate(policy, run["user_id"], required=policy.required)
    kept = gate_json(gate, [])
    what = {"run_id": str(asked.run_id), "step": asked.step, "policy": json.loads(kept)["policy"]}
    what["payload_sha256"] = digest(asked.payload)
    await chain(connection, tenant, [(approval_id, REQUESTED, run["user_id"], what)], now)
    await connection.execute(
        _INSERT,
        approval_id,
        tenant,
        asked.run_id,
        asked.step,
        run["intent"],
        run["user_id"],
        asked.title,
        run["labels"],
        asked.payload,
        kept,
        await next_change(connection, tenant),
        now,
        now + timedelta(seconds=policy.timeout),
        next_time(gate, now),
    )
    row = {"approval_id": approval_id, "tenant": tenant, "run_id": asked.run_id, "step": asked.step}
    row |= {"title": asked.title, "intent": run["intent"], "payload": asked.payload}
    told = [(policy.notice_destination, "notice", {"event": "requested"})]
    return Changed(approval_id, tenant, destinations=await tell(connection, row, told))


async def _known(connection: Connection, tenant: str, policy: Policy, run_id: UUID) -> None:
    """Refuse destinations that do not exist now: nobody would be told later."""
    wanted = {policy.notice_destination, policy.admin_destination}
    wanted |= {step.destination for step in policy.escalation}
    wanted |= {policy.reminders.destination} if policy.reminders else set()
    rows = await connection.fetch(
        "SELECT name FROM destination WHERE tenant = $1 AND name = ANY($2::text[])", tenant, list(wanted)
    )
    missing = wanted - {"", *(row["name"] for row in rows)}
    if missing:
        name = min(missing)
        raise DestinationNotFound(
            f"There is no destination {name!r}; make it with PutDestination.", facts={"run_id": str(run_id)}
        )
