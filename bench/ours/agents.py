"""The measured agents: steps of next to no work, and one that waits to be killed."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from holdfast.agent import App, Run, step

app = App("bench")


async def add(number: int) -> int:
    """Do next to nothing."""
    return number + 1


async def linger(mark: str) -> str:
    """Say where the run is, then wait long enough to be killed; the second time, return at once."""
    if _said(Path(mark)):
        return "resumed"
    await asyncio.sleep(60)
    return "never killed"


def _said(mark: Path) -> bool:
    """Write which process is at the step; True if another was there before."""
    before = mark.exists()
    place = mark.with_suffix(".resumed") if before else mark
    place.write_text(str(os.getpid()))
    return before


repeatable = step(repeatable=True)(add)


@app.agent("w1")
async def three(run: Run, payload: dict[str, Any]) -> int:
    """Three steps."""
    number = await run.step(add, int(payload["number"]))
    number = await run.step(add, number)
    return await run.step(add, number)


@app.agent("w1_repeatable")
async def three_repeatable(run: Run, payload: dict[str, Any]) -> int:
    """Three steps whose commits are pipelined."""
    number = await run.step(repeatable, int(payload["number"]))
    number = await run.step(repeatable, number)
    return await run.step(repeatable, number)


@app.agent("w2")
async def one(run: Run, payload: dict[str, Any]) -> int:
    """One step."""
    return await run.step(add, int(payload["number"]))


async def think(number: int) -> int:
    """Wait as long as a quick model takes."""
    await asyncio.sleep(0.5)
    return number + 1


@app.agent("w2_thinking")
async def one_thinking(run: Run, payload: dict[str, Any]) -> int:
    """One step that waits as for a model: how much is done at once is for the runner's slots to say."""
    return await run.step(think, int(payload["number"]))


@app.agent("w2_light", light=True)
async def one_light(run: Run, payload: dict[str, Any]) -> int:
    """One step, as a light item of a batch."""
    return await run.step(add, int(payload["number"]))


@app.agent("w4_tokens")
async def tokens(run: Run, payload: dict[str, Any]) -> None:
    """Tokens at a steady pace, each saying when it was told."""
    began = time.perf_counter()
    for number in range(int(payload["tokens"])):
        run.token(f"{time.perf_counter()} ")
        await asyncio.sleep(max(0.0, began + (number + 1) * payload["pause"] - time.perf_counter()))


@app.agent("w4_model")
async def model(run: Run) -> None:
    """One long model call."""
    await run.model("Speak.", max_tokens=100_000)


async def stamp() -> float:
    """Say when this step was begun."""
    return time.perf_counter()


@app.agent("stamped")
async def stamped(run: Run) -> float:
    """Say when it was begun."""
    return await run.step(stamp)


@app.agent("woken")
async def woken(run: Run) -> str:
    """Nothing: what is measured is how it comes here."""
    return run.id


@app.agent("long")
async def long(run: Run, payload: dict[str, Any]) -> float:
    """Many steps, a wait, and a step that says when it came to it."""
    for number in range(int(payload["steps"])):
        await run.step(repeatable, number)
    await run.receive("go")
    return await run.step(stamp)


@app.agent("gated")
async def gated(run: Run) -> float:
    """Ask people, and say when the step after that was begun."""
    await run.approval("gate", approvers=["group:underwriters"], timeout=3600.0)
    return await run.step(stamp)


@app.agent("recovery")
async def recovery(run: Run, payload: dict[str, Any]) -> str:
    """One finished step, then one in which the runner is killed."""
    await run.step(add, 1)
    return await run.step(linger, str(payload["mark"]))
