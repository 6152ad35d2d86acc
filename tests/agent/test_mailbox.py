"""What is sent to a run reaches its agent once, in order, and at the same place in every replay."""

import asyncio
from typing import Any

import pytest

from holdfast.agent import App, Interrupted, Policy, Run, StepFailed, step
from holdfast.agent.error import RunCancelled
from holdfast.agent.execution import Left
from holdfast.agent.wire import draft as wire
from tests.agent.memory import Counter, Memory
from tests.kit.until import until

WAIT = wire.WAIT


def chat(app: App, turns: int = 3) -> None:
    """Give an app an agent that answers what it receives."""

    async def answer(text: str) -> str:
        return text.upper()

    @app.agent("chat")
    async def agent(run: Run) -> list[str]:
        answers = []
        for _ in range(turns):
            text = await run.receive()
            run.say(f"heard {text}")
            answers.append(await run.step(answer, text))
        return answers


async def test_signals_are_received_in_order_as_recorded_steps() -> None:
    app = App("desk")
    chat(app)
    memory = Memory("chat")
    for text in ("a", "b"):
        memory.signal(text)
    running = asyncio.create_task(memory.run(app))
    await until(lambda: len(memory.keys) == 4)
    memory.signal("c")
    assert await running is Left.ENDED
    assert memory.keys == ["receive", "answer", "receive#2", "answer#2", "receive#3", "answer#3"]
    assert memory.outcome.result.list_value[2] == "C"
    assert [record.kind for record in memory.records[:2]] == [WAIT, wire.FUNCTION]
    assert memory.records[0].output == b'{"payload":"a","signal_id":"s1"}'
    assert memory.spent.steps == 6
    assert [(each.key, each.interrupted) for each in memory.told("input_received")] == [("input", False)] * 3
    assert memory.mail == []


async def test_a_signal_is_received_once_whatever_commit_the_runner_dies_after() -> None:
    app = App("desk")
    chat(app)
    for prefix in range(6):
        memory = Memory("chat")
        for text in ("a", "b", "c"):
            memory.signal(text)
        assert await memory.crash(app, prefix), prefix
        received = [record for record in memory.records if record.kind == WAIT]
        assert len(memory.mail) == 3 - len(received), prefix  # what was not committed waits again
        assert await memory.run(app) is Left.ENDED
        assert list(memory.outcome.result.list_value) == ["A", "B", "C"], prefix
        assert len(memory.told("input_received")) == 3
        assert [said.text for said in memory.told("said")] == ["heard a", "heard b", "heard c"]
        assert memory.mail == []


async def test_a_signal_whose_push_was_lost_holds_those_behind_it_until_it_is_sent_again() -> None:
    app = App("desk")
    chat(app, turns=2)
    memory = Memory("chat")
    running = asyncio.create_task(memory.run(app))
    await until(lambda: bool(memory.live))
    memory.signal("first", lost=True)
    memory.signal("second")
    for _ in range(10):
        await asyncio.sleep(0)  # a signal that may be received is, by now
    assert memory.keys == []
    for _ in range(2):  # what is sent again may be sent twice
        memory.push_again()
    assert await running is Left.ENDED
    assert list(memory.outcome.result.list_value) == ["FIRST", "SECOND"]


async def test_each_key_has_its_own_line() -> None:
    app = App("keys")

    @app.agent("keys")
    async def agent(run: Run) -> list[Any]:
        return [await run.receive("b"), await run.receive("a"), await run.receive("a")]

    memory = Memory("keys")
    for payload, key in ((1, "a"), ({"x": [None]}, "b"), (2.5, "a"), (9, "c")):
        memory.signal(payload, key)
    assert await memory.run(app) is Left.ENDED
    result: Any = memory.outcome.result.list_value
    assert (result[0]["x"][0], result[1], result[2]) == (None, 1, 2.5)
    assert [signal.key for signal in memory.mail] == ["c"]


async def test_a_wait_that_was_in_vain_is_so_in_every_replay() -> None:
    app = App("patience")

    @app.agent("patience")
    async def agent(run: Run) -> str:
        try:
            return str(await run.receive(timeout=0))
        except TimeoutError as nothing:
            await run.step(note)
            return f"{type(nothing).__name__}, then {await run.receive()}"

    async def note() -> None:
        memory.signal("x")

    memory = Memory("patience")
    assert await memory.crash(app, 1)
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "NothingReceived, then x"
    assert [record.output for record in memory.records][:1] == [b"null"]
    assert len(memory.mail) == 1  # sent by each try of the step, received once


async def test_what_is_there_is_received_without_patience() -> None:
    app = App("patience")

    @app.agent("patience")
    async def agent(run: Run) -> str:
        return str(await run.receive(timeout=0))

    memory = Memory("patience")
    memory.signal("x")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "x"


