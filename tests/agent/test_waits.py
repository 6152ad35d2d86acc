"""A run that only waits rests, holds nothing, and goes on where it was; short waits stay where they are."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from holdfast.agent import App, NothingReceived, Run, StepFailed, step
from holdfast.agent.approval import Opened
from holdfast.agent.engine import waits
from holdfast.agent.execution import Left
from holdfast.v1.run_pb2 import RUN_STATUS_SUCCEEDED
from tests.agent.memory import Counter, Memory

DAY = 24 * 3600


@pytest.fixture(autouse=True)
def hot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a wait grow cold sooner than anybody would want to test."""
    monkeypatch.setattr(waits, "HOT", 0.05)


def agent(fn: Any) -> App:
    app = App("desk")
    app.agent("desk")(fn)
    return app


async def rested(memory: Memory, app: App) -> None:
    assert await memory.run(app) is Left.REQUEUED
    assert memory.parked is not None


async def ended(memory: Memory, app: App) -> Any:
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.status == RUN_STATUS_SUCCEEDED, memory.outcome
    return memory.outcome.result


async def test_a_run_that_waits_for_a_signal_rests_and_goes_on_with_it() -> None:
    done = Counter()

    async def fetch() -> int:
        return done.note("fetch")

    async def wait(run: Run) -> str:
        await run.step(fetch)
        answer: str = await run.receive("answer")
        return answer

    memory, app = Memory("desk"), agent(wait)
    await rested(memory, app)
    assert memory.parked is not None
    assert list(memory.parked.keys) == ["answer"]
    assert not memory.parked.HasField("wait_for")
    memory.signal("yes", "answer")
    assert (await ended(memory, app)).string_value == "yes"
    assert len(done) == 1
    assert [(record.key, record.intent) for record in memory.records] == [
        ("fetch", False),
        ("receive", True),
        ("receive", False),
    ]
    assert memory.spent.steps == 2
    assert [event.key for event in memory.told("step_started")] == ["fetch", "receive"]


async def test_a_wait_that_is_soon_over_stays_hot() -> None:
    async def nap(run: Run) -> None:
        await run.sleep(0.01)

    memory = Memory("desk")
    await ended(memory, agent(nap))
    assert [record.intent for record in memory.records] == [False]


async def test_a_sleep_goes_on_where_it_was_and_is_never_short() -> None:
    async def sleep(run: Run) -> None:
        await run.sleep(timedelta(days=1))

    memory, app = Memory("desk"), agent(sleep)
    await rested(memory, app)
    assert memory.parked is not None
    assert DAY - 2 < memory.parked.wait_for.seconds <= DAY
    memory.slept = DAY / 2
    await rested(memory, app)
    assert DAY / 2 - 2 < memory.parked.wait_for.seconds <= DAY / 2
    memory.slept = DAY - 0.3
    began = time.monotonic()
    await rested(memory, app)
    memory.slept = DAY
    await ended(memory, app)
    assert time.monotonic() - began < 5
    assert [record.intent for record in memory.records] == [True, False]


async def test_a_sleep_until_a_moment_that_is_over_is_none() -> None:
    async def sleep(run: Run) -> None:
        await run.sleep(datetime.now(UTC) - timedelta(hours=1))

    memory = Memory("desk")
    await ended(memory, agent(sleep))


async def test_what_is_no_wait_is_refused_with_a_sentence() -> None:
    async def wrong(run: Run) -> list[str]:
        told = []
        for delay in (-1, timedelta(days=32), datetime(2026, 1, 1)):  # noqa: DTZ001 -- that is what is wrong
            with pytest.raises(ValueError, match=r"31 days|time zone") as caught:
                await run.sleep(delay)
            told.append(str(caught.value))
        return told

    memory = Memory("desk")
    assert len((await ended(memory, agent(wrong))).list_value.values) == 3


async def test_a_wait_whose_time_is_over_says_so_after_a_rest() -> None:
    async def wait(run: Run) -> str:
        try:
            await run.receive("answer", timeout=timedelta(hours=1))
        except NothingReceived as nothing:
            return str(nothing)
        return "something"

    memory, app = Memory("desk"), agent(wait)
    await rested(memory, app)
    memory.slept = 3600
    assert (await ended(memory, app)).string_value == "Nothing came under the key answer within 3600 s."


async def test_a_run_rests_only_when_every_branch_waits_and_wakes_for_the_first() -> None:
    going = asyncio.Event()

    async def work() -> str:
        await going.wait()
        return "worked"

    async def wait(run: Run) -> list[Any]:
        return list(
            await asyncio.gather(
                run.step(work), run.receive("a"), run.receive("b", timeout=3600), run.sleep(DAY)
            )
        )

    memory, app = Memory("desk"), agent(wait)
    running = asyncio.create_task(memory.run(app))
    await asyncio.sleep(0.2)
    assert not running.done()
    going.set()
    assert await running is Left.REQUEUED
    assert memory.parked is not None
    assert sorted(memory.parked.keys) == ["a", "b"]
    assert 3590 < memory.parked.wait_for.seconds <= 3600
    memory.signal(1, "a")
    await rested(memory, app)
    assert list(memory.parked.keys) == ["b"]
    memory.signal(2, "b")
    await rested(memory, app)
    assert list(memory.parked.keys) == []
    memory.slept = DAY
    result = await ended(memory, app)
    worked, a, b, nothing = result.list_value.values
    assert (worked.string_value, a.number_value, b.number_value) == ("worked", 1, 2)
    assert nothing.HasField("null_value")


