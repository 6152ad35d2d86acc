"""A crowd asks where runs stand, and the ledger is asked once for all of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

from holdfast.invoker.looks import Looks
from holdfast.kit.errors import LedgerUnavailable
from tests.invoker.runner import Runner
from tests.invoker.stand import Invoker


class Gate:
    """A ledger whose door opens when a test says so, or that is away."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self.asked = 0
        self.open = asyncio.Event()
        self.away = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        self.asked += 1
        await self.open.wait()
        if self.away:
            raise LedgerUnavailable("away")
        async with self._db.connection() as connection:
            yield connection


async def test_a_crowd_costs_two_queries(door: Invoker, worker: Runner) -> None:
    runs = [UUID((await door.invoke(idempotency_key=f"{n}")).run.run_id) for n in range(3)]
    for run_id in runs:
        await worker.take(str(run_id))
    gate: Any = Gate(door.parts.db)
    looks = Looks(gate)
    first = asyncio.create_task(looks.position(runs[0]))
    await asyncio.sleep(0)
    crowd = [asyncio.create_task(looks.position(run_id)) for run_id in [*runs, uuid4()] * 100]
    left = asyncio.create_task(looks.position(runs[1]))
    await asyncio.sleep(0)
    left.cancel()
    gate.open.set()
    positions = await asyncio.gather(first, *crowd)
    assert gate.asked <= 2
    assert [position and position.epoch for position in positions[1:5]] == [1, 1, 1, None]
    assert left.cancelled() or left.cancelling()


async def test_a_ledger_that_is_away_is_everybodys_answer_and_the_next_ask_anew(door: Invoker) -> None:
    gate: Any = Gate(door.parts.db)
    gate.away = True
    gate.open.set()
    looks = Looks(gate)
    answers = await asyncio.gather(*(looks.position(uuid4()) for _ in range(5)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {LedgerUnavailable}
    gate.away = False
    assert await looks.position(uuid4()) is None
