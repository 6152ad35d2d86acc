"""A client whose calls are refused for the crowd sends as many as are taken, and the rest waits in it."""

import asyncio
import gc
import time
import weakref
from collections import deque
from typing import Any

import pytest

from holdfast.client import Client, Retries, errors
from holdfast.client import pace as pacing
from holdfast.client.pace import Out, Pace
from holdfast.kit import errors as faults
from holdfast.v1 import invoker_service_pb2 as pb
from tests.client.contract_server import RUN_ID, ContractServer, invoked, run

FULL = errors.QueueFull("The queue is full.", retry_after=1.0, quota="max_queued")
LATER = 0.05
"""Seconds after which a call is answered."""


class Server:
    """Takes so many calls a second and lets some wait; by a clock of its own.

    Answers come `later`; if it is `mute`, only to those that are refused: the others wait for their runs.
    """

    def __init__(self, room: float, places: int = 100, *, later: float = LATER, mute: bool = False) -> None:
        self.later = later
        self.mute = mute
        self.room = room
        self.places = places
        self.now = 1000.0
        self.pace = Pace(lambda: self.now)
        self.asked: list[float] = []
        self.taken: list[float] = []
        self._waiting = 0.0
        self._answers: deque[tuple[float, Out, bool]] = deque()

    def offer(self, per_second: float, seconds: float) -> None:
        """Let calls come evenly from callers who try once."""
        for _ in range(round(per_second * seconds)):
            self.now += 1 / per_second
            self._waiting = max(0.0, self._waiting - self.room / per_second)
            self.answer()
            out = self.pace.goes()
            if out is None:
                continue
            self.asked.append(self.now)
            takes = self._waiting < self.places
            if takes:
                self._waiting += 1
                self.taken.append(self.now)
            if not takes or not self.mute:
                self._answers.append((self.now + self.later, out, takes))

    def answer(self) -> None:
        """Let answers that are due arrive."""
        while self._answers and self._answers[0][0] <= self.now:
            _, out, took = self._answers.popleft()
            if took:
                self.pace.taken(out)
            else:
                self.pace.failed(out, FULL)

    def within(self, calls: list[float], seconds: float) -> float:
        """Return how many calls a second there were of late."""
        return sum(self.now - seconds < at for at in calls) / seconds


@pytest.mark.parametrize("mute", [False, True])
@pytest.mark.parametrize("later", [LATER, 1.0])
@pytest.mark.parametrize(("offered", "room"), [(7500, 2500), (3000, 1000), (2000, 100), (1000, 900)])
def test_as_many_calls_go_out_as_are_taken_and_few_more(
    offered: float, room: float, later: float, *, mute: bool
) -> None:
    server = Server(room, round(room * (LATER + later)), later=later, mute=mute)
    server.offer(offered, 30)
    assert server.within(server.taken, 10) >= 0.97 * room
    assert server.within(server.asked, 10) <= 1.3 * room + pacing.ALWAYS


def test_with_room_for_none_few_calls_go_out() -> None:
    server = Server(0.0, places=0)
    server.offer(1000, 20)
    assert server.within(server.asked, 10) == pytest.approx(pacing.ALWAYS, rel=0.1)


def test_new_room_is_found_within_seconds() -> None:
    server = Server(100)
    server.offer(3000, 10)
    assert server.within(server.asked, 1) < 200
    server.room = 2500
    server.offer(3000, 6)
    assert server.within(server.taken, 1) >= 0.9 * 2500


def test_who_calls_seldom_and_who_was_not_refused_lately_is_not_held_back() -> None:
    server = Server(1, places=0)
    server.offer(pacing.ALWAYS, 10)
    assert len(server.asked) == 10 * pacing.ALWAYS
    server.now += LATER
    server.answer()
    server.now += 5.0
    server.asked.clear()
    server.places = 10_000
    server.offer(1e6, 0.001)
    assert len(server.asked) == 1000


def test_what_counted_as_taken_for_being_open_long_does_not_once_it_is_refused() -> None:
    server = Server(0.0, places=0, later=1e9)
    server.offer(1000, 1.5)
    server.now += 1.0
    for _, out, _ in server._answers:
        server.pace.failed(out, FULL)
    server.asked.clear()
    server.offer(1000, 1.0)
    assert len(server.asked) <= pacing.ALWAYS + pacing.FEW + 1


