"""Runs that do not start without a destination wait while its breaker is open, and start when it closes."""

import pytest

from holdfast.dispatcher.breaker import judge
from holdfast.ledger import destination
from holdfast.ledger.domain.breaker import BreakerPolicy
from holdfast.ledger.domain.delivery import EffectStatus
from holdfast.ledger.outbox_claim import claim
from holdfast.ledger.outbox_settle import settle
from holdfast.v1 import run_pb2
from tests.invoker.runner import Runner
from tests.invoker.stand import Invoker
from tests.kit.until import until
from tests.support.ledger import open_ledger
from tests.support.outbox import came_of, make_destination, open_session, stage, staged


@pytest.fixture
async def careful(door: Invoker, commits: str) -> Runner:
    """A runner whose agents call `tickets` critical."""
    one = Runner(door.address, commits, ("count",))
    one.critical = ("tickets",)
    await one.start(10)
    await until(lambda: door.parts.board.sessions()[0].credit == 10)
    return one


async def test_queued_runs_start_when_the_breaker_of_their_critical_destination_closes(
    door: Invoker, careful: Runner, database_url: str
) -> None:
    async with open_ledger(database_url) as db:
        await make_destination(db, "tickets", breaker_policy=BreakerPolicy(failures=1))
        first = (await door.invoke()).run.run_id
        await careful.take(first)

        await stage(db, staged("tickets"))
        session = await open_session(db)
        (delivery,) = (await claim(db, session, wanted=1)).deliveries
        await settle(db, session, [came_of(delivery, EffectStatus.PENDING, delay_s=60)], judge)
        waiting = [(await door.invoke()).run.run_id for _ in range(3)]

        async def told() -> bool:
            return "critical destination tickets is open" in (await door.run(waiting[0])).held_back

        await until(told)
        rounds = door.parts.caretaker.loops[0].signal
        await rounds.completed(2)
        assert await door.status(waiting[0]) == run_pb2.RUN_STATUS_QUEUED
        assert list(careful.held) == [first]

        async with db.connection() as connection:
            await destination.reset_breaker(connection, "default", "tickets")
        for run_id in waiting:
            await careful.take(run_id)
        assert (await door.run(waiting[0])).held_back == ""
    await careful.die()
