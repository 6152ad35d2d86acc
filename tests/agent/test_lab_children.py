"""Children in the lab are runs of their own, beside their parent and on its clock."""

import asyncio
import contextvars
import itertools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from holdfast.agent import App, ChildFailed, Dimension, Limits, Permanent, Run, StepFailed, Usage, step
from holdfast.agent.testing import (
    AMPLE,
    Conditions,
    Kill,
    Lab,
    Script,
    Signal,
    approve,
    crash_everywhere,
)
from holdfast.agent.testing.lab import perform
from holdfast.agent.testing.lease import Lease
from holdfast.agent.testing.ledger import RUN_ID
from holdfast.agent.testing.scene import Scene
from holdfast.v1.invoker_service_pb2 import InvokeRequest

DAY = 24 * 3600.0
HOUR = 3600.0

Agent = Callable[..., Awaitable[Any]]


def app_of(**agents: Agent) -> App:
    app = App("family")
    for intent, fn in agents.items():
        app.agent(intent)(fn)
    return app


async def double(number: int) -> int:
    return 2 * number


async def doubles(run: Run, payload: dict[str, int]) -> int:
    """Double a number, and tell somebody."""
    number = await run.step(double, payload["number"])
    run.send("orders", {"number": number})
    return number


async def sleeps(run: Run) -> str:
    await run.sleep(timedelta(days=1))
    return "awake"


async def breaks(run: Run) -> None:  # noqa: ARG001
    raise Permanent("no such order", reason="NO_ORDER")


async def three(run: Run) -> list[Any]:
    """Have two numbers doubled at once, beside what cannot be done."""

    async def one(number: int) -> Any:
        return await (await run.spawn("doubles", {"number": number}))

    async def other() -> Any:
        try:
            return await (await run.spawn("breaks"))
        except ChildFailed as failed:
            return [failed.status, failed.failure and failed.failure.reason]

    return list(await asyncio.gather(one(1), one(2), other()))


def test_children_go_on_at_once_and_one_that_fails_fails_alone() -> None:
    app = app_of(desk=three, doubles=doubles, breaks=breaks)
    result = Lab(app).run("desk")
    assert result.value == [2, 4, ["FAILED", "NO_ORDER"]]
    assert [(each.intent, each.status, each.value) for each in result.children] == [
        ("doubles", "SUCCEEDED", 2),
        ("doubles", "SUCCEEDED", 4),
        ("breaks", "FAILED", None),
    ]
    sent = [effect.payload for child in result.children for effect in child.effects]
    assert sent == [{"number": 2}, {"number": 4}]
    assert len({each.run_id for each in [result, *result.children]}) == 4
    assert result.usage.steps == len(result.steps) + 2
    assert crash_everywhere(app, "desk") > 12


def test_a_child_has_people_and_models_of_its_own() -> None:
    async def desk(run: Run) -> list[str]:
        mine = await run.model("And you?")
        child = await run.spawn("asks", returns=str)
        return [mine.content, await child, await (await run.spawn("asks", returns=str))]

    async def asks(run: Run) -> str:
        first = await run.model("What now?")
        second = await run.model("And then?")
        decision = await run.approval("review", approvers=["user:ann"], timeout=DAY)
        extra = await run.receive("more")
        return f"{first.content} {second.content} {decision.status} {extra}"

    children: dict[str, Conditions] = {
        "asks": {
            "model": Script("One.", "Two."),
            "decisions": {"review": approve(by="ann", after=HOUR)},
            "answers": {"more": ["Please."]},
        }
    }
    app = app_of(desk=desk, asks=asks)
    result = Lab(app).run("desk", model=Script("I, too."), children=children)
    assert result.value == ["I, too.", *["One. Two. APPROVED Please."] * 2]
    assert result.elapsed == pytest.approx(2 * HOUR)
    assert all(child.usage.tokens > 0 for child in result.children)
    assert crash_everywhere(app, "desk", model=Script("I, too."), children=children)


def test_the_script_of_a_child_that_is_over_too_soon_says_so() -> None:
    async def desk(run: Run) -> str:
        await run.sleep(DAY)
        return str((await (await run.spawn("asks")).outcome()).status)

    async def asks(run: Run) -> None:
        await run.model("What now?")

    with pytest.raises(AssertionError, match="is over, and it was asked 'What now"):
        Lab(app_of(desk=desk, asks=asks)).run("desk", children={"asks": {"model": Script()}})


