"""Rungs are taken one by one as the budget runs low, told once, and mean the same after a crash."""

from collections.abc import AsyncIterator

import pytest

from examples.standins.chat_protocol import Answer
from examples.standins.model_server import ModelServer
from holdfast.agent import App, Dimension, Limits, ModelEndpoint, Models, Run, Rung, Usage, step
from holdfast.agent.budget import Meter
from holdfast.agent.engine.report import Reports
from holdfast.agent.execution import Left
from tests.agent.memory import AMPLE, Memory

KEY = "sk-a-key"
TEN_STEPS = Limits(AMPLE.deadline, 10, AMPLE.tools, AMPLE.tokens, AMPLE.context)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(api_key=KEY) as server:
        yield server


def fresh(limits: Limits) -> Memory:
    """Return a run that has just been accepted."""
    memory = Memory("work", limits=limits)
    memory.remaining = limits.deadline
    return memory


async def work(number: int) -> int:
    return number


@step(optional=True)
async def polish(number: int) -> str | None:
    return f"polished {number}"


@pytest.fixture
async def app(server: ModelServer) -> AsyncIterator[App]:
    app = App(
        "degrades",
        model=Models(
            large=ModelEndpoint(server.url, KEY, "standin-large"),
            small=ModelEndpoint(server.url, KEY, "standin-small"),
        ),
    )

    @app.agent("work", degrade=[Rung(at=0.6, skip_optional=True), Rung(at=0.3, use="small")])
    async def worked(run: Run) -> list[str]:
        done = []
        for number in range(4):
            await run.step(work, number)
            done.append(str(await run.step(polish, number)))
        done.append((await run.model("who are you?")).model)
        return done

    yield app
    await app.close()


EXPECTED = ["polished 0", "polished 1", "polished 2", "None", "standin-small"]


async def test_each_rung_is_taken_once_and_told_with_its_reason(app: App, server: ModelServer) -> None:
    server.answers.append(Answer("me"))
    memory = fresh(TEN_STEPS)
    assert await memory.run(app) is Left.ENDED
    assert [value.string_value for value in memory.outcome.result.list_value.values] == EXPECTED
    told = memory.told("degraded")
    assert [(each.dimension, each.used, each.limit, each.rung) for each in told] == [
        (Dimension.STEPS, 3, 10, "asks small"),
        (Dimension.STEPS, 6, 10, "skips optional steps"),
    ]


@pytest.mark.parametrize("commits", range(1, 10))
async def test_a_crash_changes_neither_the_rungs_nor_what_was_left_out(
    app: App, server: ModelServer, commits: int
) -> None:
    server.answers.extend([Answer("me"), Answer("me")])
    memory = fresh(TEN_STEPS)
    await memory.crash(app, commits)
    assert await memory.run(app) is Left.ENDED
    assert [value.string_value for value in memory.outcome.result.list_value.values] == EXPECTED
    assert [each.rung for each in memory.told("degraded")] == ["asks small", "skips optional steps"]
    left_out = [record for record in memory.records if record.key == "polish#4"]
    assert [(record.output, record.attempts) for record in left_out] == [(b"null", 0)]


async def test_with_room_to_spare_nothing_is_left_out(app: App, server: ModelServer) -> None:
    server.answers.append(Answer("me"))
    memory = fresh(AMPLE)
    assert await memory.run(app) is Left.ENDED
    assert memory.outcome.result.list_value.values[3].string_value == "polished 3"
    assert memory.told("degraded") == []


async def test_what_is_spent_is_told_after_model_calls_and_at_thresholds(
    app: App, server: ModelServer
) -> None:
    server.answers.append(Answer("me"))
    memory = fresh(TEN_STEPS)
    assert await memory.run(app) is Left.ENDED
    told = memory.told("budget_reported")
    assert [report.usage.steps for report in told] == [5, 8, 9]
    assert {report.budget.max_steps for report in told} == {10}


def test_each_limit_is_told_where_it_begins_to_matter() -> None:
    budget = Meter(TEN_STEPS, Usage(steps=6), TEN_STEPS.deadline)
    reports = Reports(budget)
    assert not reports.due(after_model=False), "what was passed before this lease has been told"
    budget.charge(Usage(tokens=TEN_STEPS.tokens // 2))
    assert reports.due(after_model=False), "half of the tokens, though more of the steps is spent"
    assert not reports.due(after_model=False), "each threshold once"


@pytest.mark.parametrize("spent", [{"steps": 5}, {"tools": 5}, {"tokens": 50}])
def test_half_of_one_limit_is_told_though_nothing_is_spent_of_the_others(spent: dict[str, int]) -> None:
    meter = Meter(Limits(60, 10, 10, 100, 100), Usage(), 60)
    reports = Reports(meter)
    assert not reports.due(after_model=False)
    meter.charge(Usage(**spent))
    assert reports.due(after_model=False)


def test_half_of_the_time_is_told() -> None:
    now = 0.0
    reports = Reports(Meter(Limits(60, 10, 10, 100, 100), Usage(), 60, lambda: now))
    now = 29.9
    assert not reports.due(after_model=False)
    now = 30.0
    assert reports.due(after_model=False)


def test_reports_after_model_calls_keep_their_distance() -> None:
    now = 0.0
    reports = Reports(Meter(AMPLE, Usage(), AMPLE.deadline), clock=lambda: now)
    assert reports.due(after_model=True)
    now = 0.2
    assert not reports.due(after_model=True)
    now = 0.25
    assert reports.due(after_model=True)


@pytest.mark.parametrize(
    ("rung", "wrong"),
    [
        ({"at": 0.0, "use": "small"}, "between 0 and 1"),
        ({"at": 1.0, "use": "small"}, "between 0 and 1"),
        ({"at": 0.5}, "must do something"),
        ({"at": 0.5, "context": 1.5}, "share of the context"),
    ],
)
def test_a_rung_that_makes_no_sense_is_refused(rung: dict[str, float], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Rung(**rung)  # type: ignore[arg-type]


def test_an_optional_step_must_be_able_to_return_nothing() -> None:
    async def always(number: int) -> int:
        return number

    with pytest.raises(TypeError, match="annotate that it returns None"):
        step(optional=True)(always)
