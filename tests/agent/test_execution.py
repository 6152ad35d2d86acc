import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from holdfast.agent import App, BudgetExhausted, Dimension, Limits, Permanent, Run, StepFailed, step
from holdfast.agent.engine.journal import Refused
from holdfast.agent.engine.transcript import Speakers
from holdfast.agent.error import HandedBack, LeaseLost, RunCancelled
from holdfast.agent.execution import Left
from holdfast.agent.wire import draft as wire
from tests.agent.memory import Counter, Memory


@dataclass
class Ticket:
    id: int
    title: str


@dataclass
class Answer:
    ticket: Ticket
    text: str


async def test_a_run_records_its_steps_and_ends_with_the_agents_result() -> None:
    app = App("desk")

    async def read(ticket: Ticket) -> Ticket:
        return Ticket(ticket.id, ticket.title.upper())

    async def draft(ticket: Ticket) -> Answer:
        return Answer(ticket, "hello")

    @app.agent("triage")
    async def triage(run: Run, ticket: Ticket) -> Answer:
        loaded = await run.step(read, ticket)
        assert isinstance(loaded, Ticket)
        return await run.step(draft, loaded)

    memory = Memory("triage", {"id": 7, "title": "help"})
    assert await memory.run(app) is Left.ENDED
    assert memory.keys == ["read", "draft"]
    assert memory.outcome.status == wire.SUCCEEDED
    assert memory.outcome.result.struct_value["text"] == "hello"
    kinds = [event.WhichOneof("event") for event in memory.events]
    assert kinds == ["started", "step_started", "step_finished", "step_started", "step_finished", "ended"]
    assert [event.sequence for event in memory.events] == [2, 3, 4, 5, 6, 7]
    assert [event.sequence for event in memory.live] == [2, 3, 4, 5, 6, 7]


async def test_a_run_resumed_after_any_prefix_of_its_commits_repeats_no_step() -> None:
    executed = Counter()

    async def double(number: int) -> int:
        executed.note(number)
        return number * 2

    async def add(numbers: list[int]) -> int:
        executed.note("add")
        return sum(numbers)

    app = App("sums")

    @app.agent("sum")
    async def total(run: Run) -> int:
        run.say("go")
        first = await run.step(double, 1)
        second = await run.step(double, 2)
        run.send("ledger", {"first": first})
        doubled = await run.map(step(double), [3, 4])
        plain = await asyncio.gather(run.step(double, 5), run.step(double, 6))
        run.say("nearly")
        return await run.step(add, [first, second, *doubled, *plain])

    undisturbed = Memory("sum")
    assert await undisturbed.run(app) is Left.ENDED
    for prefix in range(len(undisturbed.commits)):
        executed.calls.clear()
        memory = Memory("sum")
        assert await memory.crash(app, prefix), prefix
        done = memory.keys
        lost = len(executed) - len(done)
        assert await memory.run(app) is Left.ENDED
        assert memory.outcome == undisturbed.outcome
        assert sorted(memory.keys) == sorted(undisturbed.keys)
        assert len(set(memory.keys)) == len(memory.keys)
        assert len(executed) == len(undisturbed.keys) + lost
        assert [said.text for said in memory.told("said")] == ["go", "nearly"]
        assert len(memory.effects) == 1
        assert memory.spent == undisturbed.spent


async def test_an_agent_that_asks_otherwise_in_a_replay_has_drifted() -> None:
    asked = iter([1, 2])
    app = App("drift")

    async def look(number: int) -> int:
        return number

    @app.agent("look")
    async def agent(run: Run) -> int:
        first = await run.step(look, next(asked))
        return await run.step(look, first)

    memory = Memory("look")
    assert await memory.crash(app, 1)
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.DRIFTED
    failure = memory.outcome.failure
    assert failure.step == "look"
    assert '{"number":1}' in failure.message
    assert '{"number":2}' in failure.message


