"""What is wrong with one batch holds up no other, and what is on its way is not asked for again and again."""

import pytest

from holdfast.kit.db import Database
from holdfast.ledger.batch_view import BatchView
from tests.invoker.stand import Invoker
from tests.kit.until import until
from tests.support.batch import counts, seen
from tests.support.batch_apply import Dispatcher, accept_all, apply, in_review
from tests.support.ledger import execute, fetch
from tests.support.outbox import make_destination, open_session


async def two_in_review(db: Database) -> tuple[BatchView, BatchView]:
    """Return two batches in the order in which an Invoker comes to them."""
    await make_destination(db, "crm", tenant="acme", max_concurrent=1000)
    await make_destination(db, "crm-undo", tenant="acme", max_concurrent=1000)
    first, second = sorted([await in_review(db, 2), await in_review(db, 2)], key=lambda each: each.batch_id)
    return first, second


async def test_a_batch_whose_step_fails_does_not_hold_up_the_others(door: Invoker) -> None:
    db = door.parts.db
    broken, sound = await two_in_review(db)
    await accept_all(db, sound)
    # Its policy applies to a destination that is there no longer.
    await execute(
        db,
        """UPDATE batch SET policy_met = true, apply_when_met = true, apply_target = 'x',
                            apply_destination = 'gone' WHERE batch_id = $1""",
        broken.batch_id,
    )
    await execute(
        db, "INSERT INTO batch_applying VALUES ($1, 'acme') ON CONFLICT DO NOTHING", broken.batch_id
    )
    await apply(db, sound)
    door.parts.applier.loop.wake()

    async def on_their_way() -> bool:
        return await counts(db, sound) == {"APPLYING": 2}

    await until(on_their_way)
    assert (await seen(db, broken)).status.name == "IN_REVIEW"


async def test_news_that_cannot_be_heard_holds_up_no_other_batch_s(door: Invoker) -> None:
    db = door.parts.db
    broken, sound = await two_in_review(db)
    for which in (broken, sound):
        await accept_all(db, which)
        await apply(db, which)
    await execute(
        db,
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
           AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$""",
    )
    await execute(
        db,
        f"""CREATE TRIGGER refuse BEFORE UPDATE ON batch_item FOR EACH ROW
            WHEN (NEW.batch_id = '{broken.batch_id}' AND NEW.status = 8) EXECUTE FUNCTION refuse()""",
    )
    dispatcher = Dispatcher(db, await open_session(db))

    async def applied() -> bool:
        await dispatcher.send()
        return (await seen(db, sound)).status.name == "APPLIED"

    await until(applied)
    assert await counts(db, broken) == {"APPLYING": 2}
    assert len(await fetch(db, "SELECT FROM batch_news")) == 2, "it can still be heard"


async def test_while_nothing_arrives_the_ledger_is_left_in_peace(door: Invoker) -> None:
    db, loop = door.parts.db, door.parts.applier.loop
    which, _ = await two_in_review(db)
    await accept_all(db, which)
    await apply(db, which)
    loop.wake()

    async def on_their_way() -> bool:
        return await counts(db, which) == {"APPLYING": 2}

    await until(on_their_way)
    with pytest.raises(TimeoutError):
        await loop.signal.completed(20, deadline=3)
