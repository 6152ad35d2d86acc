"""More runs are asked for than are let in: nobody waits long to hear it, and groups stay worth their cost."""

import asyncio
import time
from typing import Any

import asyncpg
import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from holdfast.invoker import lines as lines_module
from holdfast.invoker import refusals as refusals_module
from holdfast.kit import rest as rest_module
from holdfast.kit.errors import QueueFull, TooManyCalls
from tests.invoker.stand import Invoker, pb, reason_of
from tests.kit.until import until
from tests.support.ledger import invocation


def refused(error: Any, *, quota: str) -> None:
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details = {each.type_url.rpartition(".")[2]: each for each in rpc_status.from_call(error).details}
    assert set(details) == {"ErrorInfo", "RetryInfo", "QuotaFailure"}
    failure = error_details_pb2.QuotaFailure.FromString(details["QuotaFailure"].value)
    assert failure.violations[0].subject == quota


@pytest.mark.usefixtures("worker")
async def test_once_the_first_in_the_line_has_waited_too_long_nobody_joins_it(
    door: Invoker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "MAX_WAIT", 0.05)
    await door.invoke()
    connection = await asyncpg.connect(door.url, server_settings={"search_path": "holdfast"})
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM tenant FOR UPDATE")
        lines = door.parts.door._lines
        held = [asyncio.ensure_future(door.invoke())]
        locks = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while not await connection.fetchval(locks):  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.01)
        held.append(asyncio.ensure_future(door.invoke()))
        await until(lambda: lines.is_closed("default", time.monotonic()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.invoke()
        assert reason_of(caught.value) == TooManyCalls.reason
        refused(caught.value, quota="waiting")
        await transaction.rollback()
    finally:
        await connection.close()
    answers = await asyncio.gather(*held)
    assert len({answer.run.run_id for answer in answers}) == 2


@pytest.mark.usefixtures("worker")
async def test_the_calls_of_a_tenant_that_is_refused_much_go_in_together(
    door: Invoker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals_module, "MANY", 3)
    sizes: list[float] = []
    monkeypatch.setattr(door.parts.door._metrics.group_size, "observe", sizes.append)
    for _ in range(3):
        door.parts.refusals.note("default", QueueFull("full"))
    answers = await asyncio.gather(*(door.invoke() for _ in range(20)))
    assert len({answer.run.run_id for answer in answers}) == 20
    assert max(sizes) > 5


@pytest.mark.usefixtures("worker")
async def test_calls_that_come_soon_after_a_large_group_go_in_together(
    door: Invoker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_module, "EACH", 0.1)
    monkeypatch.setattr(rest_module, "LONGEST", 0.2)
    sizes: list[float] = []
    monkeypatch.setattr(door.parts.door._metrics.group_size, "observe", sizes.append)
    await asyncio.gather(*(door.invoke() for _ in range(20)))
    before = len(sizes)
    later = []
    for _ in range(5):
        later.append(asyncio.ensure_future(door.invoke()))
        await asyncio.sleep(0.01)
    await asyncio.gather(*later)
    assert sizes[before:] == [5]


@pytest.mark.usefixtures("worker")
async def test_what_a_full_group_has_left_at_the_door_does_not_wait(
    door: Invoker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await door.invoke()  # its intent is known from here on
    monkeypatch.setattr(rest_module, "EACH", 60.0)
    monkeypatch.setattr(rest_module, "LONGEST", 60.0)
    monkeypatch.setattr(lines_module, "MAX_GROUP", 5)
    sizes: list[float] = []
    monkeypatch.setattr(door.parts.door._metrics.group_size, "observe", sizes.append)
    envelope = pb.InvokeRequest(intent="count").SerializeToString()
    runs = [invocation(intent="count", envelope=envelope) for _ in range(11)]
    await asyncio.wait_for(door.parts.door.admit_all(runs), 10)
    await until(lambda: sizes == [5, 5, 1])
