"""People decide gates: a vote counts, repeats what was said, or is refused with who has decided what.

Locks the tenant, then the gate and the run that is told: votes, timeouts and ends come one after the other.
"""

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import (
    ApprovalDecided,
    ApprovalNotFound,
    Fault,
    InvalidField,
    NotAnApprover,
    Violation,
)
from holdfast.ledger.approval_change import Changed, apply
from holdfast.ledger.approval_record import LOCK, VOTED, digest, gate_of, reasons_of
from holdfast.ledger.domain.approval import Answer, Gate, Origin, Person, Verdict, passes, vote
from holdfast.ledger.release import lock_tenants


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
    return await apply(
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