async def test_branches_have_scopes_that_do_not_depend_on_who_is_first() -> None:
    async def visit(place: str) -> str:
        return place

    orders = iter([(0.0, 0.01), (0.01, 0.0)])
    app = App("branches")

    @app.agent("branch")
    async def agent(run: Run) -> list[str]:
        waits = next(orders)

        async def branch(wait: float, place: str) -> str:
            await asyncio.sleep(wait)
            return await run.step(visit, place)

        both = asyncio.gather(branch(waits[0], "a"), branch(waits[1], "b"))
        mapped = await run.map(lambda place: branch(0, place), ["c", "d"])
        named = await run.task(branch(0, "e"), name="side")
        async with asyncio.TaskGroup() as group:
            grouped = group.create_task(branch(0, "f"))
        return [*await both, *mapped, named, grouped.result()]

    def by_key(memory: Memory) -> dict[str, bytes]:
        return {record.key: record.output for record in memory.records}

    first, second = Memory("branch"), Memory("branch")
    await first.run(app)
    await second.run(app)
    expected = {
        "task/visit": b'"a"',
        "task#2/visit": b'"b"',
        "map.1/visit": b'"c"',
        "map.2/visit": b'"d"',
        "side/visit": b'"e"',
        "task#3/visit": b'"f"',
    }
    assert by_key(first) == by_key(second) == expected


async def test_a_failing_step_is_tried_again_and_its_failures_are_told() -> None:
    tries = Counter()
    app = App("flaky")

    @step(attempts=3)
    async def flaky() -> str:
        if tries.note("try") < 3:
            raise ConnectionError("not yet")
        return "done"

    @app.agent("flaky")
    async def agent(run: Run) -> str:
        return await run.step(flaky)

    memory = Memory("flaky")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "done"
    assert memory.records[0].attempts == 3
    failed = memory.told("step_failed")
    assert [(each.attempt, each.failure.reason) for each in failed] == [
        (1, "ConnectionError"),
        (2, "ConnectionError"),
    ]
    assert [each.attempt for each in memory.told("step_started")] == [1, 2, 3]


async def test_a_permanent_failure_is_not_tried_again_and_fails_the_run() -> None:
    tries = Counter()
    app = App("declined")

    class CardDeclined(Permanent):
        pass

    async def charge() -> None:
        tries.note("try")
        raise CardDeclined("no funds")

    @app.agent("pay")
    async def agent(run: Run) -> None:
        await run.step(charge)

    memory = Memory("pay")
    assert await memory.run(app) is Left.ENDED
    assert len(tries) == 1
    assert memory.outcome.status == wire.FAILED
    assert memory.outcome.failure.reason == "CardDeclined"
    assert memory.outcome.failure.message == "no funds"
    assert memory.outcome.failure.step == "charge"
    assert memory.keys == []  # a retry of the run shall execute the step again


async def test_a_failure_the_agent_survives_is_recorded_and_replayed() -> None:
    tries = Counter()
    app = App("fallback")

    async def first_choice() -> str:
        tries.note("first")
        raise Permanent("sold out", reason="SOLD_OUT")

    async def second_choice(_: str) -> str:
        tries.note("second")
        return "the other"

    async def wrap(what: str) -> str:
        return f"<{what}>"

    @app.agent("buy")
    async def agent(run: Run) -> str:
        try:
            got = await run.step(first_choice)
        except StepFailed as failure:
            got = await run.step(second_choice if failure.reason == "SOLD_OUT" else wrap, "x")
        return await run.step(wrap, got)

    memory = Memory("buy")
    assert await memory.crash(app, 2)
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "<the other>"
    assert tries.calls == ["first", "second"]
    assert memory.keys == ["first_choice", "second_choice", "wrap"]


async def test_an_attempt_that_fails_otherwise_goes_back_to_the_queue_and_executes_the_step_again() -> None:
    tries = Counter()
    app = App("again")

    @step(attempts=1)
    async def flaky() -> int:
        number = tries.note("try")
        if number == 1:
            raise OSError("away")
        return number

    @app.agent("again")
    async def agent(run: Run) -> int:
        return await run.step(flaky)

    memory = Memory("again")
    assert await memory.run(app) is Left.REQUEUED
    move = memory.commits[-1].requeue
    assert move.failure.reason == "OSError"
    assert not move.blameless
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.number_value == 2
    assert [each.attempt for each in memory.told("step_started")] == [1, 2]


async def test_an_agent_may_fail_a_run_before_the_platform_sets_it_aside() -> None:
    app = App("few")

    @app.agent("few", max_attempts=1)
    async def agent(_: Run) -> None:
        raise KeyError("bug")

    memory = Memory("few")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.FAILED
    assert memory.outcome.failure.reason == "KeyError"


