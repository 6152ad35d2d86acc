"""Agents that write down what they do: work that can be checked, a gate to stop at, and poison."""

import asyncio
import os
import secrets
import signal
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from holdfast.agent import App, ChildFailed, Escalate, Limits, Permanent, Run, step
from tests.support.deeds import note

app = App("crash")


@dataclass
class Change:
    """What a step returns: under which key it was executed, and what only this execution knows."""

    step: str
    token: str


@dataclass
class Work:
    """How much there is to do."""

    steps: int = 3
    pause: float = 0.01  # seconds a step takes
    lane: str = ""  # the effects' order
    effects: bool = True
    fresh_keys: bool = False  # effects by keys that only their execution knows
    asks_model: bool = False


async def _execute(idempotency_key: str, attempt: int, pause: float) -> Change:
    run_id, _, key = idempotency_key.partition("/")
    change = Change(key, secrets.token_hex(6))
    note("executed", run_id, attempt=attempt, step=key, token=change.token)
    await asyncio.sleep(pause)
    return change


def _passed(run: Run, change: Change) -> None:
    note("passed", run.id, attempt=run.attempt, step=change.step, token=change.token)


def _body(run: Run, change: Change, what: str) -> dict[str, str]:
    return {"run": run.id, "step": change.step, "token": change.token, "what": what}


@step(repeatable=True)
async def look(pause: float, idempotency_key: str = "") -> Change:
    """Read something: may be done again."""
    return await _execute(idempotency_key, 0, pause)


@app.agent("crash.work")
async def work(run: Run, todo: Work) -> list[str]:
    """Change the world step by step, tell it, and let effects go with what caused them."""

    async def change(number: int, idempotency_key: str = "") -> Change:
        """Change something, and let the outside know of this very execution."""
        done = await _execute(idempotency_key, run.attempt, todo.pause)
        if todo.effects and number % 2 == 0:
            run.send(
                "sink",
                _body(run, done, "of the step"),
                key=f"{idempotency_key}/{done.token}" if todo.fresh_keys else None,
            )
        return done

    note("started", run.id, attempt=run.attempt)
    run.say("started")
    tokens = []
    for number in range(todo.steps):
        await run.step(look, todo.pause)
        done = await (run.tool(change, number=number) if number % 3 == 2 else run.step(change, number))
        _passed(run, done)
        run.token(f"{done.token} ")
        if todo.effects:
            run.send("sink", _body(run, done, "after the step"), ordering_key=todo.lane)
        tokens.append(done.token)
    for done in await run.map(lambda number: run.step(change, number), [1, 3]):
        _passed(run, done)
        tokens.append(done.token)
    if todo.asks_model:
        await run.model("How are you?", max_tokens=50)
    note("ended", run.id, attempt=run.attempt)
    return tokens


@dataclass
class Gate:
    """A file that opens the gate when it is there."""

    file: str


@app.agent("crash.gate")
async def gate(run: Run, at: Gate) -> list[str]:
    """Do something, stand at the gate in the middle of a step with an effect, and do something after it."""

    async def change(idempotency_key: str = "") -> Change:
        return await _execute(idempotency_key, run.attempt, 0)

    async def wait(idempotency_key: str = "") -> Change:
        done = await _execute(idempotency_key, run.attempt, 0)
        while not Path(at.file).exists():  # noqa: ASYNC110 - the test opens it
            await asyncio.sleep(0.005)
        run.send("sink", _body(run, done, "of the step"), key=f"{idempotency_key}/{done.token}")
        return done

    note("started", run.id, attempt=run.attempt)
    tokens = []
    for stage in (change, wait, change):
        done = await run.step(stage)
        _passed(run, done)
        tokens.append(done.token)
    note("ended", run.id, attempt=run.attempt)
    return tokens


@app.agent("crash.poison")
async def poison(run: Run, todo: dict[str, Any]) -> str:
    """Kill the runner in each attempt, until there is an antidote."""

    async def swallow() -> str:
        if not Path(todo["antidote"]).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return "survived"

    note("started", run.id, attempt=run.attempt)
    return await run.step(swallow)


@dataclass
class Talk:
    """What the runs of a conversation know of each other."""

    heard: list[str] = field(default_factory=list)


@app.agent("crash.chat", session=Talk)
async def chat(run: Run) -> list[str]:
    """Hear who has spoken before, and be heard by those who come."""

    async def change(heard: list[str]) -> Change:
        return await _execute(f"{run.id}/{heard[-1] if heard else 'first'}", run.attempt, 0.1)

    note("started", run.id, attempt=run.attempt)
    for _ in range(2):
        await run.step(change, run.session.heard)
    run.session.heard.append(run.id)
    await run.step(change, run.session.heard)
    note("ended", run.id, attempt=run.attempt)
    return list(run.session.heard)


@app.agent("crash.away")
async def away(run: Run, at: Gate) -> bool:
    """Move to the background, and stand at the gate there."""

    async def change(idempotency_key: str = "") -> Change:
        return await _execute(idempotency_key, run.attempt, 0)

    async def wait(idempotency_key: str = "") -> Change:
        done = await _execute(idempotency_key, run.attempt, 0)
        while not Path(at.file).exists():  # noqa: ASYNC110 - the test opens it
            await asyncio.sleep(0.005)
        return done

    note("started", run.id, attempt=run.attempt)
    await run.step(change)
    moved = await run.expect(3600)
    if moved:
        run.say("I go on in the background")
    run.say("on it")
    await run.step(wait)
    note("ended", run.id, attempt=run.attempt)
    return moved


