"""A chat on a real terminal and through pipes, with an agent on the real services."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.dev import Suite
from tests.cli.conftest import DEADLINE_S, Ended, finish, start
from tests.cli.typist import CONTROL_C, CONTROL_D, typist

AGENT = """
import asyncio
from pathlib import Path
from typing import Any

from holdfast.agent import App, Permanent, Run

app = App("talker")


async def weather(city: str) -> dict[str, str]:
    return {"city": city, "sky": "blue"}


async def linger(gate: str) -> str:
    while not Path(gate).exists():
        await asyncio.sleep(0.01)
    return "opened"


@app.agent("talk")
async def talk(run: Run, payload: dict[str, Any]) -> Any:
    said = payload["message"]
    if said == "fail":
        raise Permanent("that is not to be had")
    if said == "count":
        for number in range(100):
            await run.tool(weather, city=str(number))
    if said.startswith("wait "):
        run.say("waiting")
        return await run.step(linger, said.removeprefix("wait "))
    if said == "weather":
        found = await run.tool(weather, city="Oslo")
        return {"sky": found["sky"], "mood": payload.get("mood")}
    for word in ("You ", "said ", said):
        run.token(word)
    return f"You said {said}"
"""


class Place:
    """A folder, and a suite to speak to."""

    def __init__(self, suite: Suite, folder: Path) -> None:
        self.suite = suite
        self.folder = folder
        self.environment = {"HOLDFAST_ADDRESS": ",".join(suite.invoker_addresses)}

    async def piped(self, *arguments: str, given: str) -> Ended:
        process = await start("chat", "talk", *arguments, folder=self.folder, **self.environment)
        return await finish(process, given)

    def typist(self, *arguments: str) -> Any:
        return typist("chat", "talk", *arguments, folder=self.folder, environment=self.environment)

    async def runs(self, *filters: str) -> list[Any]:
        """List runs, the newest first."""
        listing = await start("runs", "list", "-o", "json", *filters, folder=self.folder, **self.environment)
        return (await finish(listing)).json


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str) -> AsyncIterator[Place]:
    (tmp_path / "talker.py").write_text(AGENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    environments = {"invoker": {"HOLDFAST_BROKEN_STREAM_GRACE": "0.3"}}
    async with Suite(agents=["talker:app"], database_url=database_url, environments=environments) as running:
        yield Place(running, tmp_path)


async def test_a_person_chats_sees_tools_budget_and_ends_and_leaves(place: Place) -> None:
    async with place.typist("--session", "s1", "-d", '{"mood": "fine"}', "--budget", "max_steps=8") as person:
        await person.sees("session s1")
        await person.sees("> ")
        person.type("hello")
        await person.sees("started run ")
        await person.sees("You said hello")
        await person.sees("steps 0/8")
        await person.sees("> ")
        person.type("weather")
        await person.sees('→ weather({"city": "Oslo"})')
        await person.sees('← weather: {"city": "Oslo", "sky": "blue"}')
        await person.sees('"mood": "fine"')
        await person.sees("steps 1/8")
        await person.sees("> ")
        person.type("count")
        await person.sees("PARTIAL")
        await person.sees("out of STEPS")
        await person.sees("100% of steps")
        await person.sees("> ")
        person.type("fail")
        await person.sees("FAILED")
        await person.sees("that is not to be had")
        await person.sees("> ")
        person.press(CONTROL_D)
        assert await person.ended() == 0
    assert [run["session_id"] for run in await place.runs("--session", "s1")] == ["s1"] * 4


async def test_ctrl_c_asks_for_an_interrupt_and_twice_cancels_the_run(place: Place) -> None:
    gate = place.folder / "gate"
    async with place.typist() as person:
        await person.sees("> ")
        person.type(f"wait {gate}")
        await person.sees("waiting\n")
        person.press(CONTROL_C)
        await person.sees("interrupt with (empty: go on, Ctrl-C: cancel the run) > ")
        person.type("")
        await person.sees("going on")
        person.press(CONTROL_C)
        await person.sees("interrupt with (empty: go on, Ctrl-C: cancel the run) > ")
        await person.insists(CONTROL_C, "cancelling the run")
        await person.sees("CANCELLED")
        await person.sees("> ")
        person.press(CONTROL_D)
        assert await person.ended() == 0
    assert [run["status"] for run in await place.runs()] == ["CANCELLED"]


async def test_a_text_at_ctrl_c_goes_to_the_agent_and_the_run_goes_on(place: Place) -> None:
    gate = place.folder / "gate"
    async with place.typist() as person:
        await person.sees("> ")
        person.type(f"wait {gate}")
        await person.sees("waiting\n")
        person.press(CONTROL_C)
        await person.sees("cancel the run) > ")
        person.type("hurry")
        await person.sees("said to the agent")
        gate.touch()
        await person.sees("opened")
        await person.sees("> ")
        person.press(CONTROL_D)
        assert await person.ended() == 0
    assert [run["status"] for run in await place.runs()] == ["SUCCEEDED"]


async def test_an_invoker_that_dies_is_a_line_in_the_chat(place: Place) -> None:
    gate = place.folder / "gate"
    async with place.typist() as person:
        await person.sees("> ")
        person.type(f"wait {gate}")
        await person.sees("waiting\n")
        await place.suite.processes["invoker"].kill()
        await person.sees("connection lost, reconnecting…")
        gate.touch()
        await person.sees("connected again")
        await person.sees("opened")
        await person.sees("> ")
        person.press(CONTROL_D)
        assert await person.ended() == 0


async def test_piped_lines_are_a_run_each_and_the_words_alone_come_out(place: Place) -> None:
    told = await place.piped("--session", "s2", given="hello\n\nweather\nworld\n")
    assert (told.code, told.out) == (
        0,
        'You said hello\n{\n  "mood": null,\n  "sky": "blue"\n}\nYou said world\n',
    )
    assert '→ weather({"city": "Oslo"})' in told.err
    assert len(await place.runs("--session", "s2")) == 3
    hidden = await place.piped("--hide-tools", given="weather")
    assert "weather(" not in hidden.err


async def test_the_exit_code_of_a_pipe_is_its_last_run_s(place: Place) -> None:
    told = await place.piped("--budget", "max_steps=2", given="fail\ncount\n")
    assert (told.code, told.out) == (5, "")
    assert [line for line in told.err.splitlines() if line.isupper()] == ["FAILED", "PARTIAL"]
    assert "out of STEPS" in told.err
    assert (await place.piped(given="hello\nfail\n")).code == 1
    refused = await place.piped("--field", "other", given="hello")
    assert refused.code == 1  # the agent misses its field: an attempt failed for good
    unknown = await start("chat", "nonsense", folder=place.folder, **place.environment)
    assert (await finish(unknown, "hello\n")).code == 3


async def test_a_program_gets_every_update_as_a_line(place: Place) -> None:
    told = await place.piped("-o", "json", given="hello\n")
    assert told.code == 0
    assert told.json[0]["type"] == "started"
    kinds = [line["kind"] for line in told.json if line["type"] == "event"]
    assert (kinds[0], kinds[-1]) == ("accepted", "ended")
    assert "".join(line["data"]["text"] for line in told.json if line.get("kind") == "token") == (
        "You said hello"
    )


async def test_ctrl_c_cancels_the_run_of_a_pipe(place: Place) -> None:
    gate = place.folder / "gate"
    process = await start("chat", "talk", "-o", "json", folder=place.folder, **place.environment)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"wait {gate}\n".encode())
    async with asyncio.timeout(DEADLINE_S):
        while json.loads(await process.stdout.readline()).get("kind") != "said":
            pass
    process.send_signal(signal.SIGINT)
    told = await finish(process)
    assert told.code == 130
    assert told.json[-1]["data"]["outcome"]["status"] == "CANCELLED"
