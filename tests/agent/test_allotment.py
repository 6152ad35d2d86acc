"""A run's tokens are divided among its calls: none takes what another has, and what is paid is charged."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.standins.chat_protocol import Answer
from examples.standins.fault import Fault
from examples.standins.model_server import ModelServer
from holdfast.agent import App, Dimension, Limits, ModelEndpoint, Run, Usage
from holdfast.agent.budget import Meter
from holdfast.agent.engine.allotment import Allotment
from holdfast.agent.engine.journal import Answer as JournalAnswer
from holdfast.agent.engine.journal import Refused
from holdfast.agent.error import BudgetExhausted, RunCancelled, RunStopped
from holdfast.agent.execution import Left
from holdfast.agent.wire import draft as wire
from holdfast.ledger.domain.commit import Charge
from holdfast.v1.checkpoint_pb2 import Commit
from tests.agent.memory import AMPLE, Memory

KEY = "sk-a-key"


def of_tokens(tokens: int) -> Limits:
    return Limits(AMPLE.deadline, AMPLE.steps, AMPLE.tools, tokens, AMPLE.context)


def allotment(tokens: int) -> tuple[Allotment, Meter]:
    meter = Meter(of_tokens(tokens), Usage(), 60.0)
    return Allotment(meter), meter


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(api_key=KEY) as server:
        yield server


@pytest.fixture
async def app(server: ModelServer) -> AsyncIterator[App]:
    app = App("asks", model=ModelEndpoint(server.url, KEY, "standin-large", timeout=5))

    @app.agent("one")
    async def one(run: Run) -> str:
        return (await run.model("say it")).content

    @app.agent("many")
    async def many(run: Run) -> int:
        async def ask(number: int) -> str:
            return (await run.model(f"say {number}")).content

        return len(await run.map(ask, range(8)))

    yield app
    await app.close()


async def test_calls_side_by_side_spend_no_more_than_one_after_the_other(
    app: App, server: ModelServer
) -> None:
    server.answers.extend([Answer("word " * 250)] * 8)
    memory = Memory("many", limits=of_tokens(300))
    assert await memory.run(app) is Left.ENDED
    assert Dimension(memory.outcome.exhausted) is Dimension.TOKENS
    assert memory.spent.tokens <= 330
    assert server.stats.requests < 8


async def test_short_calls_that_do_not_fit_side_by_side_are_all_made(app: App, server: ModelServer) -> None:
    server.answers.extend([Answer("yes")] * 8)
    memory = Memory("many", limits=of_tokens(300))
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.SUCCEEDED
    assert memory.outcome.result.number_value == 8


async def test_what_failed_tries_have_cost_is_not_there_for_the_next(app: App, server: ModelServer) -> None:
    server.answers.extend([Answer("word " * 250)] * 8)
    server.faults.add(Fault("drop", count=4, after_tokens=200))
    memory = Memory("one", limits=of_tokens(300))
    assert await memory.run(app) is Left.ENDED
    assert Dimension(memory.outcome.exhausted) is Dimension.TOKENS
    limits = [request["body"]["max_tokens"] for request in server.requests]
    assert limits == sorted(limits, reverse=True)
    assert 200 <= memory.spent.tokens <= 330, "and is charged, though the step has no record"
    assert memory.keys == []
    assert memory.told("ended")[-1].usage.tokens == memory.spent.tokens


async def test_what_a_cancelled_call_has_cost_is_charged(app: App, server: ModelServer) -> None:
    server.faults.add(Fault("drop", after_tokens=50))
    server.faults.add(Fault("hang"))
    server.answers.append(Answer("word " * 100))
    memory = Memory("one")
    lease = memory.lease(app)
    running = asyncio.ensure_future(lease.run())
    async with asyncio.timeout(5):
        while server.stats.requests < 2:  # noqa: ASYNC110 -- what another server counts
            await asyncio.sleep(0.005)
    lease.stop(RunCancelled())
    assert await running is Left.ENDED
    assert memory.outcome.status == wire.CANCELLED
    assert memory.spent.tokens > 50
    assert memory.spent.steps == 0
    assert memory.told("ended")[-1].usage.tokens == memory.spent.tokens


@pytest.mark.parametrize("stopped", [RunCancelled(), BudgetExhausted(Dimension.DEADLINE)])
async def test_what_was_heard_before_the_run_was_stopped_is_paid_for(stopped: RunStopped) -> None:
    async with ModelServer(api_key=KEY, token_delay_ms=1) as server:
        app = App("asks", model=ModelEndpoint(server.url, KEY, "standin-large", timeout=5))

        @app.agent("one")
        async def one(run: Run) -> str:
            return (await run.model("say it")).content

        server.answers.append(Answer("word " * 5000))
        memory = Memory("one")
        lease = memory.lease(app)
        running = asyncio.ensure_future(lease.run())
        async with asyncio.timeout(5):
            while not any(event.WhichOneof("event") == "token" for event in memory.live):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        lease.stop(stopped)
        assert await running is Left.ENDED
        assert memory.spent.tokens > 10, "what it has read, and what was heard"
        assert memory.told("ended")[-1].usage.tokens == memory.spent.tokens
        await app.close()


async def test_who_waits_is_served_in_order_and_whoever_leaves_holds_nobody_up() -> None:
    tokens, meter = allotment(100)
    served: list[str] = []

    async def ask(name: str, read: int, write: int) -> None:
        allowed = await tokens.take(read, write)
        served.append(f"{name} {allowed}")

    assert await tokens.take(10, 200) == 90, "alone it takes what is left"
    first, second, third = (
        asyncio.ensure_future(ask(name, 10, write)) for name, write in (("a", 60), ("b", 20), ("c", 20))
    )
    await asyncio.sleep(0)
    assert served == []
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    meter.charge(Usage(tokens=20))
    tokens.give_back(10, 90)
    await asyncio.gather(second, third)
    assert served == ["b 20", "c 20"]
    assert meter.tokens == 100 - 20 - 60


async def test_a_call_cancelled_as_its_turn_comes_gives_it_back() -> None:
    tokens, meter = allotment(100)
    assert await tokens.take(10, 90) == 90
    waiting = asyncio.ensure_future(tokens.take(10, 90))
    await asyncio.sleep(0)
    tokens.give_back(10, 90)
    await asyncio.sleep(0)  # the line is served; the waiter has not run yet
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    assert meter.tokens == 100
    assert await tokens.take(10, 90) == 90


CALLS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 80), st.booleans()), min_size=1, max_size=12)


@given(CALLS, st.integers(20, 200))
def test_no_more_is_given_than_there_is_and_nobody_waits_for_ever(
    calls: list[tuple[int, int, bool]], limit: int
) -> None:
    async def divide() -> None:
        tokens, meter = allotment(limit)
        refused = 0

        async def call(read: int, write: int, *, gives_up: bool) -> None:
            nonlocal refused
            allowed = await tokens.take(read, write)
            if not allowed:
                refused += 1
                return
            assert allowed <= write
            assert meter.spent.tokens + meter._reserved.tokens <= limit
            await asyncio.sleep(0)
            if gives_up:
                tokens.lose(Usage(tokens=read))
            else:
                meter.charge(Usage(tokens=read + allowed))
            tokens.give_back(read, allowed)

        tasks = [asyncio.ensure_future(call(read, write, gives_up=g)) for read, write, g in calls]
        for at, task in enumerate(tasks):
            if at % 5 == 4:
                task.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() or task.exception() is None for task in tasks)
        meter.charge(tokens.lost())
        assert meter._reserved.tokens == 0
        assert meter.spent.tokens <= limit

    asyncio.run(divide())


def as_the_ledger(memory: Memory) -> None:
    """Refuse what the ledger would: what begins after the tokens are used up."""
    allowed = memory.refuse

    def refuse(commit: Commit) -> JournalAnswer | None:
        charges = [record.usage for record in commit.steps] + [commit.usage]
        charge = Charge.of((each.steps, each.tools, each.tokens, each.context) for each in charges)
        if charge.tokens and memory.spent.tokens + charge.lead_tokens >= memory.limits.tokens:
            return Refused("BUDGET_EXCEEDED", "the budget does not bear it")
        return allowed(commit)

    memory.refuse = refuse


@settings(max_examples=15, deadline=None)
@given(
    limit=st.integers(60, 900),
    crashes=st.lists(st.integers(1, 4), max_size=3),
    faults=st.lists(st.tuples(st.sampled_from(["drop", "503", "error_in_stream"]), st.integers(1, 60))),
    at_once=st.integers(1, 4),
)
def test_over_random_crashes_what_is_charged_is_what_is_recorded_and_within_the_limit(
    limit: int, crashes: list[int], faults: list[tuple[str, int]], at_once: int
) -> None:
    async def live() -> None:
        async with ModelServer(api_key=KEY, answer=lambda _: Answer("word " * 60)) as server:
            app = App("asks", model=ModelEndpoint(server.url, KEY, "standin-large", timeout=5))
            for kind, after in faults[:4]:
                server.faults.add(Fault(kind, after_tokens=after, retry_after=0.0))

            @app.agent("ask")
            async def ask(run: Run) -> int:
                async def one(number: int) -> str:
                    return (await run.model(f"say {number}", max_tokens=80)).content

                return len(await run.map(one, range(6), at_once=at_once))

            memory = Memory("ask", limits=of_tokens(limit))
            over = False
            for commits in crashes:
                if not over:
                    over = not await memory.crash(app, commits)
            if not over:
                as_the_ledger(memory)
                assert await memory.run(app) is Left.ENDED
            assert memory.outcome.status in (wire.SUCCEEDED, wire.PARTIAL)
            assert memory.spent.tokens == memory.told("ended")[-1].usage.tokens
            assert memory.spent.tokens < limit + 80, "passed at most by a call in flight"
            assert len(set(memory.keys)) == len(memory.keys)
            await app.close()

    asyncio.run(live())
