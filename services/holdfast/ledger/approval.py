"""Gates: opened by the run that holds its lease, decided once, whatever comes first, and told to the run.

Each verb takes the tenant's lock first, so votes, timeouts and ends come one after the other; then the run's
row, then the gate's. The decision is a signal under the gate's mailbox key, in the same transaction: a run
that waits for it wakes, one that is about to wait finds it. What people are told goes through the outbox.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import (
    ApprovalDecided,
    ApprovalNotFound,
    DestinationNotFound,
    Fault,
    InvalidField,
    NotAnApprover,
    Violation,
)
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger import outbox
from holdfast.ledger.approval_record import (
    ESCALATED,
    LOCK,
    REQUESTED,
    VOTED,
    chain,
    decision_of,
    digest,
    gate_json,
    gate_of,
    next_change,
    reasons_of,
    write,
)
from holdfast.ledger.domain.approval import (
    Answer,
    ApprovalStatus,
    Brought,
    Gate,
    Origin,
    Person,
    Policy,
    Verdict,
    next_time,
    passes,
    vote,
)
from holdfast.ledger.domain.mailbox import APPROVAL
from holdfast.ledger.lease_held import held
from holdfast.ledger.mailbox import Signalled, deliver
from holdfast.ledger.release import lock_tenants, lock_tenants_of

_log: Final = logger("approval")
_UNTOLD: Final = (InvalidField, DestinationNotFound)
"""Why an effect cannot be staged: its key or id is taken (an agent may have), or its destination is gone."""

SYSTEM: Final = uuid.UUID("0b1d4a8e-5d2f-4d0c-9b57-6a0c2f1e7d33")
"""The namespace of the ids of approvals and of what is sent about them."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a run asks people to decide; `payload` is JSON."""

    run_id: UUID
    epoch: int
    step: str
    title: str
    payload: bytes
    policy: Policy


@dataclass(slots=True)
class Changed:
    """What a verb has changed: gates, the pools that got work, and whether something was staged or told."""

    approval_id: UUID
    tenant: str = ""
    repeated: bool = False
    pools: list[str] = field(default_factory=list)
    decided: list[UUID] = field(default_factory=list)
    destinations: bool = False


def key_of(approval_id: UUID) -> str:
    """Return the mailbox key under which the decision comes."""
    return f"{APPROVAL}{approval_id}"


def id_of(run_id: UUID, step: str) -> UUID:
    """Return the id of a run's gate: the same for each request of it."""
    return uuid.uuid5(SYSTEM, f"{run_id}/{step}")


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
_DUE: Final = """
SELECT approval_id, run_id FROM approval WHERE next_time <= now() ORDER BY next_time LIMIT $1
"""


async def request(db: Database, asked: Request) -> Changed:
    """Open a gate of a leased run, or find it. Repeatable, also under a later lease: the first terms stand.

    A run that has ended and was started again is told once more what became of the gate.

    Raises `RunNotFound`, `Fenced` and `DestinationNotFound`.
    """
    approval_id = id_of(asked.run_id, asked.step)

    async def once() -> Changed:
        async with db.transaction() as connection:
            await lock_tenants_of(connection, [asked.run_id])
            await held(connection, asked.run_id, asked.epoch)
            for row in await connection.fetch(LOCK, [approval_id]):
                return await _found(connection, row)
            run = await connection.fetchrow(_RUN, asked.run_id, asked.epoch)
            if run is None:  # it has left its runner since it was looked at
                await held(connection, asked.run_id, asked.epoch)
            return await _open(connection, approval_id, asked, run)

    return await db.retrying(once)


async def _found(connection: Connection, row: Any) -> Changed:
    """Answer a repeated request: with an end, the mailbox has lost the decision, or never had one."""
    changed = Changed(row["approval_id"], repeated=True)
    if row["status"] != ApprovalStatus.PENDING:
        decision = json.loads(row["decision"])
        told = await _tell_run(connection, row, decision, ApprovalStatus(row["status"]), row["payload"])
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
    return Changed(approval_id, tenant, destinations=await _tell(connection, row, told))


