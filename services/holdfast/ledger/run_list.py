"""Listing a tenant's runs, newest first: each page costs what the page holds, whatever came before it.

The page is read along one index: of the parent, of the correlation id, of the conversation, of time, or of
each status asked for; what else is asked for filters on the way. A cursor is the last run's place, so runs
that come meanwhile neither repeat nor hide others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    bindparam,
    literal,
    literal_column,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB

from holdfast.kit.db import Database
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.run_view import COLUMNS, run_view
from holdfast.ledger.values import RunView

_FROM: Final = "run r JOIN run_state s ON s.run_id = r.run_id LEFT JOIN run_outcome o ON o.run_id = r.run_id"
_BY_TIME: Final = ("r.create_time", "r.seq")
_BY_SEQ: Final = ("r.seq",)
_BY_STATUS: Final = ("s.seq",)


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs; what is left empty does not filter."""

    statuses: tuple[RunStatus, ...] = ()
    intent: str = ""
    create_time_from: datetime | None = None
    create_time_before: datetime | None = None
    session_id: str = ""
    correlation_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    parent_run_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last run of a page."""

    create_time: datetime
    seq: int

    def __str__(self) -> str:
        return f"{self.create_time.isoformat()}/{self.seq}"

    @staticmethod
    def parse(token: str) -> "Cursor":
        """Read a page token. Raises ValueError if it is not one of ours."""
        moment, _, seq = token.partition("/")
        create_time = datetime.fromisoformat(moment)
        if create_time.tzinfo is None:
            raise ValueError("A cursor's time has a zone.")
        return Cursor(create_time, int(seq))


async def list_runs(
    db: Database, tenant: str, which: RunFilter, *, limit: int, after: Cursor | None = None
) -> tuple[list[RunView], Cursor | None]:
    """Read a page of runs, without envelope and result, and the cursor of the next; None on the last page."""
    async with db.query() as connection:
        result = await connection.execute(statement(tenant, which, limit + 1, after))
        runs = [run_view(row) for row in result.mappings()]
    if len(runs) <= limit:
        return runs, None
    last = runs[limit - 1]
    return runs[:limit], Cursor(last.create_time, last.seq)


def statement(tenant: str, which: RunFilter, limit: int, after: Cursor | None) -> Any:
    """Compose the query of a page."""
    if which.parent_run_id is not None:
        return _along(_BY_STATUS, [*_conditions(tenant, which), *_with(which.statuses)], limit, after)
    if which.correlation_id or which.session_id:
        return _along(_BY_SEQ, [*_conditions(tenant, which), *_with(which.statuses)], limit, after)
    timed = which.create_time_from is not None or which.create_time_before is not None
    if not which.statuses or timed:
        return _along(_BY_TIME, [*_conditions(tenant, which), *_with(which.statuses)], limit, after)
    parts = [
        _along(_BY_STATUS, [*_conditions(tenant, which), *_with((status,))], limit, after)
        for status in which.statuses
    ]
    if len(parts) == 1:
        return parts[0]
    return (
        select(text("*"))
        .select_from(union_all(*parts).subquery("page"))
        .order_by(literal_column("seq").desc())
        .limit(limit)
    )


def _along(
    index: tuple[str, ...], conditions: Sequence[ColumnElement[bool]], limit: int, after: Cursor | None
) -> Select[Any]:
    """Select along an index, named by the columns that order it."""
    keys: list[ColumnElement[Any]] = [literal_column(name) for name in index]
    if after is not None:
        place = [literal(after.create_time), literal(after.seq)][-len(keys) :]
        conditions = [*conditions, tuple_(*keys) < tuple_(*place)]
    return (
        select(text(COLUMNS))
        .select_from(text(_FROM))
        .where(and_(*conditions))
        .order_by(*(key.desc() for key in keys))
        .limit(limit)
    )


def _conditions(tenant: str, which: RunFilter) -> list[ColumnElement[bool]]:
    conditions = [literal_column("r.tenant") == tenant, literal_column("s.tenant") == tenant]
    if which.intent:
        conditions.append(literal_column("r.intent") == which.intent)
    if which.create_time_from is not None:
        conditions.append(literal_column("r.create_time") >= which.create_time_from)
    if which.create_time_before is not None:
        conditions.append(literal_column("r.create_time") < which.create_time_before)
    for column, value in (("r.session_id", which.session_id), ("r.correlation_id", which.correlation_id)):
        if value:  # the index holds only those that have one, and must be told
            conditions += [literal_column(column) == value, literal_column(column) != text("''")]
    if which.parent_run_id is not None:
        conditions.append(literal_column("s.parent_run_id") == which.parent_run_id)
    if which.labels:
        labels = bindparam(None, dict(which.labels), type_=JSONB)
        conditions.append(literal_column("r.labels", type_=JSONB).contains(labels))
    return conditions


def _with(statuses: tuple[RunStatus, ...]) -> list[ColumnElement[bool]]:
    numbers = [int(status) for status in statuses]
    if not numbers:
        return []
    column: ColumnElement[int] = literal_column("s.status")
    return [column == numbers[0] if len(numbers) == 1 else column.in_(numbers)]