async def test_a_payload_that_does_not_fit_fails_the_run_naming_the_field() -> None:
    app = App("strict")

    @app.agent("strict")
    async def agent(_: Run, __: Ticket) -> None:
        raise AssertionError("is never called")

    memory = Memory("strict", {"id": "seven", "title": "x"})
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.FAILED
    assert memory.outcome.failure.reason == "INVALID_PAYLOAD"
    assert memory.outcome.failure.message.startswith("id: ")


@pytest.mark.parametrize("swallow", [Exception, BaseException])
async def test_a_cancelled_run_ends_cancelled_whatever_its_agent_catches(
    swallow: type[BaseException],
) -> None:
    app = App("stubborn")
    waiting = asyncio.Event()

    async def wait() -> None:
        waiting.set()
        await asyncio.sleep(60)

    @app.agent("stubborn")
    async def agent(run: Run) -> str:
        while True:
            try:
                await run.step(wait)
            except swallow:
                if swallow is BaseException:
                    return "I do what I want"

    memory = Memory("stubborn")
    execution = memory.lease(app)
    ended = asyncio.create_task(execution.run())
    await waiting.wait()
    execution.stop(RunCancelled("enough"))
    async with asyncio.timeout(1):
        assert await ended is Left.ENDED
    assert memory.outcome.status == wire.CANCELLED
    assert memory.outcome.failure.message == "enough"


async def test_an_agent_that_never_lets_go_is_left_behind() -> None:
    app = App("deaf")
    waiting = asyncio.Event()
    release = asyncio.Event()

    @app.agent("deaf")
    async def agent(run: Run) -> None:
        waiting.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        with pytest.raises(RunCancelled):
            run.say("too late")

    memory = Memory("deaf")
    execution = memory.lease(app)
    ended = asyncio.create_task(execution.run())
    await waiting.wait()
    execution.stop(RunCancelled())
    assert await ended is Left.ENDED
    assert memory.outcome.status == wire.CANCELLED
    release.set()


async def test_nothing_is_committed_after_the_lease_is_lost() -> None:
    app = App("lost")
    waiting = asyncio.Event()

    async def wait() -> None:
        waiting.set()
        await asyncio.sleep(60)

    @app.agent("lost")
    async def agent(run: Run) -> None:
        try:
            await run.step(wait)
        finally:
            run.say("goodbye")

    memory = Memory("lost")
    execution = memory.lease(app)
    ended = asyncio.create_task(execution.run())
    await waiting.wait()
    execution.stop(LeaseLost("revoked"))
    assert await ended is Left.LOST
    assert memory.commits == []


async def test_a_run_handed_back_keeps_what_was_done_and_blames_nobody() -> None:
    app = App("drain")
    waiting = asyncio.Event()
    executed = Counter()

    @step(repeatable=True)
    async def look() -> int:
        return executed.note("look")

    async def wait() -> None:
        waiting.set()
        await asyncio.sleep(60)

    @app.agent("drain")
    async def agent(run: Run) -> None:
        await run.step(look)
        await run.step(wait)

    memory = Memory("drain")
    execution = memory.lease(app)
    ended = asyncio.create_task(execution.run())
    await waiting.wait()
    execution.stop(HandedBack())
    assert await ended is Left.REQUEUED
    assert memory.commits[-1].requeue.blameless
    assert memory.keys == ["look"]


async def test_a_refused_commit_ends_the_run_with_the_reason_and_without_the_record() -> None:
    app = App("refused")

    async def one() -> int:
        return 1

    @app.agent("refused")
    async def agent(run: Run) -> int:
        run.send("nowhere", {})
        return await run.step(one)

    memory = Memory("refused")
    memory.refuse = lambda commit: (
        Refused("DESTINATION_NOT_FOUND", "no destination nowhere") if commit.effects else None
    )
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.FAILED
    assert memory.outcome.failure.reason == "DESTINATION_NOT_FOUND"
    assert memory.keys == []
    assert memory.effects == []


async def test_an_end_refused_for_what_is_in_it_is_committed_without() -> None:
    app = App("refused")

    @app.agent("refused")
    async def agent(run: Run) -> int:
        run.send("nowhere", {})
        return 1

    memory = Memory("refused")
    memory.refuse = lambda commit: Refused("DESTINATION_NOT_FOUND", "no") if commit.effects else None
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.FAILED
    assert [event.WhichOneof("event") for event in memory.live] == ["started", "effect_staged", "ended"]
    assert memory.live[-1].ended.outcome.status == wire.FAILED