def test_time_is_shared_and_a_parent_rests_while_its_child_sleeps() -> None:
    async def desk(run: Run) -> list[str]:
        children = [await run.spawn("sleeps") for _ in range(2)]
        return [await child for child in children]

    app = app_of(desk=desk, sleeps=sleeps)
    result = Lab(app).run("desk")
    assert result.value == ["awake", "awake"]
    assert result.elapsed == pytest.approx(DAY)
    assert 2 <= result.leases <= 3
    assert [child.leases for child in result.children] == [2, 2]
    assert crash_everywhere(app, "desk", pairs=8)


def test_a_child_is_cancelled_by_its_parent() -> None:
    async def desk(run: Run) -> list[Any]:
        resting = await run.spawn("sleeps")
        working = await run.spawn("works")
        await run.sleep(HOUR)
        ends = []
        for child in (resting, working):
            await child.cancel("enough")
            end = await child.outcome()
            ends.append([end.status, end.failure and end.failure.message])
        return ends

    async def works(run: Run) -> None:
        await run.step(step(asyncio.sleep), 100 * DAY)

    app = app_of(desk=desk, sleeps=sleeps, works=works)
    result = Lab(app).run("desk")
    assert result.value == [["CANCELLED", "enough"], ["CANCELLED", "the run was cancelled"]]
    assert [child.elapsed for child in result.children] == [pytest.approx(HOUR)] * 2
    assert crash_everywhere(app, "desk")


def test_a_child_that_has_ended_is_not_cancelled_any_more() -> None:
    async def desk(run: Run) -> str:
        child = await run.spawn("doubles", {"number": 2})
        await run.sleep(HOUR)
        await child.cancel()
        return (await child.outcome()).status

    assert Lab(app_of(desk=desk, doubles=doubles)).run("desk").value == "SUCCEEDED"


@pytest.mark.parametrize("resting", [True, False])
def test_children_go_with_their_parent_or_on_without_it(resting: bool) -> None:  # noqa: FBT001
    async def desk(run: Run) -> None:
        await run.spawn("between", name="goes")
        await run.spawn("between", name="stays", on_parent_end="continue")
        await run.sleep(HOUR)
        raise Permanent("that was all")

    async def between(run: Run) -> str:
        return str(await (await run.spawn("below")))

    async def below(run: Run) -> str:
        if resting:
            await run.sleep(DAY)
        else:
            await run.step(step(asyncio.sleep), DAY)
        return "awake"

    app = app_of(desk=desk, between=between, below=below)
    result = Lab(app).run("desk")
    assert [result.status, result.elapsed] == ["FAILED", pytest.approx(HOUR)]
    goes, stays = result.children
    for each in (goes, *goes.children):
        assert [each.status, each.elapsed] == ["CANCELLED", pytest.approx(HOUR)]
    for each in (stays, *stays.children):
        assert [each.status, each.value, each.elapsed] == ["SUCCEEDED", "awake", pytest.approx(DAY)]
    assert goes.failure is not None
    if resting:
        assert goes.failure.message == "The run that started it has ended."
    assert crash_everywhere(app, "desk")


def test_how_far_a_child_came_that_its_parent_left_is_not_compared() -> None:
    async def desk(run: Run) -> None:
        await run.spawn("goes_on")
        raise Permanent("that was all")

    async def goes_on(run: Run) -> None:
        for number in range(9):
            await run.step(double, number)

    app = app_of(desk=desk, goes_on=goes_on)
    (child,) = Lab(app).run("desk").children
    assert (child.status, child.elapsed) == ("CANCELLED", 0.0)
    (further,) = Lab(app).run("desk", kills=[Kill(1)]).children
    assert further.usage.steps > child.usage.steps
    assert crash_everywhere(app, "desk")