async def test_new_calls_let_those_go_first_that_wait() -> None:
    server = Server(0.0)
    server.pace.failed(await server.pace.turn(0.0), FULL)
    while server.pace.goes():
        pass
    waiting = asyncio.create_task(server.pace.turn(10.0))
    await asyncio.sleep(0)
    server.now += 1.0
    assert server.pace.goes() is None
    await asyncio.wait_for(waiting, 10)
    assert server.pace.goes() is not None


async def test_failures_that_are_nobodys_crowd_slow_nothing_down() -> None:
    pace = Pace()
    for _ in range(1000):
        pace.failed(await pace.turn(0.0), errors.Unavailable("away"))


async def crowded(pace: Pace) -> None:
    """Have a call refused, and send those that go in any case."""
    pace.failed(await pace.turn(0.0), FULL)
    while pace.goes():
        pass


async def test_the_patient_wait_in_line_and_whoever_leaves_it_keeps_nobody_up() -> None:
    pace, went = Pace(), []

    async def call(name: int) -> None:
        await pace.turn(10.0)
        went.append(name)

    await crowded(pace)
    calls = [asyncio.create_task(call(name)) for name in range(8)]
    await asyncio.sleep(0)
    for call_ in calls[:3]:
        call_.cancel()
    began = time.monotonic()
    await asyncio.wait_for(asyncio.wait(calls), 10)
    assert went == [3, 4, 5, 6, 7]
    assert time.monotonic() - began >= 4 / (2 * pacing.ALWAYS)


@pytest.mark.parametrize("before", [0, 5])
async def test_a_call_that_is_held_back_for_too_long_fails_as_the_refused_one_did(before: int) -> None:
    pace = Pace()
    await crowded(pace)
    waiting = [asyncio.create_task(pace.turn(10.0)) for _ in range(before)]
    await asyncio.sleep(0)
    with pytest.raises(errors.QueueFull, match="queue is full") as raised:
        await pace.turn(0.01)
    assert (raised.value.retry_after, raised.value.quota) == (1.0, "max_queued")
    assert raised.value is not FULL
    assert "held this call back" in raised.value.__notes__[0]
    assert not hasattr(FULL, "__notes__")
    for each in waiting:
        each.cancel()


async def test_the_last_refusal_does_not_hold_on_to_the_call_that_it_ended() -> None:
    class Payload:
        pass

    pace = Pace()

    async def call() -> "weakref.ref[Payload]":
        payload = Payload()
        try:
            raise errors.QueueFull("full")  # noqa: TRY301 - what counts is whose frame it holds
        except errors.QueueFull as error:
            pace.failed(await pace.turn(0.0), error)
        return weakref.ref(payload)

    payload = await call()
    gc.collect()
    assert payload() is None


async def test_a_refused_method_is_paced_by_itself_new_calls_too(server: ContractServer) -> None:
    def refuse(_request: Any, _context: Any) -> Any:
        raise faults.QueueFull("full", retry_after=0.0, quota="max_queued")

    server.invoker.script["Invoke"] = refuse
    server.invoker.script["GetRun"] = lambda *_: pb.GetRunResponse(run=run())
    async with Client(server.address, retries=Retries(attempts=1)) as client:
        held_back = 0
        for _ in range(100):
            with pytest.raises(errors.QueueFull) as raised:
                await client.invoke("greet")
            held_back += hasattr(raised.value, "__notes__")
        assert held_back > 50
        for _ in range(100):
            await client.get_run(RUN_ID)


async def test_whoever_waits_for_its_turn_is_served(server: ContractServer) -> None:
    seen: set[str] = set()

    def answer(request: Any, _: Any) -> Any:
        if request.idempotency_key not in seen:
            seen.add(request.idempotency_key)
            raise faults.TooManyCalls("full", retry_after=0.0, quota="calls")
        return invoked()

    server.invoker.script["Invoke"] = answer
    async with Client(server.address, retries=Retries(attempts=5, first_pause=0.01)) as client:
        began = time.monotonic()
        calls = [client.invoke("greet", idempotency_key=str(n)) for n in range(60)]
        await asyncio.wait_for(asyncio.gather(*calls), 20)
        assert time.monotonic() - began > 0.2  # the repeats did not come all at once
    assert len(seen) == 60
