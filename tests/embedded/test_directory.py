"""A data directory is one server's, is kept or leaves nothing, and is never taken from someone else."""

import asyncio
import os
import signal
import tempfile
import threading
from pathlib import Path

import asyncpg
import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from holdfast.embedded import DirectoryInUseError, EmbeddedError, EmbeddedPostgres, StartError
from holdfast.embedded.account import choose_account
from holdfast.embedded.binaries import find_binaries
from holdfast.embedded.directory import open_ephemeral
from holdfast.embedded.socket import socket_folder
from tests.embedded.conftest import DEADLINE_S, Spawn, StartParent, gone


async def show(url: str, *names: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return [await connection.fetchval(f"SHOW {name}") for name in names]
    finally:
        await connection.close()


async def test_an_ephemeral_server_leaves_nothing_behind() -> None:
    async with EmbeddedPostgres(ephemeral=True) as server:
        directory = server.data_directory
        process = psutil.Process(server.pid)
        family = [process, *process.children(recursive=True)]
        assert await server.create_database("holdfast")
        assert (await show(server.url(), "server_encoding")) == ["UTF8"]
    assert not directory.exists()
    assert not socket_folder(directory).exists()
    assert gone(family)


def test_what_a_start_or_a_stop_left_half_done_is_removed_after_a_minute(
    reachable_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(reachable_folder))
    old, fresh = (
        reachable_folder / f".holdfast-ephemeral-{os.geteuid()}-{name}" for name in ("old", "fresh")
    )
    for hidden in (old, fresh):
        hidden.mkdir()
    os.utime(old, (0, 0))
    reachable_folder.chmod(0o1777)

    directory = open_ephemeral(choose_account(None))

    assert (old.exists(), fresh.exists()) == (False, True)
    directory.release()
    assert list(reachable_folder.iterdir()) == [fresh]


async def test_as_root_no_link_laid_into_the_directory_is_written_through(data_directory: Path) -> None:
    precious = data_directory.with_name("precious")
    for name in ("lock", "postgres.log"):
        precious.write_text("mine")
        (data_directory / name).unlink()
        (data_directory / name).symlink_to(precious)
        with pytest.raises((EmbeddedError, OSError)):
            await EmbeddedPostgres(data_directory).start()
        assert precious.read_text() == "mine"
        (data_directory / name).unlink()
        (data_directory / name).touch()


async def test_data_is_kept_from_one_start_to_the_next(data_directory: Path) -> None:
    async with EmbeddedPostgres(data_directory) as server:
        await server.create_database("made_in_the_first_life", template="holdfast")
    assert not (data_directory / "run").exists()
    async with EmbeddedPostgres(data_directory) as server:
        assert not await server.create_database("made_in_the_first_life")
        await server.drop_database("made_in_the_first_life")
        await server.drop_database("made_in_the_first_life")
        assert await server.create_database("made_in_the_first_life")


async def test_it_is_durable_and_reachable_through_its_socket_alone(data_directory: Path) -> None:
    async with EmbeddedPostgres(data_directory) as server:
        names = (
            "fsync",
            "synchronous_commit",
            "full_page_writes",
            "listen_addresses",
            "jit",
            "server_version_num",
        )
        *durable, addresses, jit, version = await show(server.url("postgres"), *names)
        assert durable == ["on", "on", "on"]
        assert (addresses, jit, version[:2]) == ("", "off", "18")
        assert not psutil.Process(server.pid).net_connections(kind="inet")
        for private in (data_directory, data_directory / "run", data_directory / "cluster"):
            assert private.stat().st_mode & 0o077 == 0


async def test_the_url_is_understood_by_sqlalchemy_and_psql(data_directory: Path) -> None:
    async with EmbeddedPostgres(data_directory) as server:
        await server.create_database('odd "name" / %')
        url = server.url('odd "name" / %')
        engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:", 1))
        async with engine.connect() as connection:
            assert (await connection.execute(text("SELECT upper('é')"))).scalar() == "É"
        await engine.dispose()

        psql = find_binaries(choose_account(data_directory)).folder / "psql"
        process = await asyncio.create_subprocess_exec(
            psql, url, "-Atc", "SELECT current_database()", stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert output.decode() == 'odd "name" / %\n'


async def test_a_second_server_on_the_directory_is_refused_naming_directory_and_process(
    start_parent: StartParent, spawn: Spawn, data_directory: Path
) -> None:
    parent = await start_parent(data_directory)
    with pytest.raises(DirectoryInUseError) as refused:
        await EmbeddedPostgres(data_directory).start()
    assert (
        str(refused.value)
        == f"The data directory {data_directory} is in use by process {parent.process.pid}."
    )

    second = await spawn(data_directory)
    _, error = await asyncio.wait_for(second.communicate(), DEADLINE_S)
    assert second.returncode == 3
    assert error.decode().strip() == str(refused.value)
    assert psutil.pid_exists(parent.pid)


async def test_of_many_that_start_at_once_exactly_one_gets_the_directory(new_directory: Path) -> None:
    servers = [EmbeddedPostgres(new_directory) for _ in range(4)]
    outcomes = await asyncio.gather(*(server.start() for server in servers), return_exceptions=True)
    try:
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [DirectoryInUseError] * 3
    finally:
        for server in servers:
            await server.stop()


async def test_a_path_too_long_for_a_socket_gets_one_elsewhere(reachable_folder: Path) -> None:
    directory = reachable_folder / ("long" * 20) / ("longer" * 10)
    directory.parent.mkdir(mode=0o755)
    sockets = socket_folder(directory)
    assert not sockets.is_relative_to(directory)
    async with EmbeddedPostgres(directory) as server:
        assert len(os.fsencode(sockets / ".s.PGSQL.5432")) <= 107
        assert sockets.stat().st_mode & 0o077 == 0
        assert await show(server.url("postgres"), "port") == ["5432"]
    assert not sockets.exists()


async def test_a_folder_with_other_peoples_files_is_refused_and_left_alone(reachable_folder: Path) -> None:
    folder = reachable_folder / "precious"
    folder.mkdir(mode=0o755)
    (folder / "thesis.txt").write_text("chapter one")
    before = folder.stat()
    with pytest.raises(EmbeddedError, match="is not empty and holds no Holdfast data"):
        await EmbeddedPostgres(folder).start()
    assert (folder.stat().st_mode, folder.stat().st_uid) == (before.st_mode, before.st_uid)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


async def test_a_file_is_no_data_directory(reachable_folder: Path) -> None:
    path = reachable_folder / "file"
    path.write_text("")
    with pytest.raises(EmbeddedError, match="is not a directory"):
        await EmbeddedPostgres(path).start()


async def test_data_of_another_major_version_is_refused(data_directory: Path) -> None:
    async with EmbeddedPostgres(data_directory):
        pass
    (data_directory / "cluster" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedError, match="holds data of PostgreSQL 16; this is PostgreSQL 18"):
        await EmbeddedPostgres(data_directory).start()


async def test_a_failing_start_shows_the_end_of_the_log_and_frees_the_directory(data_directory: Path) -> None:
    with pytest.raises(StartError, match='invalid value for parameter "shared_buffers"'):
        await EmbeddedPostgres(data_directory, settings={"shared_buffers": "plenty"}).start()
    async with EmbeddedPostgres(data_directory, settings={"work_mem": "5MB"}) as server:
        assert await show(server.url("postgres"), "work_mem") == ["5MB"]


async def test_a_pid_file_whose_number_another_process_has_by_now_does_not_hinder(
    data_directory: Path,
) -> None:
    async with EmbeddedPostgres(data_directory):
        pass
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    left = data_directory / "cluster" / "postmaster.pid"
    left.write_text(f"{bystander.pid}\n{data_directory / 'cluster'}\n0\n5432\n\n\n\n")
    left.chmod(0o644)
    async with EmbeddedPostgres(data_directory) as server:
        assert server.pid != bystander.pid
    assert bystander.returncode is None
    bystander.send_signal(signal.SIGKILL)
    await bystander.wait()


async def test_a_cancelled_start_leaves_nothing_running_or_locked(new_directory: Path) -> None:
    starting = asyncio.create_task(EmbeddedPostgres(new_directory).start())
    async with asyncio.timeout(DEADLINE_S):
        while not (new_directory / "cluster.new").exists():  # noqa: ASYNC110 — another process makes it
            await asyncio.sleep(0.002)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    async with EmbeddedPostgres(new_directory) as server:
        assert await server.create_database("holdfast")


def test_a_start_outside_the_main_thread_is_refused(data_directory: Path) -> None:
    errors: list[Exception] = []

    def start() -> None:
        try:
            asyncio.run(EmbeddedPostgres(data_directory).start())
        except EmbeddedError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert [str(error) for error in errors] == [
        "The embedded PostgreSQL must be started from the main thread."
    ]


def test_an_ephemeral_server_with_a_directory_is_a_contradiction(data_directory: Path) -> None:
    with pytest.raises(ValueError, match="no data directory"):
        EmbeddedPostgres(data_directory, ephemeral=True)
