"""Services whose clocks are wrong by ten minutes, each another way: nothing is early, late or lost."""

import asyncio
import os
import time
from pathlib import Path

from holdfast.client import Budget, BudgetDimension, RunHandle, RunStatus
from tests.crash.invariant import settled
from tests.crash.world import World

WRONG = {"invoker": 600, "checkpoint": -600, "approval": 600, "runner": -600, "dispatcher": 600}
"""Seconds that a service's clock is ahead."""
SHIFTED = """
import datetime, os, sys, time

_by = float(os.environ["CLOCK_IS_AHEAD"])
_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime


class Shifted(_datetime):
    @classmethod
    def now(cls, tz=None):
        return _datetime.fromtimestamp(_time() + _by, tz)

    @classmethod
    def utcnow(cls):
        return cls.now(datetime.UTC).replace(tzinfo=None)


def _ours():
    # gRPC's own code holds what it is told here against the true clock of its C core.
    return 0 if sys._getframe(2).f_globals.get("__name__", "").startswith("grpc") else _by


time.time = lambda: _time() + _ours()
time.time_ns = lambda: _time_ns() + int(_ours() * 1e9)
datetime.datetime = Shifted
"""
LATE = 6.0
"""Seconds later than wanted that are blamed on the machine, not on a clock."""


async def _took(handle: RunHandle, began: float) -> float:
    await handle.ended(patience=60)
    return time.monotonic() - began


async def test_clocks_that_are_wrong_change_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "shifted"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SHIFTED)
    paths = os.pathsep.join([str(folder), str(Path.cwd())])
    told = {kind: {"PYTHONPATH": paths, "CLOCK_IS_AHEAD": str(by)} for kind, by in WRONG.items()}
    async with World.opened(tmp_path, environments=told, runners=2) as world:
        began = time.monotonic()
        gated = await world.client.invoke("crash.review", {"timeout": 3.0, "escalate": 1.0})
        slept = await world.client.invoke("crash.rest", {"sleep": 3.0})
        hangs = await world.client.invoke("crash.rest", {"sleep": 3600}, budget=Budget(deadline_ms=4000))
        until = await world.client.invoke("crash.rest", {"until": 4.0})
        for each in (slept, until):
            await each.signal("answer", "yes")
        gate, rest, over, clock = await asyncio.gather(
            *(_took(each, began) for each in (gated, slept, hangs, until))
        )
        assert 3.0 <= gate < 3.0 + LATE
        assert 3.0 <= rest < 3.0 + LATE
        assert 4.0 <= over < 4.0 + LATE
        assert 4.0 <= clock < 4.0 + LATE, "a time is the ledger's, too"
        assert await gated.result() == [["TIMED_OUT", [], None]]
        ended = await world.client.get_run(hangs.run_id)
        assert ended.outcome is not None
        assert (ended.status, ended.outcome.exhausted) == (RunStatus.PARTIAL, BudgetDimension.DEADLINE)
        await settled(world)
        seen = [await world.client.get_run(each.run_id) for each in (gated, slept, hangs)]
        for run in seen:
            assert run.create_time is not None
            assert abs(run.create_time.timestamp() - time.time()) < 60, "times are the ledger's"
