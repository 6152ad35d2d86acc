"""Sagas whose processes die at any moment, also while they are undone: all is, the newest first (7)."""

import asyncio
import random
from itertools import groupby
from pathlib import Path

import pytest

from holdfast.client import RunStatus
from tests.crash.evidence import Evidence
from tests.crash.havoc import ROUNDS, say, wreak
from tests.crash.invariant import kept_of, settled
from tests.crash.world import World


@pytest.mark.timeout(120 + 60 * ROUNDS)
@pytest.mark.parametrize("seed", [7, 77])
async def test_sagas_are_undone_whatever_dies(tmp_path: Path, seed: int) -> None:
    say(f"seed {seed}")
    chance = random.Random(seed)
    async with World.opened(tmp_path, invokers=2) as world:
        ids: list[str] = []
        havoc = asyncio.create_task(wreak(world, seed, 8 * ROUNDS))
        while not havoc.done():
            handle = await chance.choice(world.clients).invoke(
                "crash.saga", {"steps": chance.randint(1, 4), "pause": chance.uniform(0, 0.1)}
            )
            ids.append(handle.run_id)
            if chance.random() < 0.3:
                await chance.choice(world.clients).cancel(chance.choice(ids))
            await asyncio.sleep(0.05)
        await havoc
        say(f"{len(ids)} sagas")
        await settled(world)
        ends = {run_id: (await world.client.get_run(run_id)).status for run_id in ids}
        early = [run_id for run_id, status in ends.items() if status is RunStatus.CANCELLED]
        for run_id in early:
            assert not world.deeds(run_id), "only what had done nothing ends without being undone"
        undone = [run_id for run_id in ids if run_id not in early]
        evidence = await kept_of(world, undone, RunStatus.COMPENSATED)
        for run_id in undone:
            _undone_in_order(evidence, run_id)


def _undone_in_order(evidence: Evidence, run_id: str) -> None:
    """What was executed was undone, the last first, and nothing again after another was begun."""
    deeds = [deed for deed in evidence.deeds if deed.run_id == run_id]
    executed = list(dict.fromkeys(deed.step for deed in deeds if deed.what == "executed"))
    undone = [key for key, _ in groupby(deed.step for deed in deeds if deed.what == "undone")]
    records = [record.key for record in evidence.records[run_id]]
    begun = {key.removeprefix("!undo/") for key in records if key.startswith("!undo/")}
    assert set(executed) <= begun, f"{run_id}: what was executed is undone"
    assert undone == sorted(begun, key=_number, reverse=True), f"{run_id}: the newest first"


def _number(key: str) -> int:
    return int(key.partition("#")[2] or 1)
