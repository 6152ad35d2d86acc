"""Deeds: what items are given to do outside, an effect or a run, each of its purpose once per item.

All of it runs under the lock of the batch's tenant and the batch, in the transaction that moves the items: an
item has its deed and stands where that says, or neither. The outbox is locked last.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from holdfast.kit.db import Connection
from holdfast.kit.errors import DestinationNotFound, Fault, InvalidField, QueueFull, RateLimited
from holdfast.kit.ids import new_id
from holdfast.ledger import outbox
from holdfast.ledger.admission import Placements, admit_within
from holdfast.ledger.batch_counting import COUNTED
from holdfast.ledger.batch_view import ItemFilter
from holdfast.ledger.domain.batch import ItemStatus
from holdfast.ledger.outbox import StagedEffect
from holdfast.ledger.values import Admitted, Failure, Invocation, Refused

APPLIES: Final = 1
UNDOES: Final = 2
JUDGES: Final = 3
MOST_BYTES: Final = 8 * 1024 * 1024
"""So much of items is read at once, and one item more."""
_DISTINCT: Final = {APPLIES: "apply", UNDOES: "undo", JUDGES: "review"}


@dataclass(frozen=True, slots=True)
class Given:
    """An item and what makes its deed; `output` as it was edited, all of it JSON.

    `follow_up_run_id` is the run that has applied it, if one has; `result` what that returned, while kept.
    """

    tenant: str
    batch_id: UUID
    index: int
    key: str
    payload: bytes
    current: bytes | None
    output: bytes
    label: str
    confidence: float | None
    spec: bytes
    target: bytes
    review: bytes
    priority: int
    follow_up_run_id: UUID | None = None
    result: bytes | None = None

    def name(self, purpose: int) -> str:
        """Return the idempotency key of its deed of that purpose."""
        return f"batch/{self.batch_id}/{self.index}/{_DISTINCT[purpose]}"

    def body(self) -> bytes:
        """Return what a destination is given: the item, its parts byte for byte as they are stored."""
        current = b"" if self.current is None else b',"current":' + self.current
        return b'{"batch_id":"%s","index":%d,"key":%s,"payload":%s%s,"output":%s}' % (
            str(self.batch_id).encode(),
            self.index,
            json.dumps(self.key, ensure_ascii=False).encode(),
            self.payload,
            current,
            self.output,
        )


OF_ITEM: Final = """
    i.index, n.key, n.payload, n.current, coalesce(r.edited, o.output) AS output, i.label, i.confidence
"""
"""What is read of an item, of `batch_item i` and the rows `BESIDE` it."""
BESIDE: Final = """
CROSS JOIN LATERAL (
    SELECT * FROM batch_input n WHERE n.batch_id = $1 AND n.index = i.index LIMIT 1
) n
CROSS JOIN LATERAL (
    SELECT * FROM batch_output o WHERE o.batch_id = $1 AND o.index = i.index LIMIT 1
) o
LEFT JOIN LATERAL (
    SELECT edited FROM batch_review r WHERE r.batch_id = $1 AND r.index = i.index LIMIT 1
) r ON true
"""

# Of large items fewer are read at once; the first always is. Lengths are known without reading the bodies.
LENGTH: Final = """
    octet_length(n.payload) + coalesce(octet_length(n.current), 0)
        + octet_length(coalesce(r.edited, o.output))
