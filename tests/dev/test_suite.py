"""The suite stands as a whole, heals what dies, and leaves nothing behind."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable

import asyncpg
import psutil
import pytest

from holdfast.client import Client
from holdfast.dev import PortBusyError, Suite, SuiteError
from holdfast.dev.database import acting_as

DEADLINE_S = 60.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - a state of other processes
            await asyncio.sleep(0.02)


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def runs(address: str) -> list[str]:
    async with Client(address) as client:
        return [run.run_id async for run in client.list_runs()]


async def test_all_services_stand_heal_and_are_gone_together() -> None:
    async with Suite(agents=[], runners=0, invokers=2) as suite:
        assert set(suite.addresses) == {"invoker", "invoker-2", "checkpoint", "approval", "dispatcher"}
        assert len(set(suite.addresses.values())) == 5
        for address in suite.invoker_addresses:
            assert await runs(address) == []
        invoker = suite.processes["invoker"]
        before = invoker.pid
        await invoker.kill()
        await until(lambda: invoker.ready and invoker.starts == 2)
        assert await runs(suite.invoker_addresses[0]) == []
        assert invoker.pid != before
        assert suite.postgres is not None
        await suite.postgres.kill()
        await suite.postgres.ready()
        assert await runs(suite.invoker_addresses[1]) == []
        assert "invoker died (signal 9)" in suite.log("invoker")
        pids = [process.pid for process in suite.processes.values()] + [suite.postgres.pid]
    assert not [pid for pid in pids if lives(pid)]


async def test_without_supervision_the_dead_stay_dead(database_url: str) -> None:
    async with Suite(agents=[], runners=0, database_url=database_url, supervise=False) as suite:
        assert suite.postgres is None
        checkpoint = suite.processes["checkpoint"]
        os.kill(checkpoint.pid, signal.SIGKILL)
        assert await asyncio.wait_for(checkpoint.exited(), DEADLINE_S) == -9
        assert not checkpoint.running
        await checkpoint.start()
        assert checkpoint.running


async def test_a_service_that_cannot_start_takes_the_whole_suite_down(database_url: str) -> None:
    environments = {"checkpoint": {"HOLDFAST_DATABASE_POOL": "none"}}
    suite = Suite(agents=[], runners=0, database_url=database_url, environments=environments)
    with pytest.raises(
        SuiteError, match=r"checkpoint ended while starting \(code 2\):\nHOLDFAST_DATABASE_POOL"
    ):
        await suite.start()
    assert not [process for process in suite.processes.values() if process.running]


async def test_a_busy_port_is_refused_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        suite = Suite(agents=[], runners=0, port=holder.getsockname()[1])
        with pytest.raises(PortBusyError):
            await suite.start()
    assert suite.processes == {}


async def test_a_database_that_does_not_answer_is_a_sentence() -> None:
    suite = Suite(agents=[], database_url="postgresql://nobody@127.0.0.1:9/none")
    with pytest.raises(SuiteError, match="The database cannot be used"):
        await suite.start()


async def test_a_service_acts_under_its_own_role(database_url: str) -> None:
    connection = await asyncpg.connect(
        acting_as(database_url, "pg_monitor"), server_settings={"application_name": "x"}
    )
    try:
        assert await connection.fetchval("SELECT current_user") == "pg_monitor"
    finally:
        await connection.close()
