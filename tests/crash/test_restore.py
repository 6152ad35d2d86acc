"""A dump taken while work goes on is a ledger to go on from: the drill of docs/operating.md."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from holdfast.client import EffectStatus, RunStatus
from holdfast.embedded import EmbeddedPostgres
from holdfast.embedded.account import Account
from holdfast.embedded.binaries import find_binaries
from holdfast.ledger.migrate import migrate, status
from tests.crash.evidence import collect
from tests.crash.invariant import settled
from tests.crash.load import Load
from tests.crash.world import World


async def run(program: str, *arguments: str | Path) -> None:
    """Run one of PostgreSQL's programs."""
    path = find_binaries(Account(os.geteuid(), os.getegid())).folder / program
    process = await asyncio.create_subprocess_exec(path, *arguments, stderr=asyncio.subprocess.PIPE)
    _, error = await process.communicate()
    assert process.returncode == 0, error.decode()


async def dumped(folder: Path, dump: Path) -> tuple[set[str], set[str]]:
    """Dump a ledger under load, and lose it; return the runs acknowledged before, and the keys received."""
    folder.mkdir()
    async with World.opened(folder, invokers=2) as world:
        load = Load(world, seed=5)
        sending = asyncio.create_task(load.send(60))
        await world.until(lambda: len(load.run_ids) >= 20, "twenty runs are acknowledged")
        before = load.run_ids
        await run("pg_dump", "--format=custom", "--file", dump, world.suite.database_url)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await load.forsake()
        return before, {each["idempotency_key"] for each in world.receiver.received()}


@pytest.mark.timeout(300)
async def test_every_run_of_a_dump_comes_to_its_end_in_the_ledger_made_of_it(tmp_path: Path) -> None:
    dump = tmp_path / "holdfast.dump"
    before, received = await dumped(tmp_path / "lost", dump)
    async with EmbeddedPostgres(ephemeral=True) as server:
        for name in ("empty", "holdfast"):
            await server.create_database(name)
        await migrate(server.url("empty"))  # makes the roles
        url = server.url("holdfast")
        await run("pg_restore", "--exit-on-error", "--dbname", url, dump)
        assert all(each.apply_time for each in await status(url))
        restored = tmp_path / "restored"
        restored.mkdir()
        async with World.opened(restored, invokers=2, database_url=url) as world:
            await settled(world)
            evidence = await collect(world, before)
            assert evidence.contradictions == []
            assert evidence.leftovers == {}
            assert set(evidence.runs) == before
            assert {run["status"] for run in evidence.runs.values()} == {RunStatus.SUCCEEDED}
            assert {effect.status for effect in evidence.effects} <= {EffectStatus.DELIVERED}
            received |= {each["idempotency_key"] for each in world.receiver.received()}
            assert {effect.idempotency_key for effect in evidence.effects} <= received
            _recorded_once(list(evidence.records.values()))


def _recorded_once(of_runs: Sequence[Sequence[object]]) -> None:
    for records in of_runs:
        keys = [record.key for record in records]  # type: ignore[attr-defined]
        assert len(keys) == len(set(keys))