async def test_a_run_that_waits_in_vain_and_does_not_mind_fails_for_good() -> None:
    app = App("patience")

    @app.agent("patience")
    async def agent(run: Run) -> None:
        await run.receive(timeout=0)

    memory = Memory("patience")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.failure.reason == "NOTHING_RECEIVED"


async def test_a_wait_that_is_cancelled_leaves_its_signal_to_the_next() -> None:
    app = App("branches")

    @app.agent("branches")
    async def agent(run: Run) -> str:
        waiting = run.task(receives(run), name="waiting")
        await asyncio.sleep(0)
        memory.signal("x")
        waiting.cancel()
        await asyncio.wait([waiting])
        return str(await run.receive())

    async def receives(run: Run) -> Any:
        return await run.receive()

    memory = Memory("branches")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "x"
    assert memory.keys == ["receive"]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\0b"])
async def test_what_is_no_key_is_refused_where_it_is_asked_for(key: str) -> None:
    app = App("keys")

    @app.agent("keys")
    async def agent(run: Run) -> str:
        with pytest.raises(ValueError, match="key"):
            await run.receive(key)
        with pytest.raises(ValueError, match="seconds"):
            await run.receive(timeout=-1)
        return "refused"

    assert await Memory("keys").run(app) is Left.ENDED


# -- interruptions -------------------------------------------------------------------------------------------


def desk(app: App, executed: Counter, begun: asyncio.Event) -> None:
    """Give an app an agent whose first step takes for ever, unless it is interrupted."""

    @step(interruptible=True, attempts=2)
    async def think(about: str) -> str:
        executed.note(about)
        if about == "forever":
            begun.set()
            await asyncio.Event().wait()
        return about

    @app.agent("desk")
    async def agent(run: Run) -> str:
        try:
            return await run.step(think, "forever")
        except Interrupted as interrupted:
            run.say(f"stopped by {interrupted.key}")
            return await run.step(think, interrupted.payload["about"])


async def test_an_urgent_signal_cancels_the_step_in_flight_and_a_replay_sees_the_same() -> None:
    executed, begun = Counter(), asyncio.Event()
    app = App("desk")
    desk(app, executed, begun)
    for prefix in range(1, 3):
        memory = Memory("desk")
        begun.clear()
        executed.calls.clear()
        crashing = asyncio.create_task(memory.crash(app, prefix))
        await begun.wait()
        memory.signal({"about": "less"}, "interrupt", urgent=True)
        assert await crashing
        assert await memory.run(app) is Left.ENDED
        assert memory.outcome.result.string_value == "less"
        assert memory.keys == ["think", "think#2"]
        interrupted = memory.records[0]
        assert (interrupted.failure.reason, interrupted.attempts) == ("INTERRUPTED", 1)
        assert interrupted.interruption.payload == b'{"about": "less"}'
        assert executed.calls.count("forever") == 1
        assert [(e.key, e.interrupted) for e in memory.told("input_received")] == [("interrupt", True)]
        assert [said.text for said in memory.told("said")] == ["stopped by interrupt"]
        assert memory.spent.steps == 2
        assert memory.mail == []


async def test_an_interruption_that_was_not_committed_happens_again() -> None:
    executed, begun = Counter(), asyncio.Event()
    app = App("desk")
    desk(app, executed, begun)
    memory = Memory("desk")
    crashing = asyncio.create_task(memory.crash(app, 0))
    await begun.wait()
    memory.signal({"about": "less"}, "interrupt", urgent=True)
    assert await crashing
    assert len(memory.mail) == 1
    assert await memory.run(app) is Left.ENDED
    # It waited: the step was interrupted at its start, without being executed again.
    assert memory.records[0].attempts == 0
    assert executed.calls == ["forever", "less"]
    assert memory.mail == []


async def test_what_is_not_interruptible_is_finished_and_the_signal_waits() -> None:
    app = App("desk")

    async def write(text: str) -> str:
        memory.signal("stop", "interrupt", urgent=True)
        memory.signal("more", "input", urgent=True)
        await asyncio.sleep(0)
        return text

    @step(interruptible=True)
    async def think() -> str:
        return "thought"

    @app.agent("desk")
    async def agent(run: Run) -> list[str]:
        heard = [await run.step(write, "a")]
        heard.append(await run.receive("interrupt"))
        try:
            await run.step(think)
        except Interrupted as interrupted:
            heard.append(interrupted.payload)
        heard.append(await run.step(think))
        return heard

    memory = Memory("desk")
    assert await memory.run(app) is Left.ENDED
    assert list(memory.outcome.result.list_value) == ["a", "stop", "more", "thought"]


