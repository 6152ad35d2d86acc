"""A crowd follows a batch for what two do, and sees what it costs at the operator's price."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from holdfast.invoker.batch_progress import Progress
from holdfast.kit.db import Database
from holdfast.kit.errors import BatchNotFound, LedgerUnavailable
from tests.invoker.stand import Invoker
from tests.support.batch import new_batch
from tests.support.ledger import execute


class Counted:
    """A ledger that counts who comes, and can be away."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.asked = 0
        self.away = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        self.asked += 1
        if self.away:
            raise LedgerUnavailable("away")
        async with self._db.connection() as connection:
            yield connection


async def test_a_crowd_that_follows_one_batch_costs_one_reading_and_each_may_leave(door: Invoker) -> None:
    which = await new_batch(door.parts.db, 3, start=False)
    ledger: Any = Counted(door.parts.db)
    progress = Progress(ledger)
    crowd = [asyncio.create_task(progress.lately("acme", which.batch_id, within=60.0)) for _ in range(200)]
    await asyncio.sleep(0)
    crowd[0].cancel()
    told = await asyncio.gather(*crowd, return_exceptions=True)
    assert isinstance(told[0], asyncio.CancelledError)
    assert {
        reading.message.progress.total for reading in told[1:] if not isinstance(reading, BaseException)
    } == {3}
    await progress.lately("acme", which.batch_id, within=60.0)
    assert ledger.asked == 1
    await progress.now("acme", which.batch_id)
    assert ledger.asked == 2, "who asks what is now is told what is now"
    await progress.lately("acme", which.batch_id, within=0.0)
    assert ledger.asked == 3


async def test_a_reading_is_its_tenant_s_alone_and_a_failed_one_is_not_kept(door: Invoker) -> None:
    which = await new_batch(door.parts.db, 1, start=False)
    ledger: Any = Counted(door.parts.db)
    progress = Progress(ledger)
    await progress.now("acme", which.batch_id)
    for tenant, batch_id in (("other", which.batch_id), ("acme", uuid.uuid4())):
        with pytest.raises(BatchNotFound):
            await progress.lately(tenant, batch_id, within=60.0)
    ledger.away = True
    with pytest.raises(LedgerUnavailable):
        await progress.lately("acme", which.batch_id, within=0.0)
    ledger.away = False
    assert (await progress.lately("acme", which.batch_id, within=0.0)).message.progress.total == 1


async def test_tokens_cost_what_the_operator_says_a_million_of_them_do(door: Invoker) -> None:
    which = await new_batch(door.parts.db, 1, start=False)
    await execute(
        door.parts.db, "INSERT INTO batch_total (batch_id, tokens) VALUES ($1, 1500)", which.batch_id
    )
    for price, micros in ((0.0, 0), (2.5, 3750)):
        read = await Progress(door.parts.db, token_price=price).now("acme", which.batch_id)
        assert read.message.progress.cost_micros == micros
