"""A gate as it is kept: JSON of its terms, votes and progress, and its links of the tenant's audit log."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.ledger.domain.approval import (
    ApprovalStatus,
    Escalation,
    Gate,
    Origin,
    Person,
    Policy,
    Quorum,
    Reminders,
    Verdict,
    Vote,
    next_time,
)

REQUESTED: Final = 1
VOTED: Final = 2
ESCALATED: Final = 3
DECIDED: Final = 4
"""What an entry of the audit log records: the numbers of `holdfast.v1.AuditAction`."""
NO_HASH: Final = bytes(32)

_HEAD: Final = """
SELECT sequence, hash FROM approval_audit WHERE tenant = $1 ORDER BY sequence DESC LIMIT 1
"""
_LINK: Final = """
INSERT INTO approval_audit
    (tenant, sequence, approval_id, action, user_id, content, previous_hash, hash, create_time)
SELECT $1, * FROM unnest($2::bigint[], $3::uuid[], $4::smallint[], $5::text[], $6::bytea[], $7::bytea[],
                         $8::bytea[], $9::timestamptz[])
"""


LOCK: Final = """
SELECT approval_id, tenant, run_id, step, intent, title, payload, gate, status, decision, create_time,
       clock_timestamp() AS now
FROM approval WHERE approval_id = ANY($1::uuid[]) ORDER BY approval_id FOR NO KEY UPDATE
"""
"""Locks gates in order."""

# Grows with each change of any approval of the tenant, under its lock; a reminder is one without an entry.
_CHANGE: Final = "SELECT coalesce(max(change), 0) + 1 FROM approval WHERE tenant = $1"

_WRITE: Final = """
UPDATE approval SET payload = $2, gate = $3::jsonb, status = $4, decision = $5::jsonb, change = $6,
                    update_time = $7, next_time = $8
WHERE approval_id = $1
"""


def gate_json(gate: Gate, reasons: Sequence[tuple[str, datetime]]) -> str:
    """Write a gate; `reasons` are what each voter wrote, and when."""
    held = asdict(gate)
    for vote, (reason, moment) in zip(held["votes"], reasons, strict=True):
        vote |= {"reason": reason, "time": moment.isoformat()}
        vote["person"] |= {name: sorted(vote["person"][name]) for name in ("groups", "roles")}
    return json.dumps(held, ensure_ascii=False)


def gate_of(held: Any) -> Gate:
    """Read a gate."""
    policy = dict(held["policy"])
    reminders = policy.pop("reminders")
    policy |= {
        "required": _quorums(policy["required"]),
        "default": Verdict(policy["default"]),
        "escalation": tuple(
            Escalation(**{**step, "required": _quorums(step["required"])}) for step in policy["escalation"]
        ),
    }
    return Gate(
        policy=Policy(**policy, reminders=None if reminders is None else Reminders(**reminders)),
        requester=held["requester"],
        status=ApprovalStatus(held["status"]),
        required=_quorums(held["required"]),
        revision=held["revision"],
        editor=held["editor"],
        votes=tuple(
            Vote(
                Person(
                    vote["person"]["user"],
                    frozenset(vote["person"]["groups"]),
                    frozenset(vote["person"]["roles"]),
                ),
                Verdict(vote["verdict"]),
                vote["revision"],
                vote["voided"],
            )
            for vote in held["votes"]
        ),
        level=held["level"],
        reminded=held["reminded"],
    )


def reasons_of(held: Any) -> list[tuple[str, datetime]]:
    """Read what each voter wrote, and when."""
    return [(vote["reason"], datetime.fromisoformat(vote["time"])) for vote in held["votes"]]


async def chain(
    connection: Connection,
    tenant: str,
    entries: Sequence[tuple[UUID, int, str, dict[str, Any]]],
    now: datetime,
) -> None:
    """Append entries of (approval, action, user, what) to the tenant's log, under its lock.

    An entry's hash is SHA-256 over the hash before it and its content, which names all there is to it: a
    changed, missing or moved entry breaks the chain.
    """
    head = await connection.fetchrow(_HEAD, tenant)
    sequence, previous = (head["sequence"], head["hash"]) if head else (0, NO_HASH)
    links: list[tuple[Any, ...]] = []
    for approval_id, action, user, what in entries:
        sequence += 1
        content = json.dumps(
            {
                "sequence": sequence,
                "approval_id": str(approval_id),
                "action": action,
                "user": user,
                "time": now.isoformat(),
                **what,
            },
            ensure_ascii=False,
            sort_keys=True,
        ).encode()
        link = hashlib.sha256(previous + content).digest()
        links.append((sequence, approval_id, action, user, content, previous, link, now))
        previous = link
    if links:
        await connection.execute(_LINK, tenant, *map(list, zip(*links, strict=True)))


async def next_change(connection: Connection, tenant: str) -> int:
    """Return the number of the change that is being made, under the tenant's lock."""
    return int(await connection.fetchval(_CHANGE, tenant))


def digest(payload: bytes) -> str:
    """Return what the log says of a payload: enough to tell another one, not what was in it."""
    return hashlib.sha256(payload).hexdigest()


def decision_of(gate: Gate, origin: Origin, reason: str, now: datetime) -> dict[str, Any]:
    """Return how a gate was decided, as it is kept and as its run is told."""
    voters = [vote.person.user for vote in gate.votes if not vote.voided]
    return {
        "status": gate.status.name,
        "origin": int(origin),
        "deciders": voters if origin is Origin.VOTES else [],
        "reason": reason,
        "time": now.isoformat(),
    }


async def write(
    connection: Connection,
    row: Any,
    gate: Gate,
    reasons: Sequence[tuple[str, datetime]],
    entries: Sequence[tuple[UUID, int, str, dict[str, Any]]],
    *,
    payload: bytes,
    decision: dict[str, Any] | None,
) -> None:
    """Write a gate after a change, with its entries in the audit log and one for the decision."""
    approval_id, now = row["approval_id"], row["now"]
    if decision is not None:
        what = {"decision": decision, "payload_sha256": digest(payload)}
        entries = [*entries, (approval_id, DECIDED, "", what)]
    await chain(connection, row["tenant"], entries, now)
    await connection.execute(
        _WRITE,
        approval_id,
        payload,
        gate_json(gate, reasons),
        int(gate.status),
        None if decision is None else json.dumps(decision, ensure_ascii=False),
        await next_change(connection, row["tenant"]),
        now,
        next_time(gate, row["create_time"]),
    )


def _quorums(held: Sequence[Any]) -> tuple[Quorum, ...]:
    return tuple(Quorum(each["count"], tuple(each["approvers"])) for each in held)