def test_a_dead_runner_starts_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []
    carry = Lease._carry

    def carried(lease: Lease, *commit: Any) -> None:
        carry(lease, *commit)
        if not lease.killed.done():
            return
        request = InvokeRequest(intent="doubles", idempotency_key="last")
        request.parent.run_id, request.parent.epoch = RUN_ID, lease._invocation.epoch
        asking: Any = lease._parts["children"].invoke(request)
        asking.send(None)  # it is on its way, and arrives before the lease is known to be over
        try:
            asking.send(None)
        except Permanent as error:
            refused.append(error.reason)

    monkeypatch.setattr(Lease, "_carry", carried)

    async def desk(run: Run) -> None:
        await run.step(double, 1)

    performance = perform(app_of(desk=desk, doubles=doubles), Scene("desk"), [Kill(1)])
    assert len(performance.deaths) == 1
    assert refused == ["FENCED"]
    assert performance.children == []


def test_each_child_is_started_once_wherever_its_parent_dies_and_works_on() -> None:
    begun: list[int] = []

    @step(timeout=2 * DAY)
    async def slow(number: int) -> int:
        begun.append(number)
        side = asyncio.get_running_loop().create_task(asyncio.sleep(DAY), context=contextvars.Context())
        await side
        return number

    async def works(run: Run, payload: dict[str, int]) -> list[int]:
        async def one(number: int) -> int:
            return await run.step(slow, number)

        mapped = await run.map(one, [payload["number"]])
        return [*mapped, await run.task(one(payload["number"]))]

    async def desk(run: Run) -> list[Any]:
        children = [await run.spawn("works", {"number": number}) for number in range(2)]
        await run.sleep(HOUR)
        return [await child for child in children]

    app = app_of(desk=desk, works=works)
    for commit, landed in itertools.product(range(1, 20), (False, True)):
        begun.clear()
        performance = perform(app, Scene("desk"), [Kill(commit, landed=landed)])
        result = performance.result
        assert result.value == [[0, 0], [1, 1]]
        assert [(child.status, child.leases) for child in result.children] == [("SUCCEEDED", 1)] * 2
        assert sorted(begun) == [0, 0, 1, 1]
        if not performance.deaths:
            assert commit > 5
            return
    pytest.fail("the run never ended before the kill")


def test_what_a_dead_runner_has_begun_ends_with_it() -> None:
    left: list[str] = []

    async def lingers(name: str) -> None:
        try:
            await asyncio.sleep(DAY)
        finally:
            left.append(name)

    @step(timeout=2 * DAY)
    async def slow() -> None:
        loop = asyncio.get_running_loop()
        tasks = [
            asyncio.create_task(lingers("task")),
            loop.create_task(lingers("elsewhere"), context=contextvars.Context()),
        ]
        loop.call_later(0, lambda: tasks.append(asyncio.create_task(lingers("later"))))
        await lingers("step")

    async def desk(run: Run) -> None:
        if run.attempt > 1:
            left.append("again")
        branch = run.task(run.step(slow))
        await asyncio.sleep(1)
        await run.step(double, 1)
        await branch

    result = Lab(app_of(desk=desk)).run("desk", kills=[Kill(1)])
    assert result.status == "SUCCEEDED"
    assert sorted(left[: left.index("again")]) == ["elsewhere", "later", "step", "task"]


def test_what_a_child_is_lent_comes_back_but_for_what_it_has_spent() -> None:
    seen: dict[str, list[int]] = {}

    async def desk(run: Run) -> None:
        def look(when: str) -> None:
            budget = run.budget  # of now, not of then, in a replay
            seen.setdefault(when, [budget.steps, budget.tools, budget.tokens])

        look("before")
        child = await run.spawn("works", budget=Limits(steps=20, tools=5, tokens=500))
        look("at once")
        await run.sleep(HOUR)
        look("in another lease")
        await child
        look("when it has ended")
        await run.sleep(HOUR)
        look("afterwards")

    async def works(run: Run) -> None:
        await run.sleep(DAY)
        await run.tool(double, number=2)
        await run.model("What now?")

    limits = Limits(30 * DAY, 100, 50, 1000, 400)
    children: dict[str, Conditions] = {"works": {"model": Script("Rest.")}}
    app = app_of(desk=desk, works=works)
    for kills in ([], [Kill(1)], [Kill(2)], [Kill(3, landed=True)], [Kill(4)], [Kill(5, landed=True)]):
        seen.clear()
        result = Lab(app).run("desk", limits=limits, children=children, kills=kills)
        (child,) = result.children
        tokens = child.usage.tokens
        assert (child.usage.steps, child.usage.tools, tokens > 0) == (3, 1, True)
        assert seen == {
            "before": [100, 50, 1000],
            "at once": [100 - 1 - 20, 50 - 5, 1000 - 500],
            "in another lease": [100 - 2 - 20, 50 - 5, 1000 - 500],
            "when it has ended": [100 - 3 - 3, 50 - 1, 1000 - tokens],
            "afterwards": [100 - 4 - 3, 50 - 1, 1000 - tokens],
        }
        assert result.usage == Usage(4 + 3, 1, tokens, 0)


