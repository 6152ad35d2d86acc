"""A session through crashes: its runs one at a time, in order, each heard exactly once by those after it."""

import asyncio
from itertools import groupby
from pathlib import Path

from holdfast.client import RunHandle, RunStatus
from tests.crash.world import World

RUNS = 20


async def test_a_session_survives_its_runner_and_its_invoker_in_order_and_alone(tmp_path: Path) -> None:
    async with World.opened(tmp_path, invokers=2) as world:

        async def invoke(number: int) -> RunHandle:
            return await world.clients[number % 2].invoke("crash.chat", session_id="s")

        invoking = [asyncio.create_task(invoke(number)) for number in range(RUNS)]
        await world.until(lambda: started(world) >= 4, "a fourth run has started")
        victim = world.runner_of(world.deeds()[-1])
        await victim.kill()
        await victim.start()
        await world.until(lambda: started(world) >= 8, "an eighth run has started")
        invoker = world.suite.processes["invoker"]
        await invoker.kill()
        await invoker.start()
        handles = await asyncio.gather(*invoking)
        ended = [await handle.ended(patience=60) for handle in handles]
        assert {run.status for run in ended} == {RunStatus.SUCCEEDED}
        admitted = [run.run_id async for run in world.clients[1].list_runs(session_id="s")][::-1]
        assert len(admitted) == RUNS
        assert [run_id for run_id, _ in groupby(deed.run_id for deed in world.deeds())] == admitted
        session = await world.clients[1].sessions.get("s")
        assert session.state == {"heard": admitted}
        assert (session.version, session.run_id) == (RUNS, admitted[-1])
        results = {run.run_id: run.outcome.result for run in ended if run.outcome is not None}
        assert results == {run_id: admitted[: n + 1] for n, run_id in enumerate(admitted)}
        assert max(run.attempt for run in ended) > 1, "nobody was killed in the middle of a run"


def started(world: World) -> int:
    return len({deed.run_id for deed in world.deeds() if deed.what == "started"})
