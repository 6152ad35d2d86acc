"""Who is refused and goes on asking is refused at the door, and let in as soon as there is room."""

import asyncio
import random
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc.error_details_pb2 import QuotaFailure, RetryInfo
from grpc_status import rpc_status

from holdfast.kit.errors import Fault, LedgerUnavailable, MailboxFull, QueueFull
from holdfast.kit.rpc import shedding
from holdfast.kit.rpc.shedding import Share, taken
from holdfast.kit.rpc.status import reason_of
from holdfast.kit.rpc.tenant import KEY
from tests.kit.echo import NAME, Echo, echo
from tests.kit.test_faults import detail

A = StringValue(value="a")
FLOOD = 3000


class Full(Echo):
    """Takes as much a call as there is room for, and refuses the rest; counts who got as far as that."""

    def __init__(self, refusal: Fault) -> None:
        super().__init__()
        self.refusal = refusal
        self.room = 0
        self.asked = 0

    async def one(self, request: StringValue, _context: Any) -> StringValue:
        self.asked += 1
        if self.room:
            self.room -= 1
            return request
        raise self.refusal

    async def gather(self, requests: Any, _context: Any) -> StringValue:
        async for _ in requests:
            pass
        self.asked += 1
        raise self.refusal


def full() -> QueueFull:
    return QueueFull("The queue is full.", retry_after=2.0, quota="max_queued")


def of(tenant: str) -> Any:
    return ((KEY, tenant),)


async def outcome(call: Any) -> grpc.aio.AioRpcError | StringValue:
    try:
        answer: StringValue = await call
    except grpc.aio.AioRpcError as error:
        return error
    return answer


async def flood(stub: Any, count: int = FLOOD) -> list[Any]:
    """Call so often, a hundred at a time."""
    ends: list[Any] = []
    for _ in range(count // 100):
        ends += await asyncio.gather(*(outcome(stub.one(A, metadata=of("noisy"))) for _ in range(100)))
    return ends


async def test_a_flood_is_refused_at_the_door_and_told_all_that_the_servicer_would_tell() -> None:
    servicer, shed = Full(full()), list[tuple[str, Fault]]()
    async with echo(servicer, shed=lambda tenant, fault: shed.append((tenant, fault))) as stub:
        ends = await flood(stub)
    assert servicer.asked < FLOOD / 2
    assert servicer.asked + len(shed) == FLOOD
    assert {(tenant, type(fault)) for tenant, fault in shed} == {("noisy", QueueFull)}
    for end in ends:
        assert end.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert end.details() == "The queue is full."
        assert reason_of(end) == QueueFull.reason
        status = rpc_status.from_call(end)
        assert detail(status, RetryInfo).retry_delay.seconds == 2
        assert detail(status, QuotaFailure).violations[0].subject == "max_queued"


async def test_another_tenant_and_another_method_are_asked_about() -> None:
    servicer = Full(full())
    async with echo(servicer) as stub:
        await flood(stub)
        asked = servicer.asked
        await outcome(stub.one(A, metadata=of("quiet")))
        assert servicer.asked == asked + 1
        assert (await stub.talk(iter([A]), metadata=of("noisy")).read()).value == "A"


async def test_what_a_caller_streams_is_always_read() -> None:
    servicer = Full(full())
    async with echo(servicer) as stub:
        for _ in range(500):
            await outcome(stub.gather(iter([A]), metadata=of("noisy")))
    assert servicer.asked == 500


@pytest.mark.parametrize("refusal", [LedgerUnavailable("Away.", retry_after=1.0), MailboxFull("Full.")])
async def test_only_a_refusal_that_says_when_to_come_again_is_one_of_the_caller(refusal: Fault) -> None:
    servicer = Full(refusal)
    async with echo(servicer) as stub:
        await flood(stub, 1000)
    assert servicer.asked == 1000


async def test_once_there_is_room_the_flood_comes_in() -> None:
    servicer = Full(full())
    async with echo(servicer) as stub:
        await flood(stub)
        servicer.room = 10**6
        async with asyncio.timeout(20):
            while not all(isinstance(end, StringValue) for end in await flood(stub, 300)):
                pass


async def test_calls_that_wait_for_something_else_after_they_were_taken_do_not_count_as_undecided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shares: list[Share] = []

    def made(now: float) -> Share:
        shares.append(Share(now))
        return shares[-1]

    monkeypatch.setattr(shedding, "Share", made)
    reached, go = asyncio.Semaphore(0), asyncio.Event()

    async def one(request: StringValue, _context: Any) -> StringValue:
        if request.value == "refuse":
            raise full()
        if request.value == "taken":
            taken()
        reached.release()
        await go.wait()
        return request

    async with echo(Echo(one=one)) as stub:
        await outcome(stub.one(StringValue(value="refuse")))
        held = []
        for value in ("taken", "open"):
            held.append(asyncio.ensure_future(stub.one(StringValue(value=value))))
            await asyncio.wait_for(reached.acquire(), 10)
        assert [share.undecided for share in shares] == [1]
        go.set()
        await asyncio.gather(*held)
        assert [share.undecided for share in shares] == [0]


def played(offered: float, room: float, seconds: float) -> tuple[int, int]:
    """Let calls come evenly, as many a second taken as there is room for.

    Returns how many were asked about and taken, from a second after the first refusal on.
    """
    share, now, asked, got, free = Share(0.0), 0.0, 0, 0, 0.0
    share.refuse(0.0)
    chance = random.Random(1)
    while now < 1.0 + seconds:
        now += 1 / offered
        free = min(free + room / offered, 10.0)
        if share.offer(now, chance.random()):
            asked += now > 1.0
            if free >= 1:
                free -= 1
                got += now > 1.0
            else:
                share.refuse(now)
    return asked, got


@pytest.mark.parametrize(("offered", "room"), [(3000, 1000), (10_000, 1000), (10_000, 5), (200, 100)])
def test_as_much_is_asked_about_as_is_taken_and_little_more(offered: int, room: int) -> None:
    asked, got = played(offered, room, 20.0)
    assert got >= 0.95 * room * 20
    assert asked <= 1.1 * shedding.MORE * got + 1.5 * 20 * shedding.ALWAYS / shedding.MEMORY


def test_a_second_after_there_is_room_again_all_of_it_is_used() -> None:
    share, chance = Share(0.0), random.Random(1)
    asked: list[float] = []
    for number in range(60_000):  # for three seconds all are refused, and then none
        now = number / 10_000
        if share.offer(now, chance.random()):
            asked.append(now)
            if now < 3.0:
                share.refuse(now)
    assert sum(2.0 < now < 3.0 for now in asked) < 100
    assert sum(4.0 < now < 4.5 for now in asked) > 4000


def test_who_calls_seldom_is_always_asked_about() -> None:
    asked, _ = played(15, 1, 10.0)
    assert asked == pytest.approx(150, abs=1)


def test_a_caller_is_forgotten_once_the_refusals_mean_nothing() -> None:
    share = Share(0.0)
    share.refuse(0.0)
    assert not share.is_over(1.0)
    assert share.is_over(3.0)


async def test_no_more_callers_are_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shedding, "MOST_CALLERS", 3)
    refusals = shedding.Refusals()
    for number in range(10):
        refusals.note((f"/{NAME}/One", str(number)), full())
    assert sum(refusals.ask((f"/{NAME}/One", str(number))) is not None for number in range(10)) == 3
