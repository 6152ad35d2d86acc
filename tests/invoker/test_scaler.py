"""KEDA is told at once that work waits, how much there is, and never more often than the ledger can bear."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from holdfast.invoker import scaler_servicer, scaling
from holdfast.keda import externalscaler_pb2, externalscaler_pb2_grpc
from holdfast.kit.rpc.client import channel
from holdfast.ledger import tenant
from holdfast.ledger.domain.batch import light_intent
from tests.invoker.runner import Runner, runner
from tests.invoker.stand import Invoker, fields_of, invoker, pb, reason_of
from tests.invoker.test_process import invoker_process
from tests.kit.until import until
from tests.support.ledger import admitted, invocation, open_ledger

keda: Any = externalscaler_pb2


@asynccontextmanager
async def scaler_of(address: str) -> AsyncIterator[Any]:
    async with channel(address) as opened:
        yield externalscaler_pb2_grpc.ExternalScalerStub(opened)


@pytest.fixture
async def scaler(door: Invoker) -> AsyncIterator[Any]:
    async with scaler_of(door.address) as stub:
        yield stub


@pytest.fixture
async def served(door: Invoker, commits: str) -> None:
    """Have `count` and `talk` served once, so that their runs are taken in, and by nobody now."""
    await serve_once(door, commits)


async def serve_once(at: Invoker, commits: str) -> None:
    async with runner(at.address, commits, intents=("count", "talk")):
        await until(lambda: bool(at.parts.board.sessions()))
    await until(lambda: not at.parts.board.sessions())


def ref(**metadata: str) -> Any:
    return keda.ScaledObjectRef(name="runners", namespace="agents", scalerMetadata=metadata)


async def value(scaler: Any, **metadata: str) -> float:
    """Ask as KEDA does: first for the name of the metric, then for its value."""
    name = (await scaler.GetMetricSpec(ref(**metadata))).metricSpecs[0].metricName
    asked = keda.GetMetricsRequest(scaledObjectRef=ref(**metadata), metricName=name)
    (one,) = (await scaler.GetMetrics(asked)).metricValues
    assert one.metricName == name
    return float(one.metricValueFloat)


async def becomes(scaler: Any, wanted: float, **metadata: str) -> None:
    """Wait until a metric has a value: a snapshot may be of a second ago."""

    async def is_so() -> bool:
        return await value(scaler, **metadata) == wanted

    await until(is_so)


@pytest.mark.usefixtures("served")
async def test_the_backlog_is_what_waits_for_an_intent_by_priority(door: Invoker, scaler: Any) -> None:
    assert not (await scaler.IsActive(ref(intents="count"))).result
    for priority in range(3):
        await door.invoke(priority=priority)
    await becomes(scaler, 3, intents="count", metric="backlog")
    assert (await scaler.IsActive(ref(intents="count"))).result
    assert not (await scaler.IsActive(ref(intents="talk"))).result
    await becomes(scaler, 3, intents="talk, count", metric="backlog")
    await becomes(scaler, 2, intents="count", metric="backlog", priority="1")
    await becomes(scaler, 0, intents="count", metric="backlog", priority="3")


async def test_demand_holds_what_runners_hold_so_that_no_working_runner_is_scaled_away(
    door: Invoker, scaler: Any, worker: Runner
) -> None:
    for _ in range(12):
        await door.invoke()
    await until(lambda: len(worker.held) == 10)
    await becomes(scaler, 12, intents="count")
    await becomes(scaler, 2, intents="count", metric="backlog")
    for held in list(worker.held.values()):
        await worker.end(held)
    await becomes(scaler, 2, intents="count", metric="demand")
    await worker.credit(2)
    await until(lambda: len(worker.held) == 2)
    await becomes(scaler, 0, intents="count", metric="backlog")
    assert (await scaler.IsActive(ref(intents="count"))).result, "two are being worked on"


@pytest.mark.usefixtures("served")
async def test_the_lag_is_how_long_the_oldest_could_have_started(door: Invoker, scaler: Any) -> None:
    await door.invoke(not_before={"seconds": int(time.time()) + 3600})
    await becomes(scaler, 0, intents="count", metric="lag")
    began = time.monotonic()
    await door.invoke(priority=5)
    await asyncio.gather(*(door.invoke(priority=9) for _ in range(3)))

    async def above() -> bool:
        return await value(scaler, intents="count", metric="lag") > 1.0

    await until(above)
    assert await value(scaler, intents="count", metric="lag") <= time.monotonic() - began


@pytest.mark.usefixtures("served")
async def test_what_a_cap_holds_back_calls_for_no_runner(
    door: Invoker, scaler: Any, database_url: str
) -> None:
    async with open_ledger(database_url) as db:
        await tenant.change(db, "default", {"max_in_flight": 2}, make=True)
    for _ in range(9):
        await door.invoke()
    await becomes(scaler, 2, intents="count")


@pytest.mark.usefixtures("served")
async def test_work_is_announced_at_once_by_whichever_invoker_lets_it_in(
    door: Invoker, scaler: Any, database_url: str
) -> None:
    async with invoker(database_url) as other:
        for at in (door, other):
            watched = "count" if at is door else "talk"
            stream = scaler.StreamIsActive(ref(intents=watched))
            assert not (await stream.read()).result
            began = time.monotonic()
            await at.invoke(watched)
            assert (await stream.read()).result
            assert time.monotonic() - began < scaler_servicer.LOOK_S / 4, "told, not found by looking"
            stream.cancel()


@pytest.mark.usefixtures("served")
async def test_chunks_of_light_items_call_for_runners_of_their_intent(
    door: Invoker, scaler: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaler_servicer, "LOOK_S", 3600.0)
    stream = scaler.StreamIsActive(ref(intents="count"))
    assert not (await stream.read()).result
    async with open_ledger(database_url) as db:
        (chunk,) = await admitted(db, invocation(tenant="default", intent=light_intent("count")))
    door.parts.hints.queued([chunk.pool])
    assert (await asyncio.wait_for(stream.read(), 30)).result
    await becomes(scaler, 1, intents="count")


@pytest.mark.usefixtures("served")
async def test_work_of_which_no_notice_came_is_found_and_its_end_told(
    door: Invoker, scaler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaler_servicer, "LOOK_S", 0.2)
    monkeypatch.setattr(door.parts.hints, "_also", [])
    stream = scaler.StreamIsActive(ref(intents="count"))
    assert not (await stream.read()).result
    run = (await door.invoke()).run
    assert (await asyncio.wait_for(stream.read(), 10)).result
    await door.invoker.CancelRun(pb.CancelRunRequest(run_id=run.run_id))
    assert not (await asyncio.wait_for(stream.read(), 10)).result


@pytest.mark.usefixtures("served")
async def test_a_stream_that_is_told_of_low_priority_looks_before_it_says_yes(
    door: Invoker, scaler: Any
) -> None:
    stream = scaler.StreamIsActive(ref(intents="count", priority="5"))
    assert not (await stream.read()).result
    await door.invoke(priority=1)
    answer = asyncio.ensure_future(stream.read())
    reads = door.parts.scaling.reads
    await until(lambda: door.parts.scaling.reads > reads)
    assert not answer.done()
    await door.invoke(priority=5)
    assert (await asyncio.wait_for(answer, 10)).result


@pytest.mark.usefixtures("served")
async def test_a_crowd_that_asks_costs_one_look_a_second_and_silence_none(door: Invoker, scaler: Any) -> None:
    scaling = door.parts.scaling
    before, began = scaling.reads, time.monotonic()
    for _ in range(10):
        await asyncio.gather(
            *(scaler.IsActive(ref(intents=intents)) for intents in ("count", "talk", "count,talk") * 20)
        )
    assert scaling.reads - before <= time.monotonic() - began + 2
    before = scaling.reads
    await door.parts.caretaker.loops[0].signal.completed(2)
    assert scaling.reads == before


@pytest.mark.usefixtures("served")
async def test_no_more_is_asked_of_the_ledger_at_once_than_its_bound_and_what_was_asked_before_goes_on(
    door: Invoker, scaler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [",".join(f"team-{n}/{i}" for i in range(100)) for n in range(20)]
    answers = await asyncio.gather(*(scaler.IsActive(ref(intents=intents)) for intents in many))
    assert not any(answer.result for answer in answers)
    for call in (scaler.IsActive(ref(intents="count")), scaler.StreamIsActive(ref(intents="talk")).read()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert reason_of(caught.value) == "TOO_MANY_CALLS"
    assert not (await scaler.IsActive(ref(intents=many[0]))).result
    monkeypatch.setattr(scaling, "REMEMBERED_S", 2.0)
    await door.invoke()

    async def told() -> bool:
        try:
            return await value(scaler, intents="count") == 1
        except grpc.aio.AioRpcError:
            return False

    await until(told)


async def test_a_trigger_that_is_not_as_it_must_be_is_refused_by_entry(scaler: Any) -> None:
    wrong = ref(intents="a b", metric="colour", target="-1", priority="10")
    for call in (scaler.IsActive(wrong), scaler.GetMetricSpec(wrong), scaler.StreamIsActive(wrong).read()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert reason_of(caught.value) == "INVALID_FIELD"
        names = ("intents", "metric", "target", "priority")
        assert fields_of(caught.value) == [f"scaler_metadata.{name}" for name in names]
    for target in ("nan", "inf", "0", "1e99", "x"):
        with pytest.raises(grpc.aio.AioRpcError):
            await scaler.GetMetricSpec(ref(intents="count", target=target))
    spec = (await scaler.GetMetricSpec(ref(intents="count", target="0.5", metric="lag"))).metricSpecs[0]
    assert (spec.metricName, spec.targetSizeFloat) == ("holdfast-lag", 0.5)
    asked = keda.GetMetricsRequest(scaledObjectRef=ref(intents="count"), metricName="holdfast-lag")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await scaler.GetMetrics(asked)
    assert fields_of(caught.value) == ["metric_name"]


async def test_an_invoker_process_says_yes_when_work_comes_and_ends_its_streams_as_it_drains(
    database_url: str, commits: str
) -> None:
    async with invoker_process(database_url, DRAIN_GRACE="1") as process, scaler_of(process.address) as stub:
        async with runner(process.address, commits, slots=1) as one:
            await process.invoke()
            await one.take()
            stream = stub.StreamIsActive(ref(intents="count"))
            assert (await stream.read()).result, "one is being worked on"
        await process.invoke()
        process.process.terminate()
        assert await asyncio.wait_for(stream.read(), 10) is grpc.aio.EOF
        assert await asyncio.wait_for(process.process.wait(), 10) == 0
