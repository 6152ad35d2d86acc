"""Whatever people and runners do with a batch, its counters equal its items, and no item runs twice."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.kit.db import Database
from holdfast.kit.errors import BatchNotReady
from holdfast.ledger import batch, batch_retry, batch_update
from holdfast.ledger.batch_view import ItemFilter
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem
from holdfast.ledger.domain.batch import BATCH_MOVES, ITEM_MOVES, BatchStatus, ItemStatus, after_run
from holdfast.ledger.domain.status import ENDED, RunStatus
from holdfast.ledger.orphan import cancel_orphans
from holdfast.ledger.values import Failure, Outcome
from tests.support.batch import counts, new_batch, seen, step
from tests.support.ledger import Runner, fetch, opened

ITEMS = 7
ACTS = st.one_of(
    st.sampled_from(["step", "step", "take", "take", "pause", "resume", "retry", "orphans"]),
    st.sampled_from(["cancel", "wider", "narrower"]),
    st.tuples(
        st.just("end"), st.sampled_from([RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.DEAD_LETTERED])
    ),
)


class World:
    def __init__(self, db: Database, runner: Runner, which: Any) -> None:
        self.db, self.runner, self.which = db, runner, which
        self.leased: list[Any] = []

    async def act(self, act: Any) -> None:
        name = act if isinstance(act, str) else act[0]
        db, batch_id = self.db, self.which.batch_id
        match name:
            case "step":
                await step(db, self.which)
            case "take":
                self.leased += await self.runner.take(2)
            case "end":
                await self.end(act[1])
            case "orphans":
                await cancel_orphans(db)
            case "pause":
                await self.asked(batch.pause(db, "acme", batch_id, "why not"))
            case "resume":
                await self.asked(batch.resume(db, "acme", batch_id))
            case "cancel":
                await self.asked(batch.cancel(db, "acme", batch_id, ""))
            case "retry":
                await self.asked(batch_retry.retry_items(db, "acme", batch_id, ItemFilter()))
            case _:
                more = 5 if name == "wider" else 1
                await self.asked(batch_update.update(db, "acme", batch_id, max_parallelism=more))

    async def asked(self, verb: Coroutine[Any, Any, Any]) -> None:
        with suppress(BatchNotReady):
            await verb

    async def end(self, status: RunStatus) -> None:
        if not self.leased:
            return
        run = self.leased.pop()
        failure = None if status is RunStatus.SUCCEEDED else Failure("Odd", "It was odd.")
        item = CommitItem(run.run_id, run.epoch, 1, move=Outcome(status, b"{}", failure))
        await commit_group(self.db, [item])

    async def check(self, before: dict[int, int], status: BatchStatus) -> tuple[dict[int, int], BatchStatus]:
        counted = await counts(self.db, self.which)
        assert sum(counted.values()) == ITEMS
        rows = await fetch(
            self.db, "SELECT * FROM batch_item WHERE batch_id = $1 ORDER BY index", self.which.batch_id
        )
        flying = await fetch(self.db, "SELECT * FROM batch_run WHERE batch_id = $1", self.which.batch_id)
        assert {row["index"]: row["run_id"] for row in flying} == {
            row["index"]: row["run_id"] for row in rows if row["status"] == ItemStatus.RUNNING
        }
        errors = await fetch(
            self.db, "SELECT sum(n) AS n FROM batch_error WHERE batch_id = $1", self.which.batch_id
        )
        assert (errors[0]["n"] or 0) == counted.get("SKIPPED", 0)
        tried = await fetch(
            self.db,
            "SELECT count(*) AS n FROM run WHERE idempotency_key LIKE $1",
            f"batch/{self.which.batch_id}/%",
        )
        assert tried[0]["n"] == sum(row["attempts"] for row in rows)
        for row in rows:
            was, now = ItemStatus(before[row["index"]]), ItemStatus(row["status"])
            assert was is now or now in ITEM_MOVES[was], f"{was.name} to {now.name}"
        after = (await seen(self.db, self.which)).status
        assert after is status or after in BATCH_MOVES[status], f"{status.name} to {after.name}"
        return {row["index"]: row["status"] for row in rows}, after


async def live(db: Database, runner: Runner, acts: list[Any], tries: int) -> None:
    which = await new_batch(
        db, ITEMS, max_parallelism=2, max_attempts=tries, initial_backoff_ms=0, tolerated_items=3
    )
    world = World(db, runner, which)
    items, status = dict.fromkeys(range(ITEMS), 1), which.status
    for act in acts:
        await world.act(act)
        items, status = await world.check(items, status)
    # Whatever was done, it comes to an end once people let it.
    await world.asked(batch.resume(db, "acme", which.batch_id))
    for _ in range(6 * ITEMS):
        await step(db, which)
        await cancel_orphans(db)
        world.leased += await runner.take(20)
        await world.end(RunStatus.SUCCEEDED)
        while world.leased:
            await world.end(RunStatus.SUCCEEDED)
        if (await step(db, which)).rests:
            break
    counted = await counts(db, which)
    assert not counted.keys() & {"PENDING", "RUNNING"}
    assert (await seen(db, which)).status in (BatchStatus.IN_REVIEW, BatchStatus.CANCELLED)


async def test_counters_equal_items_through_any_life(db: Database) -> None:
    runner = await opened(db)
    loop = asyncio.get_running_loop()

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(ACTS, max_size=30), st.integers(1, 3))
    def explore(acts: list[Any], tries: int) -> None:
        asyncio.run_coroutine_threadsafe(live(db, runner, acts, tries), loop).result(120)

    await asyncio.to_thread(explore)


async def test_the_ledger_moves_an_item_as_the_domain_says(db: Database) -> None:
    runner = await opened(db)
    for status in sorted(ENDED - {RunStatus.COMPENSATED}):
        for skip_staging, tries in ((False, 1), (True, 1), (False, 2)):
            which = await new_batch(db, 1, skip_staging=skip_staging, max_attempts=tries)
            await step(db, which)
            (run,) = await runner.take()
            failure = None if status is RunStatus.SUCCEEDED else Failure("Odd", "It was odd.")
            outcome = Outcome(status, b"{}", failure)
            await commit_group(db, [CommitItem(run.run_id, run.epoch, 1, move=outcome)])
            said = after_run(
                status, skip_staging=skip_staging, cancelled=False, attempts=1, max_attempts=tries
            )
            assert await counts(db, which) == {said.name: 1}, status
