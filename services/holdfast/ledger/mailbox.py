"""Signals to runs: durable before they are acknowledged, received once, in order of arrival.

sent ──(the run lives, there is room)──▶ waiting ──(a commit consumes it)──▶ consumed ──(the run ends)──▶ gone
                                            └──(the run ends)──▶ gone

The run's row lock orders all of it against the run's end: `signal` takes it, and so does every commit and
every end. A commit consumes what waits or does not land, so nothing is consumed twice, nor under a lease
that is over. A signal under a key for which the run is parked wakes it: that moves its tenant's queue, so the
tenant is locked first.
"""

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import (
    Fault,
    InputRejected,
    InvalidField,
    MailboxFull,
    RunEnded,
    RunNotFound,
    SignalIdReused,
    Violation,
)
from holdfast.ledger.domain.mailbox import Box, Entry, InputPolicy, entry, is_urgent
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.holder import Holder
from holdfast.ledger.mailbox_view import Signal
from holdfast.ledger.park import wake
from holdfast.ledger.release import lock_tenants

OVERHEAD: Final = 256
"""Bytes a signal counts beside its payload: an empty one is not for nothing."""


@dataclass(frozen=True, slots=True)
class Signalled:
    """A signal that is durable; `holder` is the runner to tell, None if nobody holds the run or it is old.

    `pools` got work, for the run was parked and wakes.
    """

    signal: Signal
    holder: Holder | None = None
    repeated: bool = False
    pools: list[str] = field(default_factory=list)


class _TenantFirst(Exception):  # noqa: N818 - not a fault: the way to begin again with the locks in order
    """The run wakes, and its tenant is not locked."""


_LOCK: Final = """
SELECT s.status, s.mail_waiting, s.mail_bytes, s.agent_version, s.park_keys, r.intent
FROM run_state s JOIN run r ON r.run_id = s.run_id
WHERE s.run_id = $1 AND s.tenant = $2 FOR NO KEY UPDATE OF s
"""

# Of a run that no runner has taken yet the version is not known: the one that was seen last will most likely
# take it.
_LOOK: Final = """
SELECT (SELECT on_input FROM served_intent WHERE intent = $3
        ORDER BY (agent_version = $4) DESC, last_seen_time DESC LIMIT 1) AS policy,
       m.sequence, m.urgent, m.fingerprint, l.session_id, l.epoch, r.address
FROM (SELECT $1::uuid AS run_id) u
LEFT JOIN mailbox m ON m.run_id = u.run_id AND m.signal_id = $2
LEFT JOIN lease l ON l.run_id = u.run_id
LEFT JOIN runner_session r ON r.session_id = l.session_id
"""

_PUT: Final = """
WITH counted AS (
    UPDATE run_state
    SET mail_last = mail_last + 1, mail_waiting = mail_waiting + 1, mail_bytes = mail_bytes + $7
    WHERE run_id = $1 RETURNING mail_last
)
INSERT INTO mailbox (run_id, signal_id, sequence, key, urgent, fingerprint, payload, size)
SELECT $1, $2, mail_last, $3, $4, $5, $6, $7 FROM counted RETURNING sequence
"""

_CONSUME: Final = """
WITH used AS (
    UPDATE mailbox m SET consumed = true, payload = ''
    FROM unnest($1::uuid[], $2::text[]) AS u (run_id, signal_id)
    WHERE m.run_id = u.run_id AND m.signal_id = u.signal_id AND NOT m.consumed
    RETURNING m.run_id, m.size
), counted AS (
    SELECT run_id, count(*) AS n, sum(size) AS bytes FROM used GROUP BY run_id
)
UPDATE run_state s SET mail_waiting = s.mail_waiting - c.n, mail_bytes = s.mail_bytes - c.bytes
FROM counted c WHERE s.run_id = c.run_id
RETURNING s.run_id, c.n
"""

_FORGET: Final = """
WITH gone AS (DELETE FROM mailbox WHERE run_id = ANY($1::uuid[]))
UPDATE run_state SET mail_waiting = 0, mail_bytes = 0 WHERE run_id = ANY($1::uuid[]) AND mail_waiting > 0
"""


def fingerprint_of(key: str, payload: bytes, *, urgent: bool) -> bytes:
    """Digest what makes two calls under one id the same; `payload` is JSON with its keys in order."""
    return hashlib.sha256(json.dumps([key, urgent]).encode() + b"\n" + payload).digest()


async def signal(
    db: Database,
    tenant: str,
    run_id: UUID,
    *,
    key: str,
    payload: bytes,
    signal_id: str = "",
    urgent: bool = False,
) -> Signalled:
    """Put a signal in a run's mailbox; it is durable when this returns.

    Repeatable with a `signal_id` until the run ends, also after the signal was consumed; without one an id is
    made, and a call that had no answer must not be repeated. `payload` is JSON with its keys in order.
    Raises `RunNotFound` (also for another tenant's run), `RunEnded` with the status, `InputRejected`,
    `MailboxFull`, and `SignalIdReused` for another key, payload or urgency under the same id. Locks the run,
    and its tenant before it if the run wakes.
    """
    sent = _Sent(run_id, signal_id or str(uuid.uuid4()), key, payload, urgent)

    async def once(*, tenant_first: bool = False) -> Signalled:
        async with db.transaction() as connection:
            if tenant_first:
                await lock_tenants(connection, [tenant])
            return await _put(connection, tenant, sent, may_wake=tenant_first)

    try:
        return await db.retrying(once)
    except _TenantFirst:
        return await db.retrying(lambda: once(tenant_first=True))