def test_the_parent_cannot_spend_what_its_child_may() -> None:
    async def desk(run: Run) -> None:
        await run.spawn("sleeps", budget=Limits(steps=6))
        for number in range(9):
            await run.step(double, number)

    result = Lab(app_of(desk=desk, sleeps=sleeps)).run("desk", limits=Limits(30 * DAY, 10, 10, 99, 99))
    assert (result.status, result.exhausted) == ("PARTIAL", Dimension.STEPS)
    assert len(result.steps) == 10 - 6


@pytest.mark.parametrize(
    ("intent", "terms", "reason"),
    [
        ("nobody", {}, "UNKNOWN_INTENT"),
        ("sleeps", {"budget": Limits(steps=99)}, "BUDGET_EXCEEDED"),
        ("sleeps", {"budget": Limits(tokens=1001)}, "BUDGET_EXCEEDED"),
        ("sleeps", {"budget": Limits(context=101)}, "BUDGET_EXCEEDED"),
    ],
)
def test_what_is_refused_fails_the_step(intent: str, terms: dict[str, Any], reason: str) -> None:
    async def desk(run: Run) -> list[Any]:
        try:
            await run.spawn(intent, **terms)
        except StepFailed as failed:
            return [failed.reason, run.budget.tokens]
        raise AssertionError

    app = app_of(desk=desk, sleeps=sleeps)
    result = Lab(app).run("desk", limits=Limits(30 * DAY, 100, 50, 1000, 100))
    assert result.value == [reason, 1000]
    assert result.children == []


def test_a_key_finds_its_child_again_and_is_nobody_else_s() -> None:
    async def desk(run: Run) -> list[Any]:
        first = await run.spawn("doubles", {"number": 2}, key="the one")
        again = await run.spawn("doubles", {"number": 2}, key="the one")
        reasons = []
        for intent, payload in (("doubles", {"number": 3}), ("steals", {})):
            try:
                await (await run.spawn(intent, payload, key="the one" if payload else None))
            except StepFailed as failed:
                reasons.append(failed.reason)
            except ChildFailed as failed:
                reasons.append(failed.failure.reason if failed.failure else "")
        return [first.run_id == again.run_id, await again, reasons]

    async def steals(run: Run) -> None:
        await run.spawn("doubles", {"number": 2}, key="the one")

    result = Lab(app_of(desk=desk, doubles=doubles, steals=steals)).run("desk")
    assert result.value == [True, 4, ["IDEMPOTENCY_KEY_REUSED", "INVALID_FIELD"]]
    assert len(result.children) == 2


def test_sixteen_runs_may_stand_above_a_child() -> None:
    async def desk(run: Run, payload: dict[str, int]) -> Any:
        depth = payload["depth"]
        try:
            return await (
                await run.spawn("desk", {"depth": depth + 1}, budget=Limits(steps=900 - 10 * depth))
            )
        except StepFailed as failed:
            return [depth, failed.reason]

    result = Lab(app_of(desk=desk)).run("desk", {"depth": 0})
    assert result.value == [16, "TOO_MANY_CHILDREN"]