async def test_an_effect_of_a_refused_commit_is_staged_by_the_retry_and_the_committed_ones_are_not() -> None:
    app = App("refused")

    async def one() -> int:
        return 1

    @app.agent("refused")
    async def agent(run: Run) -> int:
        run.send("somewhere", {"n": 1}, key="first")
        await run.step(one)
        run.say("one is done")
        run.send("nowhere", {"n": 2}, key="second")
        run.say("two is sent")
        return 2

    memory = Memory("refused")
    memory.refuse = lambda commit: (
        Refused("DESTINATION_NOT_FOUND", "no")
        if any(e.destination == "nowhere" for e in commit.effects)
        else None
    )
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.FAILED
    memory.refuse = lambda _: None
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.SUCCEEDED
    assert [effect.idempotency_key for effect in memory.effects] == ["first", "second"]
    assert [said.text for said in memory.told("said")] == ["one is done", "two is sent"]


def _limits(**changed: Any) -> Limits:
    values = {"deadline": 3600.0, "steps": 1000, "tools": 1000, "tokens": 1_000_000, "context": 100_000}
    return Limits(**{**values, **changed})


async def test_no_step_starts_at_the_limit_and_the_agent_shapes_what_it_managed() -> None:
    app = App("limited")
    executed = Counter()

    async def count(number: int) -> int:
        executed.note(number)
        return number

    async def shape(run: Run, dimension: Dimension) -> dict[str, Any]:
        with pytest.raises(BudgetExhausted):
            await run.step(count, 99)
        return {"stopped_by": dimension.name, "steps_left": run.budget.steps}

    @app.agent("limited", on_exhausted=shape)
    async def agent(run: Run) -> None:
        for number in range(10):
            try:
                await run.step(count, number)
            except Exception:  # noqa: BLE001 -- must not catch the end of the budget
                raise AssertionError from None

    memory = Memory("limited", limits=_limits(steps=3))
    assert await memory.run(app) is Left.ENDED
    assert executed.calls == [0, 1, 2]
    assert memory.outcome.status == wire.PARTIAL
    assert Dimension(int(memory.outcome.exhausted)) is Dimension.STEPS
    assert dict(memory.outcome.result.struct_value) == {"stopped_by": "STEPS", "steps_left": 0}


async def test_the_budget_holds_over_attempts_and_replays_do_not_charge() -> None:
    app = App("limited")

    async def count(number: int) -> int:
        return number

    @app.agent("limited")
    async def agent(run: Run) -> int:
        for number in range(4):
            await run.step(count, number)
        return 4

    memory = Memory("limited", limits=_limits(steps=4))
    assert await memory.crash(app, 2)
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.SUCCEEDED
    assert memory.spent.steps == 4


async def test_tool_calls_are_limited_and_told() -> None:
    app = App("tools")

    async def search(query: str, limit: int = 3) -> list[str]:
        return [query] * limit

    @app.agent("tools")
    async def agent(run: Run) -> list[str]:
        found = await run.tool(search, query="a", limit=2)
        await run.tool(search, query="b")
        return found

    memory = Memory("tools", limits=_limits(tools=1))
    assert await memory.run(app) is Left.ENDED
    assert Dimension(int(memory.outcome.exhausted)) is Dimension.TOOLS
    (called,) = memory.told("tool_called")
    assert called.tool == "search"
    assert dict(called.arguments.struct_value) == {"query": "a", "limit": 2}
    (returned,) = memory.told("tool_returned")
    assert [value.string_value for value in returned.result.list_value.values] == ["a", "a"]


async def test_the_deadline_cancels_the_step_in_flight() -> None:
    app = App("late")

    async def wait() -> None:
        await asyncio.sleep(60)

    @app.agent("late", on_exhausted=lambda _, dimension: dimension.name)
    async def agent(run: Run) -> None:
        await run.step(wait)

    memory = Memory("late")
    memory.remaining = 0.05
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.PARTIAL
    assert Dimension(int(memory.outcome.exhausted)) is Dimension.DEADLINE
    assert memory.outcome.result.string_value == "DEADLINE"


