"""What people see of the outbox: an effect with its history, and lists by status, destination or run."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any, Final

from holdfast.kit.errors import EffectNotFound
from holdfast.ledger.domain.delivery import EffectStatus
from holdfast.ledger.values import Failure

HISTORY: Final = 20
"""How many attempts are shown, the last ones."""


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt to deliver an effect; `http_status` 0 if nothing was answered."""

    attempt_time: datetime
    http_status: int
    failure: Failure | None
    duration_s: float


@dataclass(frozen=True, slots=True)
class EffectView:
    """An effect as it stands. `body` is None and `history` empty where a list leaves them out."""

    effect_id: uuid.UUID
    seq: int
    run_id: uuid.UUID | None
    step: str
    destination: str
    idempotency_key: str
    ordering_key: str
    status: EffectStatus
    attempts: int
    last_failure: Failure | None
    next_attempt_time: datetime | None
    create_time: datetime
    deliver_time: datetime | None
    body: bytes | None = None
    history: Sequence[AttemptView] = ()


@dataclass(frozen=True, slots=True)
class EffectFilter:
    """Which effects to list; what is left out does not filter."""

    statuses: frozenset[EffectStatus] = frozenset()
    destination: str = ""
    run_id: uuid.UUID | None = None


_COLUMNS: Final = """
    e.effect_id, e.seq, e.run_id, e.step, e.idempotency_key, e.ordering_key, e.attempts, e.last_failure,
    e.next_attempt_time, e.create_time, e.deliver_time, e.destination_id,
    CASE WHEN e.status = 1 AND EXISTS (SELECT FROM effect_lease l WHERE l.effect_id = e.effect_id)
         THEN 2 ELSE e.status END AS status
"""

_GET: Final = f"""
-- Read an effect of a tenant.
SELECT {_COLUMNS}, e.body, d.name AS destination
FROM effect e JOIN destination d USING (destination_id) WHERE e.effect_id = $1 AND e.tenant = $2
"""  # noqa: S608 - composed of our own constants

_HISTORY: Final = """
-- Read the last attempts of an effect, oldest first.
SELECT * FROM (
    SELECT number, attempt_time, http_status, failure, duration_ms FROM effect_attempt
    WHERE effect_id = $1 ORDER BY number DESC LIMIT $2) last
ORDER BY number
"""

_DESTINATION: Final = """
SELECT destination_id FROM destination WHERE tenant = $1 AND name = $2
"""

_PENDING: Final = "e.status = 1 AND NOT EXISTS (SELECT FROM effect_lease l WHERE l.effect_id = e.effect_id)"
_NOT_ENDED: Final = frozenset({EffectStatus.PENDING, EffectStatus.SENDING})
_ALL: Final = "effect e"
# What is being sent is found from its lease: OFFSET 0 keeps the planner from walking all that are pending.
_LEASED: Final = """(SELECT effect_id FROM effect_lease WHERE tenant = $1) l
    CROSS JOIN LATERAL (SELECT * FROM effect WHERE effect_id = l.effect_id OFFSET 0) e"""


async def get(connection: Any, tenant: str, effect_id: uuid.UUID) -> EffectView:
    """Read an effect with body and history. Raises `EffectNotFound`, also for another tenant's."""
    row = await connection.fetchrow(_GET, effect_id, tenant)
    if row is None:
        raise EffectNotFound(f"There is no effect {effect_id}.", facts={"effect_id": str(effect_id)})
    history = await connection.fetch(_HISTORY, effect_id, HISTORY)
    return _view(row, body=row["body"], history=[_attempt(attempt) for attempt in history])


async def page(
    connection: Any,
    tenant: str,
    wanted: EffectFilter,
    *,
    limit: int,
    before_seq: int | None = None,
    after_seq: int | None = None,
) -> list[EffectView]:
    """List effects newest first, those before `before_seq`; whatever the filter, found through an index.

    With `after_seq` instead, those after it, oldest first.
    """
    destination_id = None
    if wanted.destination:
        destination_id = await connection.fetchval(_DESTINATION, tenant, wanted.destination)
        if destination_id is None:
            return []
    oldest_first = after_seq is not None
    bound = after_seq if oldest_first else before_seq
    given = [value for value in (bound, destination_id, wanted.run_id) if value is not None]
    sql = _page_sql(wanted, bound, oldest_first=oldest_first)
    rows = await connection.fetch(sql, tenant, limit, *given)
    return [_view(row) for row in rows]


def _page_sql(wanted: EffectFilter, bound: int | None, *, oldest_first: bool) -> str:
    """Compose the query: an index gives each status newest (or oldest) first, and these are merged."""
    beyond, order = (">", "ASC") if oldest_first else ("<", "DESC")
    numbers = count(3)  # after the tenant and the limit, in the order of the arguments
    narrow = f" AND e.seq {beyond} ${next(numbers)}" if bound is not None else ""
    if wanted.destination:
        narrow += f" AND e.destination_id = ${next(numbers)}"
    if wanted.run_id is not None:
        narrow += f" AND e.run_id = ${next(numbers)}"
    branches = [
        f"(SELECT {_COLUMNS} FROM {source} WHERE e.tenant = $1 AND {condition}{narrow}"  # noqa: S608 - our constants
        f" ORDER BY e.seq {order} LIMIT $2)"
        for source, condition in _branches(wanted)
    ]
    return (
        "-- List effects.\n"
        f"SELECT page.*, d.name AS destination FROM ({' UNION ALL '.join(branches)}) page "
        f"JOIN destination d USING (destination_id) ORDER BY page.seq {order} LIMIT $2"
    )


def _branches(wanted: EffectFilter) -> list[tuple[str, str]]:
    """Return from where and under which condition effects are read, each along one index."""
    statuses = wanted.statuses or frozenset(EffectStatus)
    if wanted.run_id is not None and not wanted.statuses:
        return [(_ALL, "TRUE")]  # the index of a run's effects knows no status
    branches = [(_ALL, f"e.status = {int(status)}") for status in sorted(statuses - _NOT_ENDED)]
    if statuses >= _NOT_ENDED:
        branches.append((_ALL, "e.status = 1"))
    elif EffectStatus.PENDING in statuses:
        branches.append((_ALL, _PENDING))
    elif EffectStatus.SENDING in statuses:
        branches.append((_LEASED, "e.status = 1"))
    return branches


def _view(row: Any, *, body: bytes | None = None, history: Sequence[AttemptView] = ()) -> EffectView:
    status = EffectStatus(row["status"])
    return EffectView(
        effect_id=row["effect_id"],
        seq=row["seq"],
        run_id=row["run_id"],
        step=row["step"],
        destination=row["destination"],
        idempotency_key=row["idempotency_key"],
        ordering_key=row["ordering_key"],
        status=status,
        attempts=row["attempts"],
        last_failure=Failure.from_json(row["last_failure"]),
        next_attempt_time=row["next_attempt_time"] if status is EffectStatus.PENDING else None,
        create_time=row["create_time"],
        deliver_time=row["deliver_time"],
        body=body,
        history=history,
    )


def _attempt(row: Any) -> AttemptView:
    return AttemptView(
        attempt_time=row["attempt_time"],
        http_status=row["http_status"],
        failure=Failure.from_json(row["failure"]),
        duration_s=row["duration_ms"] / 1000,
    )
