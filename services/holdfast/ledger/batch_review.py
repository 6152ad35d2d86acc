"""Outputs in staging are judged: one by one, by people or an agent, or all that is left at once.

The last word on an item holds until it is being applied. What is to become of the rest is written down with
the judgements it came with, and carried out chunk by chunk by who called, or after a crash by any Invoker.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.kit.errors import BatchNotReady, InvalidField, Violation
from holdfast.ledger import batch
from holdfast.ledger.batch_counting import COUNTED
from holdfast.ledger.batch_lock import hold, needs_applying
from holdfast.ledger.batch_view import view
from holdfast.ledger.domain.batch import BatchStatus, ItemStatus
from holdfast.ledger.domain.batch_apply import JUDGE_CHUNK, JUDGEABLE, JUDGED_IN, Policy


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is said about one item; `edited` is the output as JSON, as it shall be."""

    index: int
    accepted: bool
    reason: str = ""
    edited: bytes | None = None
    reviewer: str = ""


@dataclass(frozen=True, slots=True)
class Rest:
    """What is said about all staged items nobody has judged."""

    accepted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """How many were judged one by one, how many of them accepted, and whether the policy accepts the rest."""

    judged: int
    accepted: int
    policy_met: bool


STAND: Final = """
SELECT index, status FROM batch_item WHERE batch_id = $1 AND index = ANY($2::bigint[])
"""

JUDGE: Final = f"""
WITH u AS MATERIALIZED (
    SELECT * FROM unnest($2::bigint[], $3::boolean[], $4::text[], $5::bytea[], $6::text[])
        AS u (index, accepted, reason, edited, reviewer)
), was AS MATERIALIZED (
    SELECT i.index, i.status AS old, CASE WHEN u.accepted THEN 4 ELSE 5 END AS new,
           coalesce(r.single, false) AS single
    FROM u
    JOIN batch_item i ON i.batch_id = $1 AND i.index = u.index
    LEFT JOIN batch_review r ON r.batch_id = $1 AND r.index = u.index
), moved AS (
    UPDATE batch_item i SET status = w.new, update_time = clock_timestamp()
    FROM was w WHERE i.batch_id = $1 AND i.index = w.index
), said AS (
    INSERT INTO batch_review AS r (batch_id, index, status, reason, reviewer, single, edited)
    SELECT $1, index, CASE WHEN accepted THEN 4 ELSE 5 END, reason, reviewer, true, edited FROM u
    ON CONFLICT (batch_id, index) DO UPDATE
    SET status = excluded.status, reason = excluded.reason, reviewer = excluded.reviewer, single = true,
        edited = CASE excluded.status WHEN 4 THEN coalesce(excluded.edited, r.edited) END,
        review_time = clock_timestamp()
), {COUNTED}
UPDATE batch
SET judged = judged + (SELECT count(*) FROM was WHERE NOT single),
    judged_accepted = judged_accepted + (SELECT count(*) FILTER (WHERE new = 4)
                                                - count(*) FILTER (WHERE single AND old = 4) FROM was)
WHERE batch_id = $1 RETURNING *
"""  # noqa: S608 - composed of our own constants

JUDGE_REST: Final = f"""
WITH was AS MATERIALIZED (
    SELECT index, 3 AS old, $2::int AS new FROM batch_item
    WHERE batch_id = $1 AND status = 3 ORDER BY index LIMIT {JUDGE_CHUNK}
), moved AS (
    UPDATE batch_item i SET status = w.new, update_time = clock_timestamp()
    FROM was w WHERE i.batch_id = $1 AND i.index = w.index
), said AS (
    INSERT INTO batch_review (batch_id, index, status, reason, reviewer, single)
    SELECT $1, index, $2, $3, $4, false FROM was
    ON CONFLICT (batch_id, index) DO NOTHING
), {COUNTED}
SELECT count(*) FROM was
"""  # noqa: S608 - composed of our own constants

_REST: Final = """
UPDATE batch SET rest_status = $2, rest_reason = $3, rest_reviewer = $4 WHERE batch_id = $1 RETURNING *
"""
MEET: Final = """
UPDATE batch SET policy_met = true, rest_status = 4, rest_reason = '', rest_reviewer = ''
WHERE batch_id = $1 RETURNING *
"""