async def test_a_crash_before_the_rest_begins_the_wait_anew_and_one_after_it_does_not() -> None:
    async def wait(run: Run) -> None:
        await run.sleep(DAY)

    memory, app = Memory("desk"), agent(wait)
    assert await memory.crash(app, 1)
    memory.slept = DAY / 4
    await rested(memory, app)
    first = [record for record in memory.records if record.intent]
    assert len(first) == 1
    await rested(memory, app)
    assert [record for record in memory.records if record.intent] == first


async def test_a_failure_that_the_agent_has_survived_is_recorded_before_the_rest() -> None:
    tries = Counter()

    @step(attempts=1)
    async def fail() -> None:
        tries.note("fail")
        raise OSError("away")

    async def wait(run: Run) -> str:
        try:
            await run.step(fail)
        except StepFailed:
            run.say("it failed")
        await run.receive("answer")
        return "went on"

    memory, app = Memory("desk"), agent(wait)
    await rested(memory, app)
    memory.signal(None, "answer")
    assert (await ended(memory, app)).string_value == "went on"
    assert len(tries) == 1
    assert len(memory.told("said")) == 1


async def test_what_changes_of_a_wait_while_it_rests_is_drift() -> None:
    def waiting(timeout: float) -> App:
        async def wait(run: Run) -> None:
            await run.receive("answer", timeout=timeout)

        return agent(wait)

    memory = Memory("desk")
    await rested(memory, waiting(60))
    assert await memory.run(waiting(90)) is Left.ENDED
    assert memory.outcome.failure.reason == "DRIFTED"
    assert '"timeout":60' in memory.outcome.failure.message


async def test_a_branch_that_goes_from_step_to_step_is_not_cut_short_by_one_that_waits() -> None:
    done = Counter()

    async def work(number: int) -> int:
        await asyncio.sleep(0.02)
        return done.note(number)

    async def walk(run: Run) -> int:
        for number in range(12):
            await run.step(work, number)
        return len(done)

    async def both(run: Run) -> list[Any]:
        return list(await asyncio.gather(run.receive("answer"), walk(run)))

    memory, app = Memory("desk"), agent(both)
    await rested(memory, app)
    assert done.calls == list(range(12))
    memory.signal("yes", "answer")
    await ended(memory, app)
    assert len(done) == 12


async def test_a_wait_that_is_being_prepared_keeps_the_run_where_it_is() -> None:
    class SlowGates:
        async def request(self, asked: Any) -> Opened:
            await asyncio.sleep(0.3)  # much longer than a wait stays hot here
            return Opened("1", f"approval:{asked.step}")

    async def both(run: Run) -> None:
        await asyncio.gather(
            run.receive("answer"), run.approval("review", approvers=["user:ann"], timeout=60)
        )

    memory, app = Memory("desk"), agent(both)
    memory.gates = SlowGates()
    await rested(memory, app)
    assert memory.parked is not None
    assert sorted(memory.parked.keys) == ["answer", "approval:review"]


class CountedGates:
    """Opens gates, or finds them, and knows how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def request(self, asked: Any) -> Opened:
        found = asked.step in self.asked
        self.asked.append(asked.step)
        return Opened(asked.step, f"approval:{asked.step}", found=found)


def letter(step: str, status: str) -> dict[str, Any]:
    return {
        "step": step,
        "status": status,
        "deciders": ["ann"],
        "reason": "",
        "payload": None,
        "time": datetime.now(UTC).isoformat(),
    }


async def test_a_decision_that_has_woken_the_run_is_its_gate_s_without_a_question() -> None:
    async def twice(run: Run) -> list[str]:
        verdicts = [await run.approval("review", approvers=["user:ann"], timeout=60) for _ in range(2)]
        return [verdict.status for verdict in verdicts]

    memory, app = Memory("desk"), agent(twice)
    memory.gates = gates = CountedGates()
    await rested(memory, app)
    memory.signal(letter("review", "APPROVED"), "approval:review")
    await rested(memory, app)
    assert gates.asked == ["review", "review#2"], "the second gate is opened, the first is not looked for"
    memory.signal(letter("review#2", "DENIED"), "approval:review#2")
    assert [each.string_value for each in (await ended(memory, app)).list_value.values] == [
        "APPROVED",
        "DENIED",
    ]
    assert len(gates.asked) == 2
    assert len(memory.told("approval_requested")) == 2


async def test_a_run_that_waits_for_more_than_a_park_may_name_stays_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waits, "MOST_KEYS", 2)

    async def wait(run: Run) -> list[Any]:
        return list(await asyncio.gather(*(run.receive(f"key-{number}") for number in range(3))))

    memory, app = Memory("desk"), agent(wait)
    running = asyncio.create_task(memory.run(app))
    await asyncio.sleep(0.2)
    assert not running.done()
    for number in range(3):
        memory.signal(number, f"key-{number}")
    assert await running is Left.ENDED
