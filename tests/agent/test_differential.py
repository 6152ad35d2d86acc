"""A run whose runner dies at random ends as one whose runner does not, whatever the agent does."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.agent import App, NothingReceived, Permanent, Run, StepFailed, step
from holdfast.agent.testing import Script, Signal, crash_everywhere
from holdfast.agent.testing.crash import same_end
from holdfast.agent.testing.lab import perform
from holdfast.agent.testing.scene import Kill, Scene

DAY = 24 * 3600.0
What = Literal[
    "step",
    "repeatable",
    "tool",
    "optional",
    "flaky",
    "hopeless",
    "say",
    "send",
    "sleep",
    "receive",
    "model",
    "child",
    "leave",
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


async def work(number: int) -> int:
    return number + 1


async def perhaps(number: int) -> int | None:
    return number or None


@step(attempts=2)
async def hopeless(number: int) -> int:
    raise ValueError(f"never {number}")


repeatable = step(repeatable=True)(work)
optional = step(optional=True)(perhaps)


async def flaky(run: Run, number: int) -> int:
    """Take a step that fails twice and then succeeds, under every lease."""
    tries: list[int] = []

    @step(attempts=3)
    async def flaky(number: int) -> int:
        tries.append(number)
        if len(tries) < 3:
            raise OSError("not yet")
        return number

    return await run.step(flaky, number)


async def survive(run: Run, number: int) -> str:
    try:
        return str(await run.step(hopeless, number))
    except StepFailed as failed:
        return failed.failure.reason


async def say(run: Run, number: int) -> None:
    run.say(f"I say {number}.")


async def send(run: Run, number: int, branch: str = "") -> None:
    """Send in an order of the branch's own: which of two branches sends first is chance."""
    run.send("out", {"n": number}, ordering_key=f"lane-{number % 2}{branch}" if number else "")


async def sleep(run: Run, number: int) -> None:
    await run.sleep(number * DAY / 3 + number / 10)


async def receive(run: Run, number: int) -> Any:
    try:
        return await run.receive(f"key-{number}", timeout=DAY)
    except NothingReceived:
        return "nothing"


async def ask(run: Run, number: int) -> str:
    return (await run.model(f"What of {number}?")).content


async def child(run: Run, number: int) -> list[Any]:
    """Have a child do something; number 3 has one of its own."""
    ended = await (await run.spawn("below", {"number": number})).outcome()
    return [ended.status, ended.result]


async def leave(run: Run, number: int) -> None:
    """Start a child, and leave it to its parent's end, or to itself."""
    await run.spawn(
        "below", {"number": number}, name="left", on_parent_end="continue" if number % 2 else "cancel"
    )


async def below(run: Run, payload: dict[str, int]) -> Any:
    """Do something as a child."""
    number = payload["number"]
    run.send("out", {"below": number})
    await run.sleep(number * DAY / 4)
    if number == 3:
        return await child(run, 2)
    if number == 2:
        raise Permanent("two is too many")
    return await run.step(work, number)


DEEDS: dict[What, Callable[[Run, int], Awaitable[Any]]] = {
    "step": lambda run, number: run.step(work, number),
    "repeatable": lambda run, number: run.step(repeatable, number),
    "tool": lambda run, number: run.tool(work, number=number),
    "optional": lambda run, number: run.step(optional, number),
    "flaky": flaky,
    "hopeless": survive,
    "say": say,
    "sleep": sleep,
    "receive": receive,
    "model": ask,
    "child": child,
    "leave": leave,
}


async def go(run: Run, way: tuple[Plan, ...], branch: str = "") -> list[Any]:
    """Do one thing after the other; no `branch` receives: it would be chance who has a signal."""
    made = []
    for place, part in enumerate(way):
        if isinstance(part, Deed):
            what: What = "sleep" if branch and part.what == "receive" else part.what
            if what == "send":
                await send(run, part.number, branch)
            else:
                made.append(await DEEDS[what](run, part.number))
            continue
        ways = [(each, f"{branch}/{place}.{number}") for number, each in enumerate(part.ways)]
        if part.as_tasks:
            tasks = [run.task(go(run, each, name)) for each, name in ways]
            made.append([await task for task in tasks])
        else:
            made.append(await run.map(lambda each: go(run, *each), ways, at_once=2))
    return made


def make(plan: tuple[Plan, ...]) -> App:
    """Make the agent of a plan."""
    app = App("random")

    @app.agent("random", session=dict)
    async def random(run: Run) -> list[Any]:
        made = await go(run, plan)
        run.session["made"] = len(made)
        return made

    app.agent("below")(below)
    return app


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
        make(plan),
        "random",
        pairs=8,
        model=Script(lambda messages: f"I think {len(messages[-1].content)}."),
        signals=SIGNALS,
        session={},
        max_attempts=100,
    )