def test_conditions_hold_for_all_below_unless_nearer_ones_say_otherwise() -> None:
    async def desk(run: Run) -> list[Any]:
        return [await (await run.spawn("between")), await (await run.spawn("below"))]

    async def between(run: Run) -> Any:
        ends = [await (await run.spawn(intent)) for intent in ("below", "beside")]
        return [*ends, (await run.model("?")).content]

    async def below(run: Run) -> list[str]:
        return [await run.receive(), (await run.model("?")).content]

    async def beside(run: Run) -> str:
        return (await run.model("?")).content

    app = app_of(desk=desk, between=between, below=below, beside=beside)
    children: dict[str, Conditions] = {
        "beside": {"model": Script("for all")},
        "between": {
            "model": Script("between"),
            "children": {"below": {"model": Script("nearer"), "signals": [Signal("a")]}},
        },
        "below": {"model": Script("farther"), "signals": [Signal("b", at=HOUR)]},
    }
    result = Lab(app).run("desk", children=children)
    assert result.value == [[["a", "nearer"], "for all", "between"], ["b", "farther"]]
    grandchild, _ = result.children[0].children
    assert (grandchild.intent, grandchild.value) == ("below", ["a", "nearer"])


def test_what_a_child_has_from_its_parent_is_not_a_test_s_to_say() -> None:
    app = app_of(desk=three, doubles=doubles, breaks=breaks)
    with pytest.raises(ValueError, match="Which limits children of doubles have is for their parents to say"):
        Lab(app).run("desk", children={"doubles": {"limits": AMPLE}})
    with pytest.raises(ValueError, match="Which user children of breaks have is for their parents to say"):
        Lab(app).run("desk", children={"doubles": {"children": {"breaks": {"user": "u"}}}})
    with pytest.raises(ValueError, match="no agent for dusk"):
        Lab(app).run("desk", children={"doubles": {"children": {"dusk": {}}}})


def test_a_child_has_its_caller_its_labels_and_its_time_from_its_parent() -> None:
    async def desk(run: Run) -> Any:
        await run.sleep(DAY)
        return await (await run.spawn("tells", labels={"l": "1"}))

    async def tells(run: Run) -> list[Any]:
        return [run.user, dict(run.labels), run.create_time.isoformat(), run.budget.seconds <= 8 * DAY]

    result = Lab(app_of(desk=desk, tells=tells)).run(
        "desk", user="ann", limits=Limits(9 * DAY, 100, 99, 1000, 99)
    )
    assert result.value == ["ann", {"l": "1"}, "2026-01-02T00:00:00+00:00", True]


def test_a_child_has_no_later_deadline_than_its_parent_unless_it_goes_on() -> None:
    async def desk(run: Run) -> None:
        await run.spawn("sleeps", name="goes")
        await run.spawn("sleeps", name="short", budget=Limits(deadline=60))
        await run.spawn("sleeps", name="stays", on_parent_end="continue")
        await run.receive()

    result = Lab(app_of(desk=desk, sleeps=sleeps)).run("desk", limits=Limits(HOUR, 1000, 99, 1000, 99))
    assert (result.status, result.exhausted) == ("PARTIAL", Dimension.DEADLINE)
    goes, short, stays = result.children
    assert goes.status in {"PARTIAL", "CANCELLED"}
    assert [goes.elapsed, short.elapsed, stays.elapsed] == [pytest.approx(t) for t in (HOUR, 60, DAY)]
    assert (short.status, short.exhausted) == ("PARTIAL", Dimension.DEADLINE)
    assert stays.status == "SUCCEEDED"


def test_a_loan_passes_to_who_lent_to_a_run_that_ended_before_its_child() -> None:
    seen: dict[str, int] = {}

    async def desk(run: Run) -> None:
        child = await run.spawn("between", budget=Limits(steps=50))
        await child
        await run.sleep(HOUR)
        seen.setdefault("the grandchild sleeps", run.budget.steps)
        await run.sleep(2 * DAY)
        seen.setdefault("it has ended", run.budget.steps)

    async def between(run: Run) -> None:
        await run.spawn("sleeps", budget=Limits(steps=30), on_parent_end="continue")

    app = app_of(desk=desk, between=between, sleeps=sleeps)
    result = Lab(app).run("desk", limits=Limits(30 * DAY, 100, 99, 1000, 99))
    # Of its own it has spent two steps for the child, and one for each sleep; each of the others one.
    assert seen == {"the grandchild sleeps": 100 - 3 - 1 - 30, "it has ended": 100 - 4 - 1 - 1}
    assert [each.usage.steps for each in (result, *result.children, *result.children[0].children)] == [
        6,
        1,
        1,
    ]


