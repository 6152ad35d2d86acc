"""The Python service Restate calls: the same tiny steps, each journaled before the next begins."""
# mypy: disable-error-code="import-not-found,untyped-decorator"
# Restate's SDK is at hand only in the peer's own environment.

import asyncio
import os
import time
from pathlib import Path

import restate

bench = restate.Service("Bench")


async def tiny(number: int) -> int:
    """Do a step's least work."""
    return number + 1


def note_arrival(path: Path) -> bool:
    """Note which process is here, and when; return whether it is the first."""
    first = not path.exists()
    with path.open("a") as lines:
        print(os.getpid(), time.monotonic(), file=lines)
    return first


async def hang_once(journal: str) -> int:
    """Never return to the first that executes this, so that it can be killed in the middle."""
    if note_arrival(Path(journal)):
        await asyncio.sleep(600)
    return 0


@bench.handler()
async def w1(ctx: restate.Context, number: int) -> int:
    """Run three steps."""
    first: int = await ctx.run_typed("first", tiny, number=number)
    second: int = await ctx.run_typed("second", tiny, number=first)
    third: int = await ctx.run_typed("third", tiny, number=second)
    return third


@bench.handler()
async def w2(ctx: restate.Context, number: int) -> int:
    """Run one step."""
    only: int = await ctx.run_typed("only", tiny, number=number)
    return only


@bench.handler()
async def interrupted(ctx: restate.Context, journal: str) -> int:
    """Finish one step, then be in the middle of another when the process is killed."""
    await ctx.run_typed("before", tiny, number=0)
    hung: int = await ctx.run_typed("hang", hang_once, journal=journal)
    return hung


app = restate.app([bench])