async def decide(
    db: Database,
    tenant: str,
    approval_id: UUID,
    person: Person,
    verdict: Verdict,
    *,
    reason: str = "",
    edited: bytes | None = None,
    revision: int = 0,
    run_id: UUID | None = None,
) -> Changed:
    """Take a person's vote. Repeatable; the same vote again changes nothing. With `run_id` only of that run.

    Raises `ApprovalNotFound`, `NotAnApprover`, `ApprovalDecided` with who decided what, and `InvalidField`
    for an edit that is not allowed. The clock decides first: a vote after the deadline comes too late.
    """

    async def once() -> Changed:
        async with db.transaction() as connection:
            await lock_tenants(connection, [tenant])
            rows = await connection.fetch(LOCK, [approval_id])
            if not rows or rows[0]["tenant"] != tenant or run_id not in (None, rows[0]["run_id"]):
                raise ApprovalNotFound("There is no such approval.", facts={"approval_id": str(approval_id)})
            cast = Cast(person, verdict, reason, edited, revision)
            return await _decide(connection, rows[0], cast)

    return await db.retrying(once)


@dataclass(frozen=True, slots=True)
class Cast:
    """A vote as it is cast; `edited` is JSON, `revision` of the payload the person saw, 0 for the newest."""

    person: Person
    verdict: Verdict
    reason: str
    edited: bytes | None
    revision: int


async def _decide(connection: Connection, row: Any, cast: Cast) -> Changed:
    kept = json.loads(row["gate"])
    gate, reasons = gate_of(kept), reasons_of(kept)
    _, late = passes(gate, (row["now"] - row["create_time"]).total_seconds())
    if late.status is not gate.status:  # `fire` will say so within a second
        raise _refusal(Answer.DECIDED, row, late)
    # What the last editor sends again is what they have said before, and no other edit.
    own = cast.edited == row["payload"] and gate.editor == cast.person.user
    edits = cast.edited is not None and not own
    answer, after = vote(gate, cast.person, cast.verdict, edits=edits, revision=cast.revision)
    if answer is Answer.REPEATED:
        return Changed(row["approval_id"], repeated=True)
    if answer is not Answer.COUNTS:
        raise _refusal(answer, row, gate)
    reasons.append((cast.reason, row["now"]))
    said = {"verdict": int(cast.verdict), "reason": cast.reason, "revision": after.revision}
    said["payload_sha256"] = digest(row["payload"] if cast.edited is None else cast.edited)
    entries = [(row["approval_id"], VOTED, cast.person.user, said)]
    return await _write(
        connection, row, after, reasons, entries, payload=cast.edited, origin=Origin.VOTES, reason=cast.reason
    )


def _refusal(answer: Answer, row: Any, gate: Gate) -> Fault:
    facts = {"approval_id": str(row["approval_id"]), "status": gate.status.name}
    if answer is Answer.NOT_LISTED:
        return NotAnApprover(
            "You may not decide this approval.", facts={"approval_id": str(row["approval_id"])}
        )
    if answer is Answer.NOT_EDITABLE:
        wrong = Violation("edited_payload", "must be unset: this approval's payload may not be edited")
        return InvalidField("The payload may not be edited.", violations=[wrong])
    if answer is Answer.EDITED:
        said = f"{gate.editor} has edited the payload: it is revision {gate.revision}."
        return ApprovalDecided(said, facts={**facts, "deciders": gate.editor})
    deciders = ", ".join(v.person.user for v in gate.votes if not v.voided)
    said = f"The approval is {gate.status.name}" + (f", decided by {deciders}." if deciders else ".")
    return ApprovalDecided(said, facts={**facts, "deciders": deciders})


async def fire(db: Database, *, limit: int = 64) -> tuple[int, list[Changed]]:
    """Bring what is due: reminders, escalations, timeouts. Once, however many processes look; never early.

    Returns how many gates were looked at, and what changed. Tenants are locked in order.
    """
    async with db.connection() as connection:
        due = await connection.fetch(_DUE, limit)
    if not due:
        return 0, []

    try:
        return len(due), await db.retrying(lambda: _bring(db, due))
    except _UNTOLD:  # one that cannot be told must not hold up the others
        return len(due), [changed for row in due for changed in await _bring_alone(db, row)]


async def _bring_alone(db: Database, row: Any) -> list[Changed]:
    """Bring what is due at one gate, and if nobody can be told of it bring it all the same."""
    try:
        return await db.retrying(lambda: _bring(db, [row]))
    except _UNTOLD as fault:
        _log.warning("approval told nobody", approval_id=str(row["approval_id"]), reason=fault.reason)
        return await db.retrying(lambda: _bring(db, [row], telling=False))


