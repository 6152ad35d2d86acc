"""A run that nobody called for is found from what began it: a batch, a schedule, a service's transaction."""

import asyncio

import asyncpg
import pytest
from opentelemetry import context as current
from opentelemetry.context import Context

from holdfast.client import (
    BatchInput,
    BatchSpec,
    BatchStatus,
    FollowUp,
    Invocation,
    ReviewPolicy,
    Run,
    Schedule,
    Timing,
)
from tests.kit.until import until
from tests.support.collector import Told
from tests.telemetry.conftest import TRACE, Watched

CALL = f"{TRACE:032x}"
PATIENCE_S = 60.0
BEGUN = "0af7651916cd43dd8448eb211c80319c"


async def begun(watched: Watched, many: int) -> list[Run]:
    """Wait for so many runs, and return them."""
    found: list[Run] = []

    async def there() -> bool:
        found[:] = [run async for run in watched.client.list_runs()]
        return len(found) == many

    await until(there, deadline=PATIENCE_S)
    return found


async def lease_of(watched: Watched, run_id: str) -> Told:
    """Return the lease of a run that had one."""
    collector = watched.collector
    await collector.until(lambda: bool(collector.find("lease", run_id=run_id)))
    (lease,) = collector.find("lease", run_id=run_id)
    return lease


async def stands_at(watched: Watched, batch_id: str, status: BatchStatus) -> None:
    """Wait until a batch stands there."""
    async with (
        asyncio.timeout(PATIENCE_S),
        watched.client.batches.watch(batch_id, interval=0.1) as updates,
    ):
        async for batch, _ in updates:
            if batch.status is status:
                return


@pytest.mark.usefixtures("calling")
async def test_each_run_of_a_batch_has_a_trace_linked_to_the_call_that_made_it(watched: Watched) -> None:
    spec = BatchSpec(Invocation("telemetry.work"), idempotency_key="boats", start_when_uploaded=True)
    items = [BatchInput({"topic": topic}) for topic in ("sail", "oar")]
    batch = await watched.client.batches.create(spec, items)
    leases = [await lease_of(watched, run.run_id) for run in await begun(watched, 2)]
    assert len({lease.trace for lease in leases} | {CALL}) == 3
    for lease in leases:
        assert (lease.parent, lease.links) == ("", (CALL,))
    token = current.attach(Context())
    try:
        again = await watched.client.batches.create(spec, items)
    finally:
        current.detach(token)
    assert again.batch_id == batch.batch_id


@pytest.mark.usefixtures("calling")
async def test_what_judges_applies_and_undoes_an_item_is_linked_as_the_items_run_is(watched: Watched) -> None:
    told = Invocation("telemetry.told")
    spec = BatchSpec(
        Invocation("telemetry.work"),
        start_when_uploaded=True,
        review=ReviewPolicy(1.0, min_judged=1, reviewer_intent="telemetry.told", apply_when_met=True),
        apply=FollowUp(told, undo=told),
    )
    batches = watched.client.batches
    batch_id = (await batches.create(spec, [BatchInput({"topic": "sail"})])).batch_id
    await stands_at(watched, batch_id, BatchStatus.APPLIED)
    token = current.attach(Context())  # whoever rolls back later is in another trace, or in none
    try:
        await batches.rollback(batch_id, "wrong boat")
    finally:
        current.detach(token)
    await stands_at(watched, batch_id, BatchStatus.ROLLED_BACK)
    runs = await begun(watched, 4)
    assert {run.idempotency_key.removeprefix(f"batch/{batch_id}/0/") for run in runs} == {
        "1",
        "review",
        "apply",
        "undo",
    }
    leases = [await lease_of(watched, run.run_id) for run in runs]
    assert len({lease.trace for lease in leases} | {CALL}) == 5
    for lease in leases:
        assert (lease.parent, lease.links) == ("", (CALL,))


async def test_what_a_schedule_starts_goes_on_in_the_trace_of_the_firing(watched: Watched) -> None:
    run = Invocation("telemetry.work", {"topic": "boats"})
    await watched.client.schedules.create(Schedule("often", Timing(every=3600), run))
    fire = await watched.client.schedules.trigger("often")
    lease = await lease_of(watched, fire.run_id)
    collector = watched.collector
    await collector.until(lambda: bool(collector.find("fire")))
    (fired,) = collector.find("fire")
    assert (lease.trace, lease.parent) == (fired.trace, fired.id)
    assert fired.attributes["holdfast.schedule"] == "often"
    assert fired.attributes["holdfast.tenant"] == "default"
    assert fired.attributes["holdfast.scheduled_time"].endswith("Z")


async def test_a_run_that_a_service_has_staged_goes_on_in_the_trace_it_said(watched: Watched) -> None:
    connection = await asyncpg.connect(watched.suite.database_url)
    try:
        for key, traceparent in (("said", f"00-{BEGUN}-b7ad6b7169203331-01"), ("mumbled", "01-zz")):
            await connection.execute(
                "SELECT holdfast.enqueue_run(intent => 'telemetry.work', payload => '{\"topic\": \"boats\"}',"
                " idempotency_key => $1, traceparent => $2)",
                key,
                traceparent,
            )
    finally:
        await connection.close()
    leases = {run.idempotency_key: await lease_of(watched, run.run_id) for run in await begun(watched, 2)}
    assert (leases["said"].trace, leases["said"].parent) == (BEGUN, "b7ad6b7169203331")
    assert leases["mumbled"].parent == ""


async def test_a_change_of_a_watched_table_goes_on_in_the_trace_that_its_transaction_names(
    watched: Watched,
) -> None:
    connection = await asyncpg.connect(watched.suite.database_url)
    try:
        await connection.execute("CREATE TABLE public.boat (name text PRIMARY KEY)")
        await connection.execute("SELECT holdfast.watch_table('public.boat', intent => 'telemetry.told')")
        async with connection.transaction():
            await connection.execute(
                "SELECT set_config('holdfast.traceparent', $1, true)", f"00-{BEGUN}-b7ad6b7169203331-01"
            )
            await connection.execute("INSERT INTO public.boat VALUES ('traced')")
        await connection.execute("INSERT INTO public.boat VALUES ('alone')")
    finally:
        await connection.close()
    runs = {run.ordering_key: run.run_id for run in await begun(watched, 2)}
    traced = await lease_of(watched, runs["public.boat/traced"])
    alone = await lease_of(watched, runs["public.boat/alone"])
    assert (traced.trace, traced.parent) == (BEGUN, "b7ad6b7169203331")
    assert (alone.parent, alone.links) == ("", ())
    assert alone.trace != BEGUN
