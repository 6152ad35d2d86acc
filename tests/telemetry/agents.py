"""Agents whose runs are followed from outside: they work, ask a model, use a tool, tell others, and wait."""

import asyncio
import logging
import os
import signal
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from holdfast.agent import App, Permanent, Run, step

app = App("telemetry")
log = logging.getLogger("author")


@dataclass
class Todo:
    """What is to be done; `flag` is a file to die for."""

    topic: str
    flag: str = ""


@step
async def look_up(topic: str) -> str:
    """Find something."""
    log.warning("looking up")
    return topic.upper()


async def search(topic: str) -> str:
    """Search for something."""
    return f"found {topic}"


@step
async def finish(_: str, flag: str = "") -> str:
    """Finish; if told of a file, wait for it and die at once, as a machine does that loses its power."""
    dead = Path(f"{flag}.dead")
    while flag and not dead.exists():
        await asyncio.sleep(0.01)
        if not Path(flag).exists():
            continue
        dead.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


@app.agent("telemetry.work")
async def work(run: Run, todo: Todo) -> str:
    """Do one of each."""
    topic = todo.topic
    found = await run.step(look_up, topic)
    await run.model(f"What is {found}?")
    await run.tool(search, topic=topic)
    run.send("sink", {"topic": topic})
    return await run.step(finish, found, todo.flag)


@app.agent("telemetry.wait")
async def wait(run: Run) -> str:
    """Work before and after a wait that is long enough to be parked."""
    await run.step(look_up, "before")
    await run.sleep(timedelta(seconds=1.5))
    return await run.step(finish, "after")


@app.agent("telemetry.fail")
async def fail(_: Run, todo: Todo) -> str:
    """Fail, and quote what it was given."""
    raise Permanent(f"cannot take {todo.topic}")


@app.agent("telemetry.told")
async def told(_: Run, given: dict[str, Any]) -> dict[str, str]:
    """Accept whatever it is given: an item to judge, one to apply, a change."""
    return {"verdict": "ACCEPT"} if given else {}


@app.agent("telemetry.stuck")
async def stuck(run: Run) -> str:
    """Wait until it is cancelled."""
    await run.receive("never")
    return "never"


@step(attempts=1)
async def call_the_bank(topic: str) -> str:
    """Reach nobody."""
    raise ConnectionError(f"nobody answers about {topic}")


@app.agent("telemetry.shaky")
async def shaky(run: Run, todo: Todo) -> str:
    """Fail each time."""
    return await run.step(call_the_bank, todo.topic)
