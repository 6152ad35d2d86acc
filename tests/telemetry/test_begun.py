"""A run that nobody called for is found from what began it: a batch, a schedule, a service's transaction."""

import asyncpg
import pytest
from opentelemetry import context as current
from opentelemetry.context import Context

from holdfast.client import BatchInput, BatchSpec, Invocation, Run, Schedule, Timing
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