@dataclass
class Listening:
    """A file that opens the gate when it is there, and how much to listen for then."""

    file: str
    times: int


@app.agent("crash.listen")
async def listen(run: Run, at: Listening) -> list[str]:
    """Stand at the gate, then hear what was said."""

    async def wait() -> None:
        note("waiting", run.id, attempt=run.attempt)
        while not Path(at.file).exists():  # noqa: ASYNC110 - the test opens it
            await asyncio.sleep(0.005)

    await run.step(wait)
    heard = []
    for _ in range(at.times):
        heard.append(await run.receive())
        note("heard", run.id, attempt=run.attempt, token=heard[-1])
    note("ended", run.id, attempt=run.attempt)
    return heard


@app.agent("crash.rest")
async def rest(run: Run, todo: dict[str, float]) -> list[str]:
    """Change something, wait for an answer, sleep, and change something again."""

    async def change(idempotency_key: str = "") -> Change:
        return await _execute(idempotency_key, run.attempt, 0)

    note("started", run.id, attempt=run.attempt)
    first = await run.step(change)
    answer = await run.receive("answer", timeout=3600)
    note("heard", run.id, attempt=run.attempt, token=answer)
    if "until" in todo:  # seconds after the run's acceptance
        await run.sleep(run.create_time + timedelta(seconds=todo["until"]))
    else:
        await run.sleep(todo["sleep"])
    last = await run.step(change)
    note("ended", run.id, attempt=run.attempt)
    return [first.token, answer, last.token]


@app.agent("crash.saga", undo_on=("failure", "cancel"))
async def saga(run: Run, todo: Work) -> None:
    """Change something step by step, and fail in the end: all of it is undone."""

    async def change(number: int, idempotency_key: str = "") -> Change:  # noqa: ARG001
        return await _execute(idempotency_key, run.attempt, todo.pause)

    async def put_back(number: int, undoes: str) -> int:
        run_id, _, key = undoes.partition("/")
        note("undone", run_id, step=key)
        await asyncio.sleep(todo.pause)
        return number

    changed = step(undo=put_back)(change)
    for number in range(todo.steps):
        _passed(run, await run.step(changed, number))
    raise Permanent("all for nothing")


@dataclass
class Member:
    """What a member of a family does: change something, and then end as it is told."""

    number: int = 0
    end: str = "returns"  # or breaks, fails, rests, hangs


@app.agent("crash.member")
async def member(run: Run, todo: Member) -> int:
    """Change something, and end."""

    async def change(idempotency_key: str = "") -> Change:
        return await _execute(idempotency_key, run.attempt, 0)

    note("started", run.id, attempt=run.attempt)
    await run.step(change)
    if todo.end == "breaks":
        raise RuntimeError("it broke")
    if todo.end == "fails":
        raise Permanent("it failed")
    if todo.end == "hangs":
        await asyncio.sleep(3600)
    if todo.end == "rests":
        await run.receive("go")
    note("ended", run.id, attempt=run.attempt)
    return todo.number**2


@app.agent("crash.family")
async def family(run: Run, todo: dict[str, Any]) -> list[Any]:
    """Start children side by side and hear of all of them; one that has not succeeded, by how it ended."""

    async def one(number: int) -> Any:
        child = await run.spawn(
            "crash.member",
            {"number": number, "end": todo.get("end", "returns")},
            returns=int,
            budget=Limits(steps=3, tools=1, tokens=1),
        )
        try:
            return await child
        except ChildFailed as failed:
            return [failed.status, failed.failure and failed.failure.message]

    note("started", run.id, attempt=run.attempt)
    said = await run.map(one, range(todo["children"]), at_once=100)
    note("ended", run.id, attempt=run.attempt)
    return said


@app.agent("crash.leave")
async def leave(run: Run) -> None:
    """Fail while a child is at work."""
    await run.spawn("crash.member", {"end": "hangs"}, budget=Limits(steps=3, tools=1, tokens=1))
    await run.receive("go")
    raise Permanent("it failed")


@app.agent("crash.tree")
async def tree(run: Run, todo: dict[str, int]) -> list[str]:
    """Start a tree below, and one member that goes on without it; wait to be told to end."""
    note("started", run.id, attempt=run.attempt)
    free = await run.spawn(
        "crash.member",
        {"end": "rests"},
        name="free",
        budget=Limits(steps=3, tools=1, tokens=1),
        on_parent_end="continue",
    )
    if todo["depth"]:
        await run.spawn("crash.tree", {"depth": todo["depth"] - 1}, budget=Limits(steps=20 * todo["depth"]))
    await run.receive("go")
    return [free.run_id]


@app.agent("crash.review")
async def review(run: Run, todo: dict[str, Any]) -> list[Any]:
    """Change something, have people decide twice under one name, and change something again."""

    async def change(idempotency_key: str = "") -> Change:
        return await _execute(idempotency_key, run.attempt, 0)

    note("started", run.id, attempt=run.attempt)
    await run.step(change)
    said: list[Any] = []
    for number in range(2):
        decision = await run.approval(
            "review",
            payload={"amount": 7, "round": number},
            approvers=["group:underwriters"],
            timeout=todo.get("timeout", 3600),
            escalate=[Escalate(todo["escalate"], ("user:boss",), "sink", "Please.")]
            if "escalate" in todo
            else [],
            editable=True,
        )
        said.append([decision.status, list(decision.by), decision.payload])
        if not decision.approved:
            break
    await run.step(change)
    note("ended", run.id, attempt=run.attempt)
    return said