async def _bring(db: Database, due: Sequence[Any], *, telling: bool = True) -> list[Changed]:
    async with db.transaction() as connection:
        await lock_tenants_of(connection, [row["run_id"] for row in due])
        changed = []
        for row in await connection.fetch(LOCK, [row["approval_id"] for row in due]):
            kept = json.loads(row["gate"])
            brought, after = passes(gate_of(kept), (row["now"] - row["create_time"]).total_seconds())
            if brought:
                reasons = reasons_of(kept)
                changed.append(await _pass(connection, row, after, brought, reasons, telling=telling))
        return changed


async def _pass(
    connection: Connection,
    row: Any,
    after: Gate,
    brought: Sequence[tuple[Brought, int]],
    reasons: list[tuple[str, datetime]],
    *,
    telling: bool,
) -> Changed:
    """Write down what time has brought, and tell who is to be told."""
    policy = after.policy
    entries: list[tuple[UUID, int, str, dict[str, Any]]] = []
    told: list[tuple[str, str, dict[str, Any]]] = []
    for what, number in brought:
        if what is Brought.ESCALATION:
            step = policy.escalation[number - 1]
            entries.append((row["approval_id"], ESCALATED, "", {"level": number}))
            told.append(
                (step.destination, f"escalation#{number}", {"level": number, "message": step.message})
            )
        elif what is Brought.REMINDER and policy.reminders is not None:
            told.append((policy.reminders.destination, f"reminder#{number}", {"number": number}))
        elif what is Brought.TIMEOUT:
            told.append((policy.admin_destination, "timeout", {"status": after.status.name}))
    late = brought[-1][0] is Brought.TIMEOUT
    why = "Nobody had decided when the time was over." if late else "Those asked now had approved before."
    origin = Origin.TIMEOUT if late else Origin.VOTES
    changed = await _write(connection, row, after, reasons, entries, origin=origin, reason=why)
    changed.destinations = await _tell(connection, row, told if telling else [])
    return changed


async def _write(
    connection: Connection,
    row: Any,
    gate: Gate,
    reasons: list[tuple[str, datetime]],
    entries: Sequence[tuple[UUID, int, str, dict[str, Any]]],
    *,
    origin: Origin,
    reason: str,
    payload: bytes | None = None,
) -> Changed:
    """Write a gate after a change, and if it is decided tell its run."""
    payload = row["payload"] if payload is None else payload
    changed = Changed(row["approval_id"], row["tenant"])
    decision = None
    if gate.status is not ApprovalStatus.PENDING:
        decision = decision_of(gate, origin, reason, row["now"])
        changed.decided.append(row["run_id"])
        changed.pools += (await _tell_run(connection, row, decision, gate.status, payload)).pools
    await write(connection, row, gate, reasons, entries, payload=payload, decision=decision)
    return changed


async def _tell_run(
    connection: Connection, row: Any, decision: dict[str, Any], status: ApprovalStatus, payload: bytes
) -> Signalled:
    """Put a decision into the run's mailbox; repeatable, the mailbox knows it by the gate's id."""
    shown = json.loads(payload) if status is ApprovalStatus.APPROVED else None
    return await deliver(
        connection,
        row["tenant"],
        row["run_id"],
        key=key_of(row["approval_id"]),
        payload=json.dumps({**decision, "payload": shown}, ensure_ascii=False, sort_keys=True).encode(),
        signal_id=key_of(row["approval_id"]),
    )


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


async def _tell(connection: Connection, row: Any, told: Sequence[tuple[str, str, dict[str, Any]]]) -> bool:
    """Stage what people are told about a gate; say whether anything was."""
    effects = []
    for destination, what, more in told:
        if not destination:
            continue
        body = {
            "type": f"approval.{what.partition('#')[0]}",
            "approval_id": str(row["approval_id"]),
            "run_id": str(row["run_id"]),
            "step": row["step"],
            "intent": row["intent"],
            "title": row["title"],
            "payload": json.loads(row["payload"]),
            **more,
        }
        key = f"{row['approval_id']}/{what}"
        effects.append(
            outbox.StagedEffect(
                effect_id=uuid.uuid5(SYSTEM, key),
                tenant=row["tenant"],
                destination=destination,
                idempotency_key=key,
                body=json.dumps(body, ensure_ascii=False, sort_keys=True).encode(),
                run_id=row["run_id"],
                step=row["step"],
            )
        )
    if effects:
        await outbox.stage(connection, effects)
    return bool(effects)