async def review(
    db: Database,
    tenant: str,
    batch_id: UUID,
    judgements: Sequence[Judgement],
    rest: Rest | None = None,
    *,
    reviewer: str = "",
) -> Reviewed:
    """Store judgements, each index at most once, and what becomes of the rest; all or nothing.

    Repeatable. The rest is carried out by the Invoker's steps that follow. Raises `BatchNotFound`,
    `BatchNotReady` for a batch or an item that stands where it cannot be judged, `InvalidField` for an index
    the batch does not have.
    """

    async def once() -> Reviewed:
        async with db.transaction() as connection:
            row = await hold(connection, tenant, batch_id)
            if BatchStatus(row["status"]) not in JUDGED_IN:
                raise batch.refused(view(row), "cannot be reviewed")
            if rest is not None and BatchStatus(row["status"]) in (BatchStatus.RUNNING, BatchStatus.PAUSED):
                raise batch.refused(view(row), "cannot be judged whole before all items have ended")
            if judgements:
                await _refuse_unless_judgeable(connection, row, judgements)
                row = await judge(connection, batch_id, judgements)
            if rest is not None:
                status = ItemStatus.ACCEPTED if rest.accepted else ItemStatus.REJECTED
                row = await connection.fetchrow(_REST, batch_id, int(status), rest.reason, reviewer)
            else:  # what a person says of the rest goes before what the policy would
                row = await meet(connection, row)
            if row["rest_status"] or row["policy_met"]:
                await needs_applying(connection, row)
            return Reviewed(row["judged"], row["judged_accepted"], row["policy_met"])

    return await db.retrying(once)


async def carry_out(db: Database, tenant: str, batch_id: UUID) -> int:
    """Judge a chunk of the rest as someone has said; return how many. Repeatable."""

    async def once() -> int:
        async with db.transaction() as connection:
            return await judge_rest(connection, await hold(connection, tenant, batch_id))

    return await db.retrying(once)


async def judge_rest(connection: Connection, row: Any) -> int:
    """Judge a chunk of the rest of a locked batch, if anything was said about it; return how many."""
    if not row["rest_status"]:
        return 0
    said = (row["batch_id"], row["rest_status"], row["rest_reason"], row["rest_reviewer"])
    count: int = await connection.fetchval(JUDGE_REST, *said)
    return count


async def judge(connection: Connection, batch_id: UUID, judgements: Sequence[Judgement]) -> Any:
    """Move items that may be judged, under the tenant's lock; return the batch's row."""
    return await connection.fetchrow(
        JUDGE,
        batch_id,
        [each.index for each in judgements],
        [each.accepted for each in judgements],
        [each.reason for each in judgements],
        [each.edited for each in judgements],
        [each.reviewer for each in judgements],
    )


async def meet(connection: Connection, row: Any) -> Any:
    """Let the policy accept the rest if it is met and all items have ended; return the batch's row."""
    policy = Policy(row["min_accepted_share"], row["min_judged"])
    in_review = BatchStatus(row["status"]) is BatchStatus.IN_REVIEW
    if in_review and not row["policy_met"] and policy.met(row["judged"], row["judged_accepted"]):
        return await connection.fetchrow(MEET, row["batch_id"])
    return row


async def _refuse_unless_judgeable(connection: Connection, row: Any, judgements: Sequence[Judgement]) -> None:
    rows = await connection.fetch(STAND, row["batch_id"], [each.index for each in judgements])
    found = {each["index"]: ItemStatus(each["status"]) for each in rows}
    wrong = [
        Violation(f"reviews[{at}].index", "is not an item of the batch")
        for at, each in enumerate(judgements)
        if each.index not in found
    ]
    if wrong:
        raise InvalidField(f"{wrong[0].field} {wrong[0].description}", violations=wrong)
    for each in judgements:
        status = found[each.index]
        if status not in JUDGEABLE:
            raise BatchNotReady(
                f"Item {each.index} is {status.name}: it has no output that can be judged now.",
                facts={"batch_id": str(row["batch_id"]), "index": str(each.index), "status": status.name},
            )
