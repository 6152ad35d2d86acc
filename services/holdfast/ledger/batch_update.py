"""A batch is changed while it goes on: how many at a time, how urgent, what is borne, when it is accepted."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from holdfast.kit.db import Database
from holdfast.kit.errors import InvalidField, Violation
from holdfast.ledger.batch import refused
from holdfast.ledger.batch_lock import hold, needs_applying
from holdfast.ledger.batch_view import BatchView, view


@dataclass(frozen=True, slots=True)
class ReviewRule:
    """When staged outputs are accepted without a person; `stored` is the whole of it."""

    stored: bytes
    min_accepted_share: float = 0.0
    min_judged: int = 0
    reviewer_intent: str = ""
    apply_when_met: bool = False


_UPDATE: Final = """
UPDATE batch
SET max_parallelism = coalesce($2, max_parallelism), priority = coalesce($3, priority),
    tolerated_items = coalesce($4, tolerated_items), tolerated_share = coalesce($5, tolerated_share),
    apply_per_second = coalesce($6, apply_per_second)
WHERE batch_id = $1 RETURNING *
"""
_RULE: Final = """
UPDATE batch
SET review = $2, min_accepted_share = $3, min_judged = $4, reviewer_intent = $5, apply_when_met = $6
WHERE batch_id = $1 RETURNING *
"""


async def update(
    db: Database,
    tenant: str,
    batch_id: UUID,
    *,
    max_parallelism: int | None = None,
    priority: int | None = None,
    tolerance: tuple[int, float] | None = None,
    review: ReviewRule | None = None,
    apply_per_second: float | None = None,
) -> BatchView:
    """Change what is given; it holds for the items started, judged or applied next.

    Raises `BatchNotFound`, `BatchNotReady`, and `InvalidField` for a policy that applies what has no target.
    """
    async with db.transaction() as connection:
        row = await hold(connection, tenant, batch_id)
        if row["end_time"] is not None:
            raise refused(view(row), "has ended")
        if review is not None and review.apply_when_met and not row["apply_target"]:
            wrong = Violation("review.apply_when_met", "needs a target, which the batch has none of")
            raise InvalidField(f"{wrong.field} {wrong.description}", violations=[wrong])
        row = await connection.fetchrow(
            _UPDATE, batch_id, max_parallelism, priority, *(tolerance or (None, None)), apply_per_second
        )
        if review is not None:
            row = await connection.fetchrow(
                _RULE,
                batch_id,
                review.stored,
                review.min_accepted_share,
                review.min_judged,
                review.reviewer_intent,
                review.apply_when_met,
            )
            await needs_applying(connection, row)
        return view(row)
