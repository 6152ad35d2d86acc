"""Invokers die while they read sources and fire schedules of batches: nothing comes twice or is left out."""

import asyncio
import itertools
import os
import random
from datetime import timedelta
from pathlib import Path

import pytest

from holdfast.client import BatchSource, BatchSpec, BatchStatus, FireResult, Invocation, Schedule, Timing
from holdfast.invoker.source_reader import CHUNK
from tests.crash.test_clock import SHIFTED
from tests.crash.world import World
from tests.support.item_source import declare, fill
from tests.support.ledger import fetch

ROWS = CHUNK * 12 + 7
SCHEDULES = 4
FEW = 5
WORK = Invocation("crash.work", {"steps": 1, "pause": 0, "effects": False})


def told(folder: Path, url: str) -> dict[str, str]:
    """Return what an Invoker's environment says of the sources."""
    settings = declare(folder, url)
    return {f"HOLDFAST_{name.upper()}": str(value) for name, value in settings.items()}


@pytest.mark.timeout(300)
async def test_a_source_is_read_whole_though_whoever_reads_it_dies_after_every_few_chunks(
    tmp_path: Path, empty_database_url: str
) -> None:
    keys = [f"{n:06}" for n in range(ROWS)]
    await fill(empty_database_url, *((key, key) for key in keys))
    mortal = {"HOLDFAST_CRASH_AT": "invoker.source_stored:4", **told(tmp_path, empty_database_url)}
    async with World.opened(tmp_path, invokers=3, environments={"invoker": mortal}) as world:
        source = BatchSource("accounts", {"region": "emea"})
        await world.client.batches.create(BatchSpec(WORK, source=source))
        deaths = 0
        async with world.ledger() as db:

            async def ready() -> bool:
                nonlocal deaths
                for name in world.suite.processes:
                    process = world.suite.processes[name]
                    if name.startswith("invoker") and not process.running:
                        deaths += 1
                        await process.start()
                (row,) = await fetch(db, "SELECT status FROM batch")
                return BatchStatus(row["status"]) is BatchStatus.READY

            await world.until(ready, "all rows are items", patience=200)
            assert deaths >= 3
            rows = await fetch(db, "SELECT index, key FROM batch_input ORDER BY index")
            assert [tuple(row) for row in rows] == list(enumerate(keys))
            assert [row["n"] for row in await fetch(db, "SELECT n FROM batch_count")] == [ROWS]


@pytest.mark.timeout(240)
async def test_invokers_that_die_at_random_make_the_batch_of_each_time_once(
    tmp_path: Path, empty_database_url: str
) -> None:
    await fill(empty_database_url, *((f"{n}", f"{n}") for n in range(FEW)))
    folder = tmp_path / "shifted"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SHIFTED)
    wrong = {"PYTHONPATH": os.pathsep.join([str(folder), str(Path.cwd())]), "CLOCK_IS_AHEAD": "600"}
    wrong |= told(tmp_path, empty_database_url)
    spec = BatchSpec(WORK, skip_staging=True, source=BatchSource("accounts", {"region": "emea"}))
    async with World.opened(tmp_path, invokers=3, environments={"invoker": wrong}) as world:
        names = [f"s{n}" for n in range(SCHEDULES)]
        for name in names:
            schedule = Schedule(name, Timing(every=4), batch=spec, catch_up=600)
            await world.client.schedules.create(schedule)
        chance = random.Random(11)
        invokers = [name for name in world.suite.processes if name.startswith("invoker")]
        for _ in range(7):
            await asyncio.sleep(chance.uniform(0.3, 1.5))  # the moment is the point
            process = world.suite.processes[chance.choice(invokers)]
            await process.kill()
            await process.start()

        async def started(name: str) -> dict[str, int]:
            fires = (await world.client.schedules.get(name)).recent_fires
            times = [str(one.scheduled_time) for one in fires if one.result is FireResult.STARTED]
            assert len(times) == len(set(times)), "each time once"
            return dict.fromkeys(times, 1)

        async def enough() -> bool:
            return all([len(await started(name)) >= 3 for name in names])

        await world.until(enough, "every schedule has made three batches", patience=120)
        for name in names:
            await world.client.schedules.pause(name)

        async def over() -> bool:
            found = [batch async for batch in world.client.batches.list()]
            return all(batch.status is BatchStatus.COMPLETED for batch in found)

        await world.until(over, "every batch is over", patience=120)
        found = [batch async for batch in world.client.batches.list()]
        made = [(batch.schedule, batch.uploaded_items) for batch in found]
        assert {items for _, items in made} == {FEW}
        for name in names:
            fires = (await world.client.schedules.get(name)).recent_fires
            ids = {one.batch_id for one in fires if one.result is FireResult.STARTED}
            assert len(ids) == sum(schedule == name for schedule, _ in made), "no batch without its time"
            times = sorted(one.scheduled_time for one in fires if one.scheduled_time)
            gaps = {later - earlier for earlier, later in itertools.pairwise(times)}
            assert gaps <= {timedelta(seconds=4)}, "none left out"
