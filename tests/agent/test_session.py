"""What an agent keeps in its session: found at the start, the same in every replay, saved with the end."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from pydantic import BaseModel

from holdfast.agent import App, Limits, Permanent, Run
from holdfast.agent.engine.journal import Refused
from holdfast.agent.execution import Left
from holdfast.agent.wire import draft as wire
from tests.agent.memory import Memory

FEW = Limits(deadline=60, steps=2, tools=10, tokens=10, context=10)


@dataclass
class Chat:
    turns: list[str] = field(default_factory=list)
    mood: str = "calm"


@dataclass(frozen=True)
class Count:
    n: int = 0


class Notes(BaseModel):
    by_name: dict[str, int] = {}


async def echo(text: str) -> str:
    return text


def chat_app(**ends: Any) -> App:
    app = App("chat")

    @app.agent("chat", session=Chat, **ends)
    async def chat(run: Run, payload: dict[str, Any]) -> list[str]:
        state: Chat = run.session
        assert isinstance(state, Chat)
        state.turns.append(await run.step(echo, payload.get("say", "hello")))
        for _ in range(payload.get("more", 0)):
            await run.step(echo, f"{len(state.turns)} turns")
        if payload.get("fails"):
            raise Permanent("not today")
        return state.turns

    return app


def of(memory: Memory, state: Any = None, version: int = 0) -> Memory:
    memory.session = (b"" if state is None else json.dumps(state).encode(), version)
    return memory


def left(memory: Memory) -> tuple[Any, int] | None:
    last = memory.commits[-1]
    return (json.loads(last.session.state), last.session.loaded_version) if last.HasField("session") else None


async def test_a_first_run_begins_with_the_defaults_and_leaves_what_it_made_of_them() -> None:
    memory = of(Memory("chat"))
    assert await memory.run(chat_app()) is Left.ENDED
    assert left(memory) == ({"turns": ["hello"], "mood": "calm"}, 0)
    assert [commit.HasField("session") for commit in memory.commits][:-1] == [False] * (
        len(memory.commits) - 1
    )


async def test_a_next_run_goes_on_from_what_is_there_and_writes_it_canonically() -> None:
    memory = of(Memory("chat", {"say": "again"}), {"turns": ["hello"], "mood": "ölig"}, 3)
    assert await memory.run(chat_app()) is Left.ENDED
    last = memory.commits[-1].session
    assert last.state.decode() == '{"mood":"ölig","turns":["hello","again"]}'
    assert last.loaded_version == 3


async def test_every_replay_begins_with_what_the_first_attempt_found() -> None:
    whole = of(Memory("chat", {"more": 3}), {"turns": ["a"], "mood": "b"}, 1)
    assert await whole.run(chat_app()) is Left.ENDED
    for prefix in range(len(whole.commits)):
        memory = of(Memory("chat", {"more": 3}), {"turns": ["a"], "mood": "b"}, 1)
        assert await memory.crash(chat_app(), prefix)
        assert await memory.run(chat_app()) is Left.ENDED
        assert memory.outcome.status == wire.SUCCEEDED
        assert left(memory) == left(whole) == ({"turns": ["a", "hello"], "mood": "b"}, 1)


async def test_a_partial_end_leaves_what_was_managed() -> None:
    memory = of(Memory("chat", {"more": 5}, limits=FEW))
    assert await memory.run(chat_app()) is Left.ENDED
    assert memory.outcome.status == wire.PARTIAL
    assert left(memory) == ({"turns": ["hello"], "mood": "calm"}, 0)


async def test_what_is_shaped_at_the_limit_is_left_too() -> None:
    def managed(run: Run, _: Any) -> str:
        run.session.mood = "tired"
        return "so far"

    memory = of(Memory("chat", {"more": 5}, limits=FEW))
    await memory.run(chat_app(on_exhausted=managed))
    assert left(memory) == ({"turns": ["hello"], "mood": "tired"}, 0)


async def test_a_failed_run_leaves_nothing() -> None:
    memory = of(Memory("chat", {"fails": True}))
    await memory.run(chat_app())
    assert memory.outcome.status == wire.FAILED
    assert left(memory) is None


async def test_a_run_that_changes_nothing_writes_nothing() -> None:
    app = App("reader")

    @app.agent("read", session=Chat)
    async def read(run: Run) -> int:
        return len(run.session.turns)

    @app.agent("ignore")
    async def ignore(_: Run) -> int:
        return 0

    for memory in (
        of(Memory("read")),
        of(Memory("read"), {"mood": "calm", "turns": []}, 1),
        of(Memory("ignore")),
    ):
        if memory.session and memory.session[0]:
            memory.session = (b'{"mood":"calm","turns":[]}', 1)
        await memory.run(app)
        assert memory.outcome.status == wire.SUCCEEDED
        assert left(memory) is None


async def test_without_a_session_the_state_is_there_and_kept_by_nobody() -> None:
    memory = Memory("chat")
    await memory.run(chat_app())
    assert memory.outcome.status == wire.SUCCEEDED
    assert left(memory) is None


async def test_an_immutable_state_is_replaced_and_a_dict_is_what_there_is_without_a_type() -> None:
    app = App("counts")

    @app.agent("frozen", session=Count)
    async def frozen(run: Run) -> int:
        run.session = replace(run.session, n=run.session.n + 1)
        return int(run.session.n)

    @app.agent("dict")
    async def plain(run: Run) -> int:
        run.session["n"] = run.session.get("n", 0) + 1
        return int(run.session["n"])

    @app.agent("model", session=Notes)
    async def model(run: Run) -> int:
        run.session.by_name["n"] = 1
        return 1

    for intent, was, becomes in (
        ("frozen", {"n": 4}, {"n": 5}),
        ("dict", {"n": 4}, {"n": 5}),
        ("dict", None, {"n": 1}),
        ("model", None, {"by_name": {"n": 1}}),
    ):
        memory = of(Memory(intent), was, 1 if was else 0)
        await memory.run(app)
        assert left(memory) == (becomes, 1 if was else 0), intent


async def test_inside_of_a_step_there_is_no_session() -> None:
    app = App("steps")

    @app.agent("inside", session=Chat)
    async def inside(run: Run) -> str:
        async def change() -> str:
            run.session.mood = "changed"
            return "done"

        return await run.step(change)

    memory = of(Memory("inside"))
    memory.max_attempts = 1
    await memory.run(app)
    failure = memory.commits[-1].requeue.failure
    assert (failure.reason, failure.step) == ("RuntimeError", "change")
    assert "cannot use the session" in failure.message


@pytest.mark.parametrize(
    ("saved", "names"),
    [({"turns": 7}, "turns"), ([1], "object"), ("text", "object")],
)
async def test_a_saved_state_that_no_longer_fits_never_reaches_the_agent(saved: Any, names: str) -> None:
    memory = of(Memory("chat"), saved, 1)
    await memory.run(chat_app())
    assert memory.outcome.status == wire.FAILED
    assert memory.outcome.failure.reason == "INVALID_SESSION"
    assert names in memory.outcome.failure.message.lower()
    assert memory.records == []
    assert left(memory) is None


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"x": "y" * 1024 * 1024}, "1,048,576"),
        ({"x": object()}, "JSON"),
        ({"x": float("nan")}, "JSON"),
        ({"x": nested(30)}, "levels"),
        ({"x": 10**400}, "double"),
        ({"x": "\ud800"}, "surrogate"),
        ([1, 2], "dict"),
        (None, "dict"),
    ],
)
async def test_a_state_that_cannot_be_saved_fails_its_run_and_harms_no_partial_end(
    bad: Any, why: str
) -> None:
    app = App("bad")

    @app.agent("bad")
    async def spoil(run: Run, payload: dict[str, Any]) -> str:
        run.session = bad
        if payload.get("partial"):
            for _ in range(5):
                await run.step(echo, "more")
        return "done"

    memory = of(Memory("bad"))
    await memory.run(app)
    assert memory.outcome.status == wire.FAILED
    assert memory.outcome.failure.reason == "NOT_RECORDABLE"
    assert why in memory.outcome.failure.message
    memory = of(Memory("bad", {"partial": True}, limits=FEW))
    await memory.run(app)
    assert memory.outcome.status == wire.PARTIAL
    assert why in memory.outcome.failure.message
    assert left(memory) is None


async def test_a_dataclass_with_a_value_that_does_not_fit_it_is_not_saved() -> None:
    app = App("bad")

    @app.agent("bad", session=Chat)
    async def spoil(run: Run) -> None:
        run.session = Count(1)

    memory = of(Memory("bad"))
    await memory.run(app)
    assert memory.outcome.failure.reason == "NOT_RECORDABLE"


async def test_a_refused_session_ends_the_run_with_the_reason() -> None:
    memory = of(Memory("chat"))

    def refuse(commit: Any) -> Refused | None:
        return Refused("SESSION_CONFLICT", "it is another's") if commit.HasField("session") else None

    memory.refuse = refuse
    assert await memory.run(chat_app()) is Left.ENDED
    assert memory.outcome.status == wire.FAILED
    assert memory.outcome.failure.reason == "SESSION_CONFLICT"
    assert left(memory) is None


def test_a_type_that_cannot_begin_with_nothing_is_refused_where_it_is_registered() -> None:
    @dataclass
    class Needs:
        name: str

    app = App("types")
    for wrong, says in (
        (Needs, "default"),
        (int, "dataclass"),
        (list[str], "dataclass"),
        ("Chat", "dataclass"),
    ):
        with pytest.raises(TypeError, match=says):
            app.agent("x", session=wrong)  # type: ignore[arg-type]
