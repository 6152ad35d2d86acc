"""A run that ends, or begins anew, waits no more for gates that nobody has decided: they close."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.ledger.approval_record import LOCK, decision_of, gate_of, reasons_of, write
from holdfast.ledger.domain.approval import ApprovalStatus, Origin

_OPEN: Final = "SELECT approval_id FROM approval WHERE run_id = ANY($1::uuid[]) AND status = 1"
WHY: Final = "The run ended before it was decided."


async def close(connection: Connection, run_ids: Sequence[UUID], why: str = WHY) -> None:
    """Close the gates of runs, in the transaction that ends or restarts them, under their tenants' locks."""
    open_gates = [row["approval_id"] for row in await connection.fetch(_OPEN, list(run_ids))]
    for row in await connection.fetch(LOCK, open_gates) if open_gates else ():
        kept = json.loads(row["gate"])
        gate = replace(gate_of(kept), status=ApprovalStatus.CANCELLED)
        decision = decision_of(gate, Origin.CANCELLATION, why, row["now"])
        await write(connection, row, gate, reasons_of(kept), [], payload=row["payload"], decision=decision)
