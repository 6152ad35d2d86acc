"""A PostgreSQL ends with its parent, whatever ends that, and comes back when it ends alone."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil
import pytest

from holdfast.embedded import EmbeddedPostgres
from tests.embedded.conftest import Parent, Spawn, StartParent, gone, until

BUSY = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b"


async def insert(url: str, value: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
        await connection.execute("INSERT INTO kept VALUES ($1)", value)
    finally:
        await connection.close()


async def values(url: str) -> list[int]:
    connection = await asyncpg.connect(url)
    try:
        return [row["value"] for row in await connection.fetch("SELECT value FROM kept ORDER BY value")]
    finally:
        await connection.close()


async def busy_session(url: str) -> tuple[asyncpg.Connection, "asyncio.Task[object]"]:
    """Open a session that computes without end."""
    connection = await asyncpg.connect(url)
    watcher = await asyncpg.connect(url)
    task: asyncio.Task[object] = asyncio.create_task(connection.execute(BUSY))
    pid = connection.get_server_pid()
    computing = "SELECT true FROM pg_stat_activity WHERE pid = $1 AND query = $2 AND state = 'active'"
    async with asyncio.timeout(10):
        while not await watcher.fetchval(computing, pid, BUSY):  # noqa: ASYNC110 — it is another process
            await asyncio.sleep(0.005)
    await watcher.close()
    return connection, task


async def forget(connection: asyncpg.Connection, task: "asyncio.Task[object]") -> None:
    with suppress(OSError, asyncpg.PostgresError):
        await task
    connection.terminate()


async def test_the_server_and_its_children_die_with_a_killed_parent(
    start_parent: StartParent, data_directory: Path
) -> None:
    parent = await start_parent(data_directory)
    connection, task = await busy_session(parent.url)
    family = parent.family()
    assert len(family) > 3

    await parent.kill()

    await until(lambda: gone(family), 5)
    assert not list((parent.directory / "run").iterdir())
    await forget(connection, task)


async def test_a_parent_may_be_killed_at_any_moment_of_the_first_start(
    spawn: Spawn, new_directory: Path
) -> None:
    for landmark in (
        "lock",
        "cluster.new/PG_VERSION",
        "cluster",
        "cluster/postmaster.pid",
        "run/.s.PGSQL.5432",
    ):
        process = await spawn(new_directory)
        await until((new_directory / landmark).exists)
        process.kill()
        await process.wait()
        await until(lambda: not standing_in(new_directory))

    async with EmbeddedPostgres(new_directory) as server:
        assert await server.create_database("holdfast")


def standing_in(directory: Path) -> list[int]:
    """Processes that stand in the cluster or have its path among their arguments."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            if process.cwd().startswith(str(directory)) or any(
                str(directory) in a for a in process.cmdline()
            ):
                found.append(process.pid)
    return found


async def test_what_was_committed_survives_the_parents_sigkill_and_the_directory_is_free_at_once(
    start_parent: StartParent, data_directory: Path
) -> None:
    parent = await start_parent(data_directory)
    await insert(parent.url, 1)
    await parent.kill()

    # At once: the former server may still be ending.
    async with EmbeddedPostgres(data_directory) as server:
        assert await values(server.url()) == [1]


async def test_a_computing_session_left_by_a_killed_server_and_parent_does_not_block_the_next_start(
    start_parent: StartParent, data_directory: Path
) -> None:
    parent = await start_parent(data_directory)
    connection, task = await busy_session(parent.url)
    backend = psutil.Process(connection.get_server_pid())
    # Both at once: nobody is left to tell the session.
    psutil.Process(parent.process.pid).suspend()
    os.kill(parent.pid, signal.SIGKILL)
    await parent.kill()
    assert backend.is_running()

    async with EmbeddedPostgres(data_directory) as server:
        await insert(server.url(), 1)
        assert gone([backend])
    await forget(connection, task)


async def test_a_killed_server_comes_back_with_what_it_acknowledged(data_directory: Path) -> None:
    async with EmbeddedPostgres(data_directory) as server:
        for value in range(3):
            await insert(server.url(), value)
            former = server.pid
            await server.kill()
            await server.ready()
            assert server.pid != former
        assert await values(server.url()) == [0, 1, 2]


async def test_a_killed_server_comes_back_although_a_session_still_computes(data_directory: Path) -> None:
    async with EmbeddedPostgres(data_directory) as server:
        connection, task = await busy_session(server.url())
        backend = psutil.Process(connection.get_server_pid())

        await server.kill()
        await server.ready()

        assert gone([backend])
        await forget(connection, task)


async def test_a_killed_session_is_postgresqls_own_affair(data_directory: Path) -> None:
    async with EmbeddedPostgres(data_directory) as server:
        await insert(server.url(), 1)
        connection = await asyncpg.connect(server.url())
        former = server.pid
        os.kill(connection.get_server_pid(), signal.SIGKILL)
        await until(connection.is_closed)

        assert await values_when_up(server) == [1]
        assert server.pid == former


async def values_when_up(server: EmbeddedPostgres) -> list[int]:
    async with asyncio.timeout(10):
        while True:
            try:
                return await values(server.url())
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError):
                await asyncio.sleep(0.01)


async def test_a_restart_on_demand_keeps_the_data_and_the_url(data_directory: Path) -> None:
    async with EmbeddedPostgres(data_directory) as server:
        url = server.url()
        await insert(url, 1)
        await server.restart()
        assert server.url() == url
        assert await values(url) == [1]


async def test_ctrl_c_in_the_terminal_reaches_the_parent_alone(data_directory: Path) -> None:
    async with EmbeddedPostgres(data_directory) as server:
        assert os.getsid(server.pid) != os.getsid(0)
        assert os.getpgid(server.pid) != os.getpgid(0)


async def test_stopping_while_it_is_coming_back_leaves_no_process(data_directory: Path) -> None:
    server = EmbeddedPostgres(data_directory)
    await server.start()
    await server.kill()
    await server.stop()
    await server.stop()
    assert not standing_in(data_directory)
    with pytest.raises(Exception, match="is not running"):
        _ = server.pid


async def test_what_a_killed_ephemeral_parent_leaves_is_removed_at_the_next_start(
    start_parent: StartParent, reachable_folder: Path
) -> None:
    reachable_folder.chmod(0o1777)
    killed = await start_parent(tmp=reachable_folder)
    alive = await start_parent(tmp=reachable_folder)
    family = killed.family()
    await killed.kill()
    assert killed.directory.is_dir()
    await until(lambda: gone(family))

    third = await start_parent(tmp=reachable_folder)

    assert not killed.directory.exists()
    assert alive.directory.is_dir()
    assert await is_up(alive)
    assert await is_up(third)


async def is_up(parent: Parent) -> bool:
    connection = await asyncpg.connect(parent.url)
    await connection.close()
    return True