async def test_a_repeatable_step_lets_the_agent_go_on_and_the_next_ordinary_one_waits() -> None:
    app = App("pipelined")
    started = Counter()

    @step(repeatable=True)
    async def look(number: int) -> int:
        started.note(number)
        await asyncio.sleep(0)
        return number

    async def act() -> str:
        started.note("act")
        return "acted"

    @app.agent("pipelined")
    async def agent(run: Run) -> str:
        for number in range(3):
            await run.step(look, number)
        return await run.step(act)

    memory = Memory("pipelined")
    memory.hold = True
    ended = asyncio.create_task(memory.lease(app).run())
    for _ in range(20):
        await asyncio.sleep(0)
    assert started.calls == [0, 1, 2]
    memory.release()
    for _ in range(20):
        await asyncio.sleep(0)
    assert started.calls == [0, 1, 2]  # the second commit, of what had gathered, is not durable yet
    memory.hold = False
    memory.release()
    assert await ended is Left.ENDED
    assert started.calls == [0, 1, 2, "act"]
    assert [len(commit.steps) for commit in memory.commits] == [1, 2, 1, 0]


async def test_the_end_goes_with_repeatable_steps_that_wait() -> None:
    app = App("one")

    @step(repeatable=True)
    async def look(number: int) -> int:
        return number

    @app.agent("one")
    async def agent(run: Run) -> int:
        return sum([await run.step(look, number) for number in range(3)])

    memory = Memory("one")
    assert await memory.run(app) is Left.ENDED
    assert len(memory.commits) == 1
    assert memory.outcome.result.number_value == 3


async def test_an_effect_of_a_failed_try_is_forgotten_and_keys_are_stable() -> None:
    app = App("effects")
    tries = Counter()
    keys: list[str] = []
    holder: list[Run] = []

    async def notify(idempotency_key: str = "") -> None:
        keys.append(idempotency_key)
        holder[0].send("mail", {"try": tries.note("try")})
        if len(tries) == 1:
            raise OSError("once more")

    @app.agent("effects")
    async def agent(run: Run) -> None:
        holder[:] = [run]
        await run.step(notify)
        run.send("mail", {"last": True}, key="mine")

    memory = Memory("effects")
    assert await memory.run(app) is Left.ENDED
    assert [(effect.idempotency_key, effect.body) for effect in memory.effects] == [
        (f"{memory.run_id}/notify/send#1", b'{"try":2}'),
        ("mine", b'{"last":true}'),
    ]
    assert keys == [f"{memory.run_id}/notify"] * 2
    assert len(memory.told("effect_staged")) == 2


async def test_tokens_are_coalesced_and_told_once_over_a_replay() -> None:
    app = App("talk")
    fail = [True]

    async def work() -> None:
        pass

    async def last() -> None:
        if fail.pop() if fail else False:
            raise OSError("once")

    @app.agent("talk")
    async def agent(run: Run) -> None:
        for piece in ("a", "b", "c"):
            run.token(piece)
        await run.step(work)
        run.token("d")
        run.token("e")
        await run.step(step(attempts=1)(last))
        run.token("f")

    memory = Memory("talk")
    assert await memory.run(app) is Left.REQUEUED
    assert await memory.run(app) is Left.ENDED
    assert "".join(token.text for token in memory.told("token")) == "abcdef"
    assert len(memory.told("token")) < 6


@pytest.mark.parametrize(("others", "least", "most"), [(0, 4, 10), (1000, 1, 2)])
async def test_a_token_is_gathered_longer_beside_many_who_speak(others: int, least: int, most: int) -> None:
    app = App("talk")
    speakers = Speakers()
    speakers.count = others

    @app.agent("talk")
    async def agent(run: Run) -> None:
        for number in range(10):
            run.token(f"{number} ")
            await asyncio.sleep(0.02)

    memory = Memory("talk")
    async with asyncio.timeout(10):
        assert await memory.lease(app, speakers=speakers).run() is Left.ENDED
    told = memory.told("token")
    assert "".join(token.text for token in told) == "0 1 2 3 4 5 6 7 8 9 "
    assert least <= len(told) <= most
    assert speakers.count == others


async def test_a_step_cannot_start_another() -> None:
    app = App("nested")
    holder: list[Run] = []

    async def inner() -> None:
        pass

    @step(attempts=1)
    async def outer() -> None:
        await holder[0].step(inner)

    @app.agent("nested", max_attempts=1)
    async def agent(run: Run) -> None:
        holder[:] = [run]
        await run.step(outer)

    memory = Memory("nested")
    assert await memory.run(app) is Left.ENDED
    assert "cannot start others" in memory.outcome.failure.message


