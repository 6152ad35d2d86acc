"""What every change of a gate has in common: it is written, its run is told, and so are people."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.ledger import outbox
from holdfast.ledger.approval_record import decision_of, write
from holdfast.ledger.domain.approval import ApprovalStatus, Gate, Origin
from holdfast.ledger.domain.mailbox import APPROVAL
from holdfast.ledger.mailbox import Signalled, deliver

SYSTEM: Final = uuid.UUID("0b1d4a8e-5d2f-4d0c-9b57-6a0c2f1e7d33")
"""The namespace of the ids of approvals and of what is sent about them."""


@dataclass(slots=True)
class Changed:
    """What a verb has changed: gates, the pools that got work, and the destinations of what was staged."""

    approval_id: UUID
    tenant: str = ""
    repeated: bool = False
    pools: list[str] = field(default_factory=list)
    decided: list[UUID] = field(default_factory=list)
    destinations: list[str] = field(default_factory=list)


def key_of(approval_id: UUID) -> str:
    """Return the mailbox key under which the decision comes."""
    return f"{APPROVAL}{approval_id}"


def id_of(run_id: UUID, step: str, turn: int = 1) -> UUID:
    """Return the id of a run's gate: the same for each request of it.

    A gate that the run's end has closed has another turn when the run is started again.
    """
    again = f"!{turn}" if turn > 1 else ""  # no step's key ends so
    return uuid.uuid5(SYSTEM, f"{run_id}/{step}{again}")


async def apply(
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
        changed.pools += (await tell_run(connection, row, decision, gate.status, payload)).pools
    await write(connection, row, gate, reasons, entries, payload=payload, decision=decision)
    return changed


async def tell_run(
    connection: Connection, row: Any, decision: dict[str, Any], status: ApprovalStatus, payload: bytes
) -> Signalled:
    """Put a decision into the run's mailbox; repeatable, the mailbox knows it by the gate's id.

    It names the step, so that a runner that finds it need not ask which gate is the step's.
    """
    shown = json.loads(payload) if status is ApprovalStatus.APPROVED else None
    letter = {**decision, "step": row["step"], "payload": shown}
    return await deliver(
        connection,
        row["tenant"],
        row["run_id"],
        key=key_of(row["approval_id"]),
        payload=json.dumps(letter, ensure_ascii=False, sort_keys=True).encode(),
        signal_id=key_of(row["approval_id"]),
    )


async def tell(
    connection: Connection, row: Any, told: Sequence[tuple[str, str, dict[str, Any]]]
) -> list[str]:
    """Stage what people are told about a gate, and return the destinations."""
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
    return [effect.destination for effect in effects]
