"""The Invoker's role can judge, apply and undo, and a dispatcher's delivery reaches the items by no grant."""

import pytest

from holdfast.ledger import batch_resend, batch_review, batch_sample, batch_view
from holdfast.ledger.batch_review import Judgement
from holdfast.ledger.batch_view import ItemFilter
from holdfast.ledger.domain.batch_sample import Strata
from holdfast.ledger.domain.delivery import EffectStatus
from tests.support.batch import counts
from tests.support.batch_apply import Dispatcher, accept_all, apply, in_review, roll_back, worked_off
from tests.support.ledger import open_ledger
from tests.support.outbox import make_destination, open_session


async def test_the_roles_of_invoker_and_dispatcher_do_it_together(database_url: str) -> None:
    async with (
        open_ledger(database_url) as owner,
        open_ledger(database_url, role_name="holdfast_invoker") as db,
        open_ledger(database_url, role_name="holdfast_dispatcher") as dispatching,
    ):
        for name in ("crm", "crm-undo"):
            await make_destination(owner, name, tenant="acme")
        crm = Dispatcher(dispatching, await open_session(dispatching))
        which = await in_review(owner, 4, min_accepted_share=0.9, min_judged=2, reviewer_intent="count")
        await worked_off(db, which)  # the sample for the agent
        async with db.connection() as connection:
            assert await batch_sample.draw(connection, which.batch_id, 2, Strata(by_label=True), seed=1)
            assert await batch_view.these_items(connection, which.batch_id, [0])
        await batch_review.review(db, "acme", which.batch_id, [Judgement(0, True, "", b"1", "ann")])
        await accept_all(db, which)
        await apply(db, which)
        await worked_off(db, which)
        await crm.send(1, EffectStatus.DEAD_LETTERED)
        await crm.send()
        await worked_off(db, which)
        assert (await batch_resend.apply_again(db, "acme", which.batch_id, ItemFilter()))[1] == 1
        await crm.send()
        await worked_off(db, which)
        await roll_back(db, which)
        await worked_off(db, which)
        await crm.send()
        await worked_off(db, which)
        assert await counts(owner, which) == {"ROLLED_BACK": 4}


@pytest.mark.parametrize("table", ["batch_news", "batch_deed", "batch_review", "batch_applying"])
@pytest.mark.parametrize("service", ["dispatcher", "checkpoint", "approval"])
async def test_no_other_role_sees_what_is_done_for_batches(
    database_url: str, service: str, table: str
) -> None:
    async with open_ledger(database_url, role_name=f"holdfast_{service}") as db:
        with pytest.raises(Exception, match="permission denied"):
            async with db.connection() as connection:
                await connection.execute(f"SELECT FROM {table}")