async def deliver(
    connection: Connection,
    tenant: str,
    run_id: UUID,
    *,
    key: str,
    payload: bytes,
    signal_id: str,
    urgent: bool = False,
) -> Signalled:
    """Put a signal of the platform's in a run's mailbox, within a transaction that has locked the tenant.

    As `signal`, but for its transaction and its bound: what the platform itself has to tell is let in also
    where the mailbox is full. Locks the run.
    """
    sent = _Sent(run_id, signal_id, key, payload, urgent)
    return await _put(connection, tenant, sent, may_wake=True, bounded=False)


@dataclass(frozen=True, slots=True)
class _Sent:
    run_id: UUID
    signal_id: str
    key: str
    payload: bytes
    urgent: bool

    @property
    def fingerprint(self) -> bytes:
        return fingerprint_of(self.key, self.payload, urgent=self.urgent)

    def signal(self, sequence: int, *, urgent: bool) -> Signal:
        return Signal(self.run_id, self.signal_id, self.key, self.payload, urgent, sequence)


async def _put(
    connection: Connection, tenant: str, sent: _Sent, *, may_wake: bool, bounded: bool = True
) -> Signalled:
    run_id, key = sent.run_id, sent.key
    locked = await connection.fetchrow(_LOCK, run_id, tenant)
    if locked is None:
        raise RunNotFound("There is no such run.", facts={"run_id": str(run_id)})
    wakes = locked["status"] == RunStatus.PARKED and key in (locked["park_keys"] or ())
    if wakes and not may_wake:
        raise _TenantFirst
    # In a statement after the lock: a repeated call may have been waiting for the first one.
    found = await connection.fetchrow(
        _LOOK, run_id, sent.signal_id, locked["intent"], locked["agent_version"]
    )
    if found["sequence"] is not None:
        return _repeated(found, sent)
    box = Box(
        RunStatus(locked["status"]),
        InputPolicy(found["policy"] or InputPolicy.ENQUEUE),
        locked["mail_waiting"],
        locked["mail_bytes"],
    )
    size = OVERHEAD + len(sent.payload) + len(key)
    decided = entry(box, key, size)
    if bounded or decided is not Entry.FULL:
        _refuse_unless_it_enters(decided, box, run_id)
    urgent = is_urgent(box, key, asked=sent.urgent)
    sequence = await connection.fetchval(
        _PUT, run_id, sent.signal_id, key, urgent, sent.fingerprint, sent.payload, size
    )
    holder = None
    if found["address"] is not None:
        holder = Holder(found["session_id"], found["address"], found["epoch"])
    pools = await wake(connection, [run_id]) if wakes else []
    return Signalled(sent.signal(sequence, urgent=urgent), holder, pools=pools)


async def consume(connection: Connection, consumed: Sequence[tuple[UUID, Sequence[str]]]) -> None:
    """Take signals out of the mailboxes of runs whose commits have just landed, in the same transaction.

    Raises `InvalidField` naming the run in its facts if one of its signals does not wait: then nothing of the
    transaction must land.
    """
    pairs = [(run_id, signal_id) for run_id, ids in consumed for signal_id in ids]
    if not pairs:
        return
    rows = await connection.fetch(_CONSUME, [run_id for run_id, _ in pairs], [each for _, each in pairs])
    used = Counter({row["run_id"]: row["n"] for row in rows})
    for run_id, ids in consumed:
        if used[run_id] != len(ids):
            wrong = Violation("consumed_signal_ids", "must all wait in the run's mailbox")
            raise InvalidField(
                "A consumed signal does not wait.", facts={"run_id": str(run_id)}, violations=[wrong]
            )


async def forget(connection: Connection, run_ids: Sequence[UUID]) -> None:
    """Clear the mailboxes of runs that have ended, under their locks: what nobody received is gone."""
    if run_ids:
        await connection.execute(_FORGET, list(run_ids))


def _repeated(found: Any, sent: _Sent) -> Signalled:
    if found["fingerprint"] != sent.fingerprint:
        raise SignalIdReused(
            "The run was sent another signal under this id.",
            facts={"run_id": str(sent.run_id), "signal_id": sent.signal_id},
        )
    return Signalled(sent.signal(found["sequence"], urgent=found["urgent"]), repeated=True)


def _refuse_unless_it_enters(decided: Entry, box: Box, run_id: UUID) -> None:
    facts = {"run_id": str(run_id)}
    refusal: Fault
    if decided is Entry.ENTERS:
        return
    if decided is Entry.ENDED:
        refusal = RunEnded(
            f"The run has ended: {box.status.name}.", facts={**facts, "status": box.status.name}
        )
    elif decided is Entry.REJECTED:
        refusal = InputRejected("The agent takes no input while it runs.", facts=facts)
    else:
        refusal = MailboxFull(
            "Too much waits in the run's mailbox.",
            facts={**facts, "waiting": str(box.waiting), "bytes": str(box.bytes)},
            quota="mailbox",
        )
    raise refusal
