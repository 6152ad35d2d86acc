"""What tests of batches share: a batch in the ledger, driven by hand."""

import uuid
from typing import Any

from holdfast.kit.db import Database
from holdfast.ledger import batch
from holdfast.ledger.admission import Placements
from holdfast.ledger.batch import NewBatch, NewItem
from holdfast.ledger.batch_advance import Active, Advanced, Prepared, Work, advance
from holdfast.ledger.batch_view import BatchView, get
from holdfast.ledger.domain.batch import ItemStatus, light_intent
from holdfast.ledger.values import ServedIntent
from tests.support.ledger import fetch, invocation

LIGHT = light_intent("count")
LIGHTLY = (ServedIntent("count", "1"), ServedIntent(LIGHT, "1"))
"""What a runner serves that executes light items."""


def compose(work: Work) -> list[Prepared]:
    if work.light:
        together = [item for item in work.items if not item.alone]
        groups = [[item] for item in work.items if item.alone] + [together] * bool(together)
        return [Prepared(items, invocation(tenant=work.tenant, intent=LIGHT), light=True) for items in groups]
    return [
        Prepared(
            [item],
            invocation(
                tenant=work.tenant,
                idempotency_key=f"batch/{work.batch_id}/{item.index}/{item.attempt}",
                shape=4,
                priority=work.priority,
            ),
        )
        for item in work.items
    ]


async def new_batch(
    db: Database, items: int, *, tenant: str = "acme", start: bool = True, **more: Any
) -> BatchView:
    batch_id = uuid.uuid4()
    values: dict[str, Any] = {
        "idempotency_key": str(batch_id),
        "fingerprint": b"f",
        "spec": b"",
        "intent": "count",
    }
    made = await batch.create(db, NewBatch(batch_id=batch_id, tenant=tenant, **values | more))
    await batch.append(db, tenant, batch_id, 0, [NewItem("", b'{"n":%d}' % n) for n in range(items)])
    done = await batch.complete(db, tenant, batch_id, items)
    assert made.batch.batch_id == batch_id
    return await batch.start(db, tenant, batch_id) if start and done.status.name == "READY" else done


async def step(db: Database, which: BatchView) -> Advanced:
    return await advance(db, Active(which.batch_id, which.tenant), compose, lambda _: Placements())


async def seen(db: Database, which: BatchView) -> BatchView:
    async with db.connection() as connection:
        return await get(connection, which.tenant, which.batch_id)


async def counts(db: Database, which: BatchView) -> dict[str, int]:
    """Return the counters, having held them against the items."""
    rows = await fetch(
        db,
        """SELECT coalesce(c.status, i.status) AS status, coalesce(c.n, 0) AS counted,
                  coalesce(i.n, 0) AS there
           FROM (SELECT status, n FROM batch_count WHERE batch_id = $1) c
           FULL JOIN (SELECT status, count(*) AS n FROM batch_item WHERE batch_id = $1 GROUP BY status) i
           ON i.status = c.status""",
        which.batch_id,
    )
    for row in rows:
        assert row["counted"] == row["there"], dict(row)
    return {ItemStatus(row["status"]).name: row["there"] for row in rows if row["there"]}