async def test_what_is_not_json_is_a_permanent_failure_that_says_so() -> None:
    app = App("opaque")

    async def opaque() -> Any:
        return object()

    @app.agent("opaque")
    async def agent(run: Run) -> None:
        await run.step(opaque)

    memory = Memory("opaque")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.FAILED
    assert memory.outcome.failure.reason == "NOT_RECORDABLE"


async def test_tasks_the_agent_leaves_behind_are_ended_before_the_run() -> None:
    app = App("orphans")
    cancelled = asyncio.Event()

    @app.agent("orphans")
    async def agent(run: Run) -> str:
        async def forever() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()

        run.task(forever())
        await asyncio.sleep(0)
        return "done"

    memory = Memory("orphans")
    assert await memory.run(app) is Left.ENDED
    assert cancelled.is_set()


async def test_a_step_that_exits_the_process_only_fails() -> None:
    app = App("exit")

    async def leave() -> None:
        raise SystemExit(3)

    @app.agent("exit", max_attempts=1)
    async def agent(run: Run) -> None:
        await run.step(step(attempts=1)(leave))

    memory = Memory("exit")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == wire.FAILED


async def test_a_run_stopped_before_it_begins_ends_at_once() -> None:
    app = App("early")
    entered = Counter()

    @app.agent("early")
    async def agent(_: Run) -> None:
        entered.note("agent")

    memory = Memory("early")
    execution = memory.lease(app)
    execution.stop(RunCancelled("never mind"))
    assert await execution.run() is Left.ENDED
    assert memory.outcome.status == wire.CANCELLED

    other = Memory("early")
    execution = other.lease(app)
    ended = asyncio.create_task(execution.run())
    await asyncio.sleep(0)
    execution.stop(HandedBack())
    async with asyncio.timeout(0.5):
        assert await ended is Left.REQUEUED
    assert len(entered) == 0


def _nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "word"),
    [(_nested(20), None), (_nested(30), "nested more than"), ([7] * 200_000, "are the most")],
)
async def test_a_result_that_no_message_can_hold_fails_the_run(value: Any, word: str | None) -> None:
    app = App("large")

    @app.agent("large")
    async def agent(_: Run) -> Any:
        return value

    memory = Memory("large")
    assert await memory.run(app) is Left.ENDED
    if word is None:
        assert memory.outcome.status == wire.SUCCEEDED
    else:
        assert memory.outcome.failure.reason == "NOT_RECORDABLE"
        assert word in memory.outcome.failure.message


async def test_a_tools_long_or_deep_answer_is_shown_as_text_and_returned_whole() -> None:
    app = App("long")

    async def dump(size: int) -> list[int]:
        return [1] * size

    async def nest() -> Any:
        return _nested(40)

    @app.agent("long")
    async def agent(run: Run) -> int:
        assert await run.tool(nest) == _nested(40)
        return len(await run.tool(dump, size=100_000))

    memory = Memory("long")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.number_value == 100_000
    deep, long = memory.told("tool_returned")
    assert deep.result.string_value == "[" * 41 + "]" * 41
    assert long.result.string_value.endswith("…")


async def test_much_that_is_said_at_once_is_committed_in_parts() -> None:
    app = App("flood")

    async def nothing() -> None:
        pass

    @app.agent("flood")
    async def agent(run: Run) -> None:
        for _ in range(20):
            run.say("x" * 200_000)
        await run.step(nothing)

    memory = Memory("flood")
    assert await memory.run(app) is Left.ENDED
    assert len(memory.told("said")) == 20
    assert max(commit.ByteSize() for commit in memory.commits) < 1_000_000
    assert len(memory.commits) > 5


@pytest.mark.parametrize("cancelled", [True, False], ids=["cancelled", "failed"])
async def test_an_attempt_that_failed_says_why_and_one_that_is_cancelled_has_not_though_both_are_undone(
    *, cancelled: bool
) -> None:
    app = App("undone")

    async def take_back() -> None:
        """Take back what was held."""

    @step(undo=take_back)
    async def hold() -> None:
        """Hold something."""

    @app.agent("undone", undo_on=("failure", "cancel"))
    async def agent(run: Run) -> None:
        await run.step(hold)
        if cancelled:
            execution.stop(RunCancelled("enough"))
            await asyncio.sleep(1)
        raise Permanent("no")

    memory = Memory("undone")
    execution = memory.lease(app)
    assert await execution.run() is Left.REQUEUED
    assert memory.commits[-1].WhichOneof("move") == "compensate"
    assert (execution.failure and execution.failure.message) == (None if cancelled else "no")