async def test_of_steps_side_by_side_the_one_that_began_first_is_interrupted() -> None:
    app = App("map")
    release = asyncio.Event()
    begun: list[int] = []

    @step(interruptible=True)
    async def work(number: int) -> int:
        begun.append(number)
        await release.wait()
        return number

    async def each(run: Run, number: int) -> str:
        try:
            return str(await run.step(work, number))
        except Interrupted as interrupted:
            return str(interrupted.payload)

    @app.agent("map")
    async def agent(run: Run) -> list[str]:
        return await run.map(lambda number: each(run, number), [1, 2, 3])

    memory = Memory("map")
    running = asyncio.create_task(memory.run(app))
    await until(lambda: len(begun) == 3)
    memory.signal("stop", urgent=True)
    await until(lambda: len(memory.keys) == 1)
    release.set()
    assert await running is Left.ENDED
    assert list(memory.outcome.result.list_value) == [
        "stop" if number == begun[0] else str(number) for number in (1, 2, 3)
    ]


async def test_a_step_that_waits_for_its_next_try_is_interrupted() -> None:
    app = App("flaky")
    tries = Counter()

    class Busy(Exception):  # noqa: N818
        retry_after = 3600.0

    @step(interruptible=True, timeout=3600.0)
    async def flaky() -> None:
        tries.note("try")
        raise Busy

    @app.agent("flaky")
    async def agent(run: Run) -> str:
        with pytest.raises(Interrupted):
            await run.step(flaky)
        return "done"

    memory = Memory("flaky")
    running = asyncio.create_task(memory.run(app))
    await until(lambda: any(event.WhichOneof("event") == "step_failed" for event in memory.live))
    memory.signal("stop", urgent=True)
    assert await running is Left.ENDED
    assert (memory.records[0].attempts, len(tries)) == (1, 1)


async def test_an_end_of_another_cause_leaves_the_signal_in_the_mailbox() -> None:
    begun = asyncio.Event()
    app = App("desk")
    desk(app, Counter(), begun)
    memory = Memory("desk")
    execution = memory.lease(app)
    running = asyncio.create_task(execution.run())
    await begun.wait()
    memory.signal({"about": "less"}, urgent=True)
    execution.stop(RunCancelled("enough"))
    assert await running is Left.ENDED
    assert memory.outcome.status == wire.CANCELLED
    assert memory.keys == []
    assert len(memory.mail) == 1


async def test_a_step_that_its_agent_cancels_is_not_taken_for_interrupted() -> None:
    app = App("beside")
    begun = asyncio.Event()

    @step(interruptible=True)
    async def slow() -> None:
        begun.set()
        await asyncio.Event().wait()

    @app.agent("beside")
    async def agent(run: Run) -> str:
        task = run.task(run.step(slow))
        await begun.wait()
        task.cancel()
        memory.signal("stop", urgent=True)
        await asyncio.wait([task])
        assert task.cancelled()
        return str(await run.receive())

    memory = Memory("beside")
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.string_value == "stop"
    assert memory.keys == ["receive"]


async def test_a_step_that_does_not_let_itself_be_cancelled_keeps_its_result() -> None:
    app = App("stubborn")
    begun = asyncio.Event()

    @step(interruptible=True)
    async def stubborn() -> str:
        try:
            begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "mine"
        return "never"

    @app.agent("stubborn")
    async def agent(run: Run) -> list[str]:
        return [await run.step(stubborn), await run.receive()]

    memory = Memory("stubborn")
    running = asyncio.create_task(memory.run(app))
    await begun.wait()
    memory.signal("stop", urgent=True)
    assert await running is Left.ENDED
    assert list(memory.outcome.result.list_value) == ["mine", "stop"]


async def test_an_interruption_nobody_catches_fails_the_run_for_good() -> None:
    app = App("unprepared")

    @step(interruptible=True)
    async def work() -> None:
        return None

    @app.agent("unprepared")
    async def agent(run: Run) -> None:
        try:
            await run.step(work)
        except StepFailed as error:
            raise AssertionError from error

    memory = Memory("unprepared")
    memory.signal("stop", urgent=True)
    assert await memory.run(app) is Left.ENDED
    assert (memory.outcome.status, memory.outcome.failure.reason) == (wire.FAILED, "INTERRUPTED")


def test_a_policy_and_an_agent_say_what_they_do_with_signals() -> None:
    assert Policy(interruptible=True).interruptible
    app = App("desk")

    @app.agent("chat", on_input="interrupt")
    async def agent(run: Run) -> None:
        del run

    assert app.agents["chat"].on_input == "interrupt"
    with pytest.raises(ValueError, match="enqueue, interrupt, reject, restart"):
        app.agent("other", on_input="ignore")  # type: ignore[arg-type]
