"""A run whose runner dies at random ends as one whose runner does not, whatever the agent does."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.agent import App, NothingReceived, Run, StepFailed, step
from holdfast.agent.testing import Script, Signal, crash_everywhere
from holdfast.agent.testing.crash import same_end
from holdfast.agent.testing.lab import perform
from holdfast.agent.testing.scene import Kill, Scene

DAY = 24 * 3600.0
What = Literal[
    "step", "repeatable", "tool", "optional", "fails", "dies", "say", "send", "sleep", "receive", "model"
]


@dataclass(frozen=True)
class Deed:
    """One thing an agent does; `number` makes it different from others of its kind."""

    what: What
    number: int


@dataclass(frozen=True)
class Fork:
    """Several things an agent does side by side."""

    ways: "tuple[tuple[Plan, ...], ...]"
    as_tasks: bool


Plan = Deed | Fork

deeds = st.builds(
    Deed,
    st.sampled_from(get_args(What)),
    st.integers(0, 3),
)
plans = st.recursive(
    deeds,
    lambda plan: st.builds(
        Fork,
        st.lists(st.lists(plan, min_size=1, max_size=3).map(tuple), min_size=1, max_size=3).map(tuple),
        st.booleans(),
    ),
    max_leaves=8,
)
agents = st.lists(plans, min_size=1, max_size=6).map(tuple)
kills = st.lists(st.builds(Kill, st.integers(1, 12), st.booleans()), min_size=1, max_size=6).map(
    lambda kills: sorted(kills, key=lambda kill: kill.commit)
)

SIGNALS = [Signal({"n": number}, f"key-{number}", at=0.37 * number * DAY + 1000) for number in range(3)]


def make(plan: tuple[Plan, ...]) -> App:
    """Make the agent of a plan anew."""
    app = App("random")

    async def work(number: int) -> int:
        return number + 1

    async def perhaps(number: int) -> int | None:
        return number or None

    async def hopeless(number: int) -> int:
        raise ValueError(f"never {number}")

    repeatable = step(repeatable=True)(work)
    optional = step(optional=True)(perhaps)
    dies = step(attempts=2)(hopeless)

    async def do(run: Run, deed: Deed, *, alone: bool) -> Any:
        number, what = deed.number, deed.what
        if what == "receive" and not alone:
            what = "sleep"  # which of two branches receives a signal is a matter of chance
        match what:
            case "step":
                return await run.step(work, number)
            case "repeatable":
                return await run.step(repeatable, number)
            case "tool":
                return await run.tool(work, number=number)
            case "optional":
                return await run.step(optional, number)
            case "fails":
                return await run.step(_flaky(number), number)
            case "dies":
                try:
                    return await run.step(dies, number)
                except StepFailed as failed:
                    return failed.failure.reason
            case "say":
                run.say(f"I say {number}.")
            case "send":
                run.send("out", {"n": number}, ordering_key=f"lane-{number % 2}" if number else "")
            case "sleep":
                await run.sleep(number * DAY / 3 + number / 10)
            case "receive":
                try:
                    return await run.receive(f"key-{number}", timeout=DAY)
                except NothingReceived:
                    return "nothing"
            case "model":
                return (await run.model(f"What of {number}?")).content
        return None

    async def go(run: Run, way: tuple[Plan, ...], *, alone: bool = False) -> list[Any]:
        made = []
        for part in way:
            if isinstance(part, Deed):
                made.append(await do(run, part, alone=alone))
            elif part.as_tasks:
                tasks = [run.task(go(run, each)) for each in part.ways]
                made.append([await task for task in tasks])
            else:
                made.append(await run.map(lambda each: go(run, each), part.ways, at_once=2))
        return made

    @app.agent("random", session=dict)
    async def random(run: Run) -> list[Any]:
        made = await go(run, plan, alone=True)
        run.session["made"] = len(made)
        return made

    return app


def _flaky(number: int) -> Any:
    """Make a step that fails twice and then succeeds, under every lease."""
    tries: list[int] = []

    @step(attempts=3, name=f"flaky-{number}")
    async def flaky(number: int) -> int:
        tries.append(number)
        if len(tries) < 3:
            raise OSError("not yet")
        return number

    return flaky


def scene() -> Scene:
    return Scene(
        "random",
        model=Script(lambda messages: f"I think {len(messages[-1].content)}."),
        signals=SIGNALS,
        session={},
        max_attempts=100,
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(agents, kills)
def test_a_run_killed_at_random_ends_as_one_that_was_not(plan: tuple[Plan, ...], kills: list[Kill]) -> None:
    unharmed = perform(make(plan), scene())
    assert unharmed.result.status == "SUCCEEDED", unharmed.result.failure
    same_end(perform(make(plan), scene(), kills), unharmed)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(agents)
def test_a_run_killed_anywhere_ends_as_one_that_was_not(plan: tuple[Plan, ...]) -> None:
    crash_everywhere(
        lambda: make(plan),
        "random",
        pairs=8,
        model=Script(lambda messages: f"I think {len(messages[-1].content)}."),
        signals=SIGNALS,
        session={},
        max_attempts=100,
    )