"""
ACCEPTED: Final = f"""
SELECT * FROM (
    SELECT {OF_ITEM},
           sum({LENGTH})
               OVER (ORDER BY i.index ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
    FROM (
        SELECT * FROM batch_item WHERE batch_id = $1 AND status = 4 ORDER BY index LIMIT $2
    ) i {BESIDE}
) s WHERE s.before IS NULL OR s.before < {MOST_BYTES} ORDER BY s.index
"""  # noqa: S608 - composed of our own constants
ITEMS: Final = f"""
SELECT {OF_ITEM} FROM (
    SELECT * FROM batch_item WHERE batch_id = $1 AND index = ANY($2::bigint[]) AND status = 3
) i {BESIDE} ORDER BY i.index
"""  # noqa: S608 - composed of our own constants

WHICH: Final = """
    ($2 = '' OR i.label = $2) AND ($3::float8 = 0 OR i.confidence < $3)
    AND (cardinality($4::text[]) = 0 OR i.index = ANY(ARRAY(
        SELECT k.index FROM batch_input k WHERE k.batch_id = $1 AND k.key = ANY($4))))
"""
"""Which items `undo_filter` means, of `batch_item i`; $2 to $4 are a label, a confidence and keys."""
DONE: Final = """
WITH u AS MATERIALIZED (
    SELECT * FROM unnest($2::bigint[], $3::uuid[]) WITH ORDINALITY AS u (index, id, place)
)
INSERT INTO batch_deed (id, batch_id, index, purpose, by_run)
SELECT id, $1, index, $4, $5 FROM u ORDER BY place
"""
MOVE: Final = f"""
WITH u AS MATERIALIZED (
    SELECT * FROM unnest($2::bigint[], $4::text[]) AS u (index, failure)
), was AS MATERIALIZED (
    SELECT i.index, i.status AS old, $3::smallint AS new, u.failure
    FROM u JOIN batch_item i ON i.batch_id = $1 AND i.index = u.index
), moved AS (
    UPDATE batch_item i SET status = w.new, failure = w.failure::jsonb, update_time = clock_timestamp()
    FROM was w WHERE i.batch_id = $1 AND i.index = w.index
), {COUNTED}
SELECT count(*) FROM was
"""  # noqa: S608 - composed of our own constants


def filter_arguments(which: ItemFilter) -> tuple[str, float, list[str]]:
    """Return the arguments $2 to $4 of `WHICH`."""
    return which.label, which.max_confidence, list(which.keys)


async def accepted(connection: Connection, batch: Any, limit: int) -> list[Given]:
    """Read accepted items by index, the first ones."""
    rows = await connection.fetch(ACCEPTED, batch["batch_id"], limit)
    return [given_of(batch, row) for row in rows]


async def items(connection: Connection, batch: Any, indexes: Sequence[int]) -> list[Given]:
    """Read staged items."""
    rows = await connection.fetch(ITEMS, batch["batch_id"], list(indexes))
    return [given_of(batch, row) for row in rows]


async def apply(
    connection: Connection, batch: Any, given: Sequence[Given], follow_up: Callable[[Given], Invocation]
) -> tuple[int, list[str]]:
    """Give accepted items their deed; return how many moved, and the pools that got work.

    One that cannot have it (its key stands for something of someone else's, its payload is refused) has
    failed and says why. With a full queue the rest stays accepted.
    """
    if batch["apply_destination"]:
        ids, failed = await stage(connection, given, batch["apply_destination"], APPLIES)
        pools: list[str] = []
    else:
        ids, failed, pools = await admit(connection, given, follow_up, APPLIES)
    by_run = not batch["apply_destination"]
    await record(connection, batch["batch_id"], ids, APPLIES, by_run=by_run)
    await move(connection, batch["batch_id"], list(ids), ItemStatus.APPLYING)
    await fail(connection, batch["batch_id"], failed, ItemStatus.APPLY_FAILED)
    return len(ids) + len(failed), pools


async def ask(
    connection: Connection, batch: Any, given: Sequence[Given], judge: Callable[[Given], Invocation]
) -> tuple[list[int], list[int], list[str]]:
    """Let an agent judge staged items; return those for which there was no room yet.

    And those it cannot be asked about, and the pools that got work.
    """
    ids, failed, pools = await admit(connection, given, judge, JUDGES)
    await record(connection, batch["batch_id"], ids, JUDGES, by_run=True)
    later = [each.index for each in given if each.index not in ids and each.index not in failed]
    return later, list(failed), pools


async def move(
    connection: Connection,
    batch_id: UUID,
    indexes: Sequence[int],
    status: ItemStatus,
    failures: Sequence[str | None] | None = None,
) -> None:
    """Move items, counted; failures are JSON."""
    if indexes:
        why = [None] * len(indexes) if failures is None else list(failures)
        await connection.execute(MOVE, batch_id, list(indexes), int(status), why)


async def stage(
    connection: Connection, given: Sequence[Given], destination: str, purpose: int
) -> tuple[dict[int, UUID], dict[int, Failure]]:
    """Stage an effect for each; return their ids, and why some have none, by the items' indexes."""
    left = [
        StagedEffect(
            effect_id=new_id(),
            tenant=each.tenant,
            destination=destination,
            idempotency_key=each.name(purpose),
            body=each.body(),
        )
        for each in given
    ]
    by_id = {effect.effect_id: each.index for effect, each in zip(left, given, strict=True)}
    failed: dict[int, Failure] = {}
    while left:
        try:
            async with connection.transaction():
                await outbox.stage(connection, left)
            break
        except (InvalidField, DestinationNotFound) as fault:
            wrong = _wrong(fault, left)
            failed |= {by_id[effect.effect_id]: Failure(fault.reason, fault.message) for effect in wrong}
            left = [effect for effect in left if effect not in wrong]
    return {by_id[effect.effect_id]: effect.effect_id for effect in left}, failed


def _wrong(fault: Fault, effects: Sequence[StagedEffect]) -> list[StagedEffect]:
    if isinstance(fault, DestinationNotFound):
        return list(effects)
    return [effect for effect in effects if str(effect.effect_id) == fault.facts["effect_id"]]


async def admit(
    connection: Connection, given: Sequence[Given], compose: Callable[[Given], Invocation], purpose: int
) -> tuple[dict[int, UUID], dict[int, Failure], list[str]]:
    """Admit a run for each; return their ids, why some have none, and the pools that got work.

    Those for which the queue has no room are in neither.
    """
    failed: dict[int, Failure] = {}
    envelopes: list[tuple[Given, Invocation]] = []
    for each in given:
        try:
            envelopes.append((each, compose(each)))
        except Fault as fault:
            failed[each.index] = Failure(fault.reason, fault.message)
    ids: dict[int, UUID] = {}
    pools: dict[str, None] = {}
    if envelopes:
        answers = await admit_within(connection, [envelope for _, envelope in envelopes], Placements())
        for (each, _), answer in zip(envelopes, answers, strict=True):
            if isinstance(answer, Admitted) and answer.created:
                ids[each.index] = answer.run_id
                pools[answer.pool] = None
            elif isinstance(answer, Refused) and isinstance(answer.fault, QueueFull | RateLimited):
                continue  # it waits here instead of there
            else:
                failed[each.index] = Failure(
                    "IDEMPOTENCY_KEY_REUSED", f"A run of someone else's has the key {each.name(purpose)}."
                )
    return ids, failed, list(pools)


async def record(
    connection: Connection, batch_id: UUID, ids: dict[int, UUID], purpose: int, *, by_run: bool
) -> None:
    """Write deeds down, in the order of the items given."""
    if ids:
        await connection.execute(DONE, batch_id, list(ids), list(ids.values()), purpose, by_run)


async def fail(
    connection: Connection, batch_id: UUID, failed: dict[int, Failure], status: ItemStatus
) -> None:
    """Move items with why they failed."""
    await move(connection, batch_id, list(failed), status, [failure.to_json() for failure in failed.values()])


def given_of(
    batch: Any, row: Any, *, follow_up_run_id: UUID | None = None, result: bytes | None = None
) -> Given:
    """Read a row of `OF_ITEM`."""
    return Given(
        tenant=batch["tenant"],
        batch_id=batch["batch_id"],
        index=row["index"],
        key=row["key"],
        payload=row["payload"],
        current=row["current"],
        output=row["output"],
        label=row["label"],
        confidence=row["confidence"],
        spec=batch["spec"],
        target=batch["apply_target"] or b"",
        review=batch["review"] or b"",
        priority=batch["priority"],
        follow_up_run_id=follow_up_run_id,
        result=result,
    )
