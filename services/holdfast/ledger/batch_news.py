"""What came of deeds reaches their items: applied, undone or judged, or not and why.

Whoever ends an effect or a run only notes it; here the notes are read under the lock of the batch's tenant,
and are gone in the transaction that moves the items. An item that stands elsewhere meanwhile is left alone.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection, Database
from holdfast.ledger import batch_review
from holdfast.ledger.batch_counting import COUNTED, PACED
from holdfast.ledger.batch_lock import hold, needs_applying
from holdfast.ledger.batch_review import Judgement
from holdfast.ledger.domain.batch import BatchStatus
from holdfast.ledger.domain.batch_apply import JUDGED_IN

AT_ONCE: Final = 2000

Read = Callable[[int, UUID, bytes], Judgement | None]
"""Reads what a reviewing agent answered about an item; None for what is no judgement."""


@dataclass(frozen=True, slots=True)
class News:
    """Notes about the deeds of one batch, by their numbers."""

    tenant: str
    batch_id: UUID
    notes: Sequence[int]


# What is no deed (someone else's key looks like one of ours) belongs to nobody.
NEWS: Final = f"""
SELECT n.seq, b.tenant, d.batch_id
FROM (SELECT * FROM batch_news WHERE seq > $1 ORDER BY seq LIMIT {AT_ONCE}) n
LEFT JOIN LATERAL (SELECT * FROM batch_deed d WHERE d.id = n.id LIMIT 1) d ON true
LEFT JOIN LATERAL (SELECT tenant FROM batch b WHERE b.batch_id = d.batch_id LIMIT 1) b ON true
ORDER BY n.seq
"""  # noqa: S608 - a constant of ours
_FORGET: Final = "DELETE FROM batch_news WHERE seq = ANY($1::bigint[])"

# The last note of a deed counts: it may be sent again, and end again, before this is read.
HEAR: Final = f"""
WITH gone AS (
    DELETE FROM batch_news WHERE seq = ANY($2::bigint[]) RETURNING *
), last AS MATERIALIZED (
    SELECT DISTINCT ON (g.id) g.id, g.done, g.failure FROM gone g ORDER BY g.id, g.seq DESC
), was AS MATERIALIZED (
    SELECT i.index, i.status AS old, d.purpose, l.failure,
           CASE WHEN d.purpose = 1 THEN CASE WHEN l.done THEN 8 ELSE 9 END
                ELSE CASE WHEN l.done THEN 10 ELSE 11 END END AS new
    FROM last l
    CROSS JOIN LATERAL (SELECT * FROM batch_deed d WHERE d.id = l.id LIMIT 1) d
    CROSS JOIN LATERAL (
        SELECT * FROM batch_item i WHERE i.batch_id = d.batch_id AND i.index = d.index LIMIT 1
    ) i
    WHERE d.purpose = 1 AND (i.status = 7 OR i.status = 9 AND l.done)
       OR d.purpose = 2 AND (i.status = 8 OR i.status = 11 AND l.done)
), moved AS (
    UPDATE batch_item i SET status = w.new, failure = w.failure, update_time = clock_timestamp()
    FROM was w WHERE i.batch_id = $1 AND i.index = w.index
), undone AS (
    UPDATE batch SET undoing = undoing - (SELECT count(*) FROM was WHERE old = 8)
    WHERE batch_id = $1 AND EXISTS (SELECT FROM was WHERE old = 8)
), {COUNTED}, {PACED}
SELECT d.index, d.id, l.done, o.result FROM last l
CROSS JOIN LATERAL (SELECT * FROM batch_deed d WHERE d.id = l.id AND d.purpose = 3 LIMIT 1) d
LEFT JOIN LATERAL (SELECT result FROM run_outcome o WHERE o.run_id = l.id LIMIT 1) o ON true
"""  # noqa: S608 - composed of our own constants

# Nobody's judgement is one less than the sample has: another item is asked about, while there are any.
_REPLACE: Final = """
UPDATE batch SET to_ask = least(to_ask + $2, coalesce(cardinality(sample), 0)) WHERE batch_id = $1 RETURNING *
"""
_STAGED: Final = """
SELECT index FROM batch_item WHERE batch_id = $1 AND index = ANY($2::bigint[]) AND status = 3
"""


async def arrived(db: Database, after: int = 0) -> tuple[list[News], int]:
    """Read a page of notes, at most `AT_ONCE`, and the number to go on after; 0 from the last page."""
    async with db.connection() as connection:
        rows = await connection.fetch(NEWS, after)
    stray = [row["seq"] for row in rows if row["tenant"] is None]
    if stray:
        async with db.connection() as connection:
            await connection.execute(_FORGET, stray)
    by_batch: dict[tuple[str, UUID], list[int]] = {}
    for row in rows:
        if row["tenant"] is not None:
            by_batch.setdefault((row["tenant"], row["batch_id"]), []).append(row["seq"])
    found = [News(tenant, batch_id, notes) for (tenant, batch_id), notes in by_batch.items()]
    return found, rows[-1]["seq"] if len(rows) == AT_ONCE else 0


async def hear(db: Database, news: News, read: Read) -> None:
    """Move the items that a batch's notes are about. Repeatable, by any number of Invokers at once."""

    async def once() -> None:
        async with db.transaction() as connection:
            row = await hold(connection, news.tenant, news.batch_id)
            answers = await connection.fetch(HEAR, news.batch_id, list(news.notes))
            if answers and BatchStatus(row["status"]) in JUDGED_IN:
                await _judge(connection, news.batch_id, answers, read)

    await db.retrying(once)


async def _judge(connection: Connection, batch_id: UUID, answers: Sequence[Any], read: Read) -> None:
    rows = await connection.fetch(_STAGED, batch_id, [row["index"] for row in answers])
    staged = {row["index"] for row in rows}
    asked = [row for row in answers if row["index"] in staged]
    found = [read(row["index"], row["id"], row["result"] or b"null") for row in asked if row["done"]]
    judgements = [each for each in found if each is not None]
    row = await connection.fetchrow(_REPLACE, batch_id, len(asked) - len(judgements))
    if judgements:
        row = await batch_review.meet(connection, await batch_review.judge(connection, batch_id, judgements))
    if row["policy_met"] or row["to_ask"]:
        await needs_applying(connection, row)


def judgement(index: int, run_id: UUID, result: bytes) -> Judgement | None:
    """Read the fields of `ItemReview` in a run's result; None if it is none, or rejects without a reason."""
    said = json.loads(result)
    if not isinstance(said, dict):
        return None
    verdict = str(said.get("verdict", "")).upper().removeprefix("REVIEW_VERDICT_")
    reason = str(said.get("reason") or "").replace("\0", "")[:1000]
    if verdict not in ("ACCEPT", "REJECT") or (verdict == "REJECT" and not reason):
        return None
    edited = said.get("edited_output")
    changed = None if edited is None or verdict == "REJECT" else json.dumps(edited, ensure_ascii=False)
    return Judgement(
        index,
        verdict == "ACCEPT",
        reason,
        None if changed is None else changed.encode(),
        str(run_id),
    )
