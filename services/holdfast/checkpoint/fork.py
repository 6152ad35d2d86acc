"""A fork as the wire asks for it: which records are kept, which are edited, and what they were charged."""

import hashlib
import json
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from holdfast.checkpoint.message import MAX_NAME, Violations, charge_of, uuid_of
from holdfast.kit.db import Database
from holdfast.kit.errors import InvalidField, Violation
from holdfast.kit.ids import new_id
from holdfast.ledger import fork as ledger
from holdfast.ledger.domain.budget import Usage
from holdfast.v1.checkpoint_pb2 import StepRecord
from holdfast.v1.checkpoint_service_pb2 import ForkRunRequest
from holdfast.v1.transcript_pb2 import EventBatch

MAX_OUTPUT: Final = 1024 * 1024
"""Bytes of an output that replaces a recorded one."""
_STAGED: Final = ">"
"""How a runner marks the effects a scope has staged outside of steps among what that has emitted."""


async def fork(db: Database, tenant: str, request: ForkRunRequest) -> ledger.Forked:
    """Make the run that a request asks for, or find it.

    Raises `InvalidField`, also for a position or a key that the run has not recorded, and what
    `ledger.fork` raises.
    """
    run_id = _check(request)
    of = await ledger.source(db, tenant, run_id)
    new = new_id()
    key = request.idempotency_key or str(new)
    fingerprint = _fingerprint(request)
    known = await ledger.found(db, tenant, (key, fingerprint))
    if known is not None:
        return known
    kept, edited, usage, last = await _records(db, of, request)
    wanted = ledger.Wanted(
        run_id=new,
        idempotency_key=key,
        fingerprint=fingerprint,
        kept=kept,
        edited=edited,
        usage=usage,
        emitted=await _staged(db, of, last),
    )
    return await ledger.fork(db, of, wanted)


def _check(request: ForkRunRequest) -> UUID:
    wrong: Violations = []
    run_id = uuid_of(request.run_id, "run_id", wrong)
    if request.position < 1:
        wrong.append(Violation("position", "must be at least 1"))
    if len(request.idempotency_key.encode()) > MAX_NAME or "\0" in request.idempotency_key:
        wrong.append(Violation("idempotency_key", f"must be at most {MAX_NAME} bytes, without NUL"))
    for key, output in request.outputs.items():
        if len(output) > MAX_OUTPUT:
            wrong.append(Violation(_named(key), f"must be at most {MAX_OUTPUT:,} bytes"))
        elif not _is_json(output):
            wrong.append(Violation(_named(key), "must be JSON"))
    if wrong:
        raise InvalidField("The request is malformed.", violations=wrong)
    return run_id


async def _records(
    db: Database, of: ledger.Source, request: ForkRunRequest
) -> tuple[list[int], dict[int, bytes], Usage, str]:
    """Return the positions kept, the records that are edited, what all were charged, and the last key.

    Intents are left out: what they began is begun anew.
    """
    kept: list[int] = []
    edited: dict[int, bytes] = {}
    usage = Usage()
    left = dict(request.outputs)
    last = ""
    async for step in ledger.steps_until(db, of, request.position):
        record = StepRecord.FromString(step.record)
        if record.intent:
            continue
        kept.append(step.position)
        last = record.key
        usage = usage.plus(Usage(*charge_of(record)))
        if record.key in left:
            edited[step.position] = _edited(record, left.pop(record.key))
        elif record.undoable:
            record.undoable = False  # what the other run has done is the other run's to undo
            edited[step.position] = record.SerializeToString()
    wrong = [Violation(_named(key), "is no step that is kept") for key in left]
    if not kept or kept[-1] != request.position:
        wrong.insert(0, Violation("position", "is no checkpoint of the run"))
    if wrong:
        raise InvalidField("The run has not recorded this.", violations=wrong)
    return kept, edited, usage, last


async def _staged(db: Database, of: ledger.Source, last: str) -> str | None:
    """Return how many effects each scope had staged outside of steps with the last step kept."""
    counts: dict[str, int] = {}
    async for events, emitted in ledger.told_until(db, of):
        for mark, count in (json.loads(emitted) if emitted else {}).items():
            if mark.endswith(_STAGED):
                counts[mark] = counts.get(mark, 0) + count
        if any(event.step_finished.key == last for event in EventBatch.FromString(events).events):
            break
    return json.dumps(counts) if counts else None


def _edited(record: StepRecord, output: bytes) -> bytes:
    record.output = output
    record.ClearField("failure")
    record.ClearField("interruption")
    record.undoable = False
    return record.SerializeToString()


def _fingerprint(request: ForkRunRequest) -> bytes:
    outputs: Mapping[str, str] = {key: output.hex() for key, output in request.outputs.items()}
    same = ("fork", request.run_id.lower(), request.position, outputs)
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).digest()


def _named(key: str) -> str:
    return f"outputs[{key!r}]"


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return False
    return True


def _no_json(constant: str) -> None:
    """Refuse NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(constant)
