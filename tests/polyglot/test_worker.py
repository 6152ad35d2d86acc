"""A runner in Go, written against WorkService and CheckpointService alone, keeps what a runner promises."""

import signal
from collections.abc import AsyncIterator

import pytest
from google.protobuf import json_format

from holdfast.v1 import run_pb2
from tests.polyglot.conftest import built
from tests.polyglot.goworker import Tenant, tenant, worker
from tests.polyglot.world import World
from tests.support.relay import Relay

pytestmark = pytest.mark.timeout(900)  # whoever comes first builds

STEPS = {"reserve": 1, "charge": 1, "confirm": 1}
CONFIRMED = {
    "step": "confirm",
    "call": 1,
    "given": {"step": "charge", "call": 1, "given": {"step": "reserve", "call": 1, "given": 40}},
}


@pytest.fixture(autouse=True)
def _built() -> None:
    built("go")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as running:
        yield running


@pytest.fixture
async def client(
    suite: dict[str, str], world: World, request: pytest.FixtureRequest
) -> AsyncIterator[Tenant]:
    async with tenant(request.node.name[:200], suite) as one:
        await one.send_receipts_to(f"{world.url}/receipts")
        yield one


def order(world: World) -> dict[str, object]:
    return {"url": world.url, "amount": 40}


def result(run: run_pb2.Run) -> object:
    return json_format.MessageToDict(run.outcome.result)


async def test_it_executes_three_steps_and_lets_one_effect_go(
    suite: dict[str, str], client: Tenant, world: World
) -> None:
    async with worker(suite):
        run_id = await client.invoke(order(world))
        run = await client.ended(run_id)
        assert run.status == run_pb2.RUN_STATUS_SUCCEEDED
        assert result(run) == CONFIRMED
        assert run.usage.steps == 3
        assert (run.attempt, run.agent_version) == (1, "1")
        assert await client.checkpoints(run_id) == STEPS
        await world.called("receipts")
    assert world.keys("receipts") == {f"{run_id}/charge"}
    told = [event.WhichOneof("event") for event in await client.transcript(run_id)]
    assert told == [
        "accepted",
        "started",
        *("step_started", "step_finished"),
        *("step_started", "effect_staged", "step_finished"),
        *("step_started", "step_finished"),
        "ended",
    ]


async def test_killed_in_mid_run_it_repeats_no_finished_step(
    suite: dict[str, str], client: Tenant, world: World
) -> None:
    world.hold("confirm")
    async with worker(suite) as first:
        run_id = await client.invoke(order(world))
        await world.called("confirm")
        await first.end(signal.SIGKILL)
    assert await client.checkpoints(run_id) == {"reserve": 1, "charge": 1}
    async with worker(suite) as second:
        run = await client.ended(run_id)
        assert run.status == run_pb2.RUN_STATUS_SUCCEEDED
        assert result(run) == CONFIRMED | {"call": 2}
        assert run.attempt == 2
        assert [line for line in second.lines if line.startswith(("replayed", "executed"))] == [
            "replayed reserve",
            "replayed charge",
            "executed confirm",
        ]
        await world.called("receipts")
    assert [world.count(step) for step in ("reserve", "charge", "confirm", "receipts")] == [1, 1, 2, 1]
    assert world.keys("confirm") == {f"{run_id}/confirm"}  # who was called twice can know it
    assert await client.checkpoints(run_id) == STEPS | {"confirm": 2}
    events = await client.transcript(run_id)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.started.replayed_steps for event in events if event.HasField("started")] == [0, 2]


async def test_cut_off_from_the_invoker_it_cannot_write_into_the_run_that_another_has(
    suite: dict[str, str], client: Tenant, world: World
) -> None:
    late = world.hold("confirm")
    async with Relay(suite["invoker"]) as relay, worker(suite, invoker=relay.address) as zombie:
        run_id = await client.invoke(order(world))
        await world.called("confirm")
        relay.hang()  # it goes on, and does not know that its heartbeats arrive no more
        async with worker(suite):
            run = await client.ended(run_id)
        late.set()
        await zombie.printed("executed confirm")
        await zombie.printed("fenced", run_id, "1")
    assert result(run) == CONFIRMED | {"call": 2}
    assert await client.checkpoints(run_id) == STEPS | {"confirm": 2}
    assert (await client.run(run_id)).last_sequence == run.last_sequence
    assert world.count("confirm") == 2


async def test_cancelled_in_a_step_it_stops_at_once(
    suite: dict[str, str], client: Tenant, world: World
) -> None:
    world.hold("charge")
    async with worker(suite):
        run_id = await client.invoke(order(world))
        await world.called("charge")
        await client.cancel(run_id, "changed my mind")
        run = await client.ended(run_id)
    assert run.status == run_pb2.RUN_STATUS_CANCELLED
    assert run.outcome.failure.message == "changed my mind"
    assert await client.checkpoints(run_id) == {"reserve": 1}
    assert world.count("receipts") == 0


async def test_paused_it_gives_the_run_back_before_the_next_step(
    suite: dict[str, str], client: Tenant, world: World
) -> None:
    go_on = world.hold("reserve")
    async with worker(suite) as one:
        run_id = await client.invoke(order(world))
        await world.called("reserve")
        await client.pause(run_id)
        await one.printed("paused", run_id)
        go_on.set()
        await one.printed("requeued", run_id)
        assert world.count("charge") == 0
        assert (await client.run(run_id)).status == run_pb2.RUN_STATUS_QUEUED
        await client.resume(run_id)
        run = await client.ended(run_id)
    assert run.status == run_pb2.RUN_STATUS_SUCCEEDED
    assert run.attempt == 1  # nobody failed
    assert world.count("reserve") == 1


async def test_told_to_end_it_hands_back_what_it_holds(
    suite: dict[str, str], client: Tenant, world: World
) -> None:
    world.hold("charge")
    async with worker(suite) as first:
        run_id = await client.invoke(order(world))
        await world.called("charge")
        assert await first.end(signal.SIGTERM) == 0
    run = await client.run(run_id)
    assert run.status == run_pb2.RUN_STATUS_QUEUED
    async with worker(suite):
        run = await client.ended(run_id)
    assert run.status == run_pb2.RUN_STATUS_SUCCEEDED
    assert run.attempt == 1
    assert world.count("reserve") == 1


async def test_out_of_steps_it_ends_with_what_the_budget_allowed(
    suite: dict[str, str], client: Tenant, world: World
) -> None:
    async with worker(suite):
        run = await client.ended(await client.invoke(order(world), budget=run_pb2.Budget(max_steps=2)))
    assert run.status == run_pb2.RUN_STATUS_PARTIAL
    assert run.outcome.exhausted == run_pb2.BUDGET_DIMENSION_STEPS
    assert run.usage.steps == 2
    assert world.count("confirm") == 0


async def test_what_fails_is_tried_again_by_another_attempt(
    suite: dict[str, str], client: Tenant, world: World
) -> None:
    world.refuse("charge")
    async with worker(suite):
        run = await client.ended(await client.invoke(order(world)))
    assert run.status == run_pb2.RUN_STATUS_SUCCEEDED
    assert run.attempt == 2
    assert [world.count(step) for step in ("reserve", "charge", "confirm")] == [1, 2, 1]