def test_a_parent_that_has_ended_is_charged_with_what_goes_on() -> None:
    async def desk(run: Run) -> None:
        await run.spawn("sleeps", on_parent_end="continue")

    result = Lab(app_of(desk=desk, sleeps=sleeps)).run("desk")
    assert (result.elapsed, result.usage.steps) == (0.0, 2)


def test_children_of_one_ordering_key_go_one_after_the_other() -> None:
    async def desk(run: Run) -> list[Any]:
        children = [await run.spawn("sleeps", ordering_key="lane") for _ in range(3)]
        await run.sleep(HOUR)
        await children[1].cancel()
        outcomes = [await child.outcome() for child in children]
        return [each.status for each in outcomes]

    app = app_of(desk=desk, sleeps=sleeps)
    result = Lab(app).run("desk")
    assert result.value == ["SUCCEEDED", "CANCELLED", "SUCCEEDED"]
    assert [child.elapsed for child in result.children] == [pytest.approx(t) for t in (DAY, HOUR, 2 * DAY)]
    assert [child.leases for child in result.children] == [2, 0, 2]
    assert crash_everywhere(app, "desk", pairs=4)


def test_a_child_cannot_wait_for_its_parent_to_end() -> None:
    async def desk(run: Run) -> Any:
        return await (await run.spawn("between", ordering_key="lane"))

    async def between(run: Run) -> str:
        try:
            await run.spawn("sleeps", ordering_key="lane")
        except StepFailed as failed:
            return failed.reason
        raise AssertionError

    assert Lab(app_of(desk=desk, between=between, sleeps=sleeps)).run("desk").value == "INVALID_FIELD"


def test_a_child_that_is_cancelled_has_its_steps_undone() -> None:
    undone: list[int] = []

    async def take_back(number: int) -> None:
        undone.append(number)

    hold = step(undo=take_back)(double)

    async def holds(run: Run) -> None:
        await run.step(hold, 7)
        await run.sleep(DAY)

    async def desk(run: Run) -> None:
        await run.spawn("holds")
        await run.sleep(HOUR)

    app = app_of(desk=desk)
    app.agent("holds", undo_on=("cancel",))(holds)
    (child,) = Lab(app).run("desk").children
    assert (child.status, undone) == ("COMPENSATED", [7])


def test_a_child_that_ends_otherwise_after_a_crash_is_found() -> None:
    counter = itertools.count()

    async def desk(run: Run) -> None:
        await (await run.spawn("counts")).outcome()

    async def counts(run: Run) -> None:
        run.send("orders", {"n": next(counter)})

    with pytest.raises(AssertionError, match=r"effects of counts \(.*\) differ at effects to orders"):
        crash_everywhere(app_of(desk=desk, counts=counts), "desk")


def test_a_child_that_is_started_twice_is_found() -> None:
    counter = itertools.count()

    async def desk(run: Run) -> None:
        await run.spawn("doubles", {"number": 2}, key=f"child-{next(counter)}", on_parent_end="continue")

    with pytest.raises(AssertionError, match=r"(children|steps) differ"):
        crash_everywhere(app_of(desk=desk, doubles=doubles), "desk")


def test_children_go_when_their_parent_begins_to_be_undone_and_what_they_undo_is_their_own() -> None:
    order: list[str] = []

    async def do(name: str) -> None: ...

    async def take_back(name: str) -> None:
        order.append(name)
        await asyncio.sleep(HOUR if name == "parent" else 0)

    done = step(undo=take_back)(do)

    async def desk(run: Run) -> None:
        await run.step(done, "parent")
        await run.spawn("below", budget=Limits(steps=3))
        await run.sleep(HOUR)
        raise Permanent("that was all")

    async def below(run: Run) -> None:
        for name in ("first", "second"):
            await run.step(done, name)
        await run.receive("never")

    app = App("family")
    app.agent("desk")(desk)
    app.agent("below", undo_on=("failure", "cancel"))(below)
    result = Lab(app).run("desk")
    (child,) = result.children
    assert (result.status, child.status) == ("COMPENSATED", "COMPENSATED")
    assert child.elapsed < result.elapsed, "it does not wait for its parent's end"
    assert sorted(order) == ["first", "parent", "second"]
    assert child.usage.steps == 4
    assert result.usage.steps == 4 + 3, "its own, the undo among them, and what it had lent"
