"""PostgreSQL never runs as root, and no folder's mode is changed to make that so."""

import asyncio
import importlib
import os
import shutil
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from holdfast.embedded import EmbeddedError, EmbeddedPostgres
from holdfast.embedded.account import Account, choose_account
from holdfast.embedded.binaries import find_binaries
from tests.embedded.conftest import DEADLINE_S, Spawn, StartParent, as_user, gone, until

NOBODY = Account(65534, 65534)
DAEMON = 1  # an account every system names

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root hands PostgreSQL to another account")


def can_be_another_user() -> bool:
    """PostgreSQL asks whether it may execute its programs in a way that capabilities do not answer."""
    programs = find_binaries(Account(os.geteuid(), os.getegid()))
    if os.geteuid() != 0 or not NOBODY.can_reach(programs.postgres):
        return False
    return subprocess.run([*as_user(NOBODY.uid), "true"], check=False).returncode == 0


as_another_user = pytest.mark.skipif(
    not can_be_another_user(), reason="needs root, and a checkout that another user may read"
)


@as_root
async def test_as_root_the_server_runs_as_nobody(new_directory: Path) -> None:
    async with EmbeddedPostgres(new_directory) as server:
        process = psutil.Process(server.pid)
        assert process.uids().real == process.uids().effective == choose_account(None).uid != 0
        assert os.getgroups() is not None
        assert "CapEff:\t0000000000000000" in Path(f"/proc/{server.pid}/status").read_text()


@as_root
async def test_as_root_the_owner_of_an_existing_directory_runs_it(new_directory: Path) -> None:
    new_directory.mkdir(mode=0o700)
    os.chown(new_directory, DAEMON, DAEMON)
    async with EmbeddedPostgres(new_directory) as server:
        assert psutil.Process(server.pid).uids().effective == DAEMON


@as_root
async def test_a_closed_parent_is_named_and_not_opened(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    modes = [stat.S_IMODE(folder.stat().st_mode) for folder in (closed, *closed.parents)]
    with pytest.raises(EmbeddedError, match="cannot enter /"):
        await EmbeddedPostgres(closed / "data").start()
    assert modes == [stat.S_IMODE(folder.stat().st_mode) for folder in (closed, *closed.parents)]
    assert not (closed / "data").exists()


@as_root
def test_programs_in_a_closed_folder_are_copied_to_where_the_account_can_execute_them(
    reachable_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = choose_account(None)
    original = find_binaries(Account(os.geteuid(), os.getegid())).folder.parents[1]
    closed = reachable_folder / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(original / "pginstall18", closed / original.name / "pginstall18")
    (closed / original.name / "__init__.py").write_text("raise ImportError('it must not be imported')")
    shutil.copytree(original.with_name(f"{original.name}.libs"), closed / f"{original.name}.libs")
    monkeypatch.syspath_prepend(closed)
    importlib.invalidate_caches()

    copies = reachable_folder / "copies"
    binaries = find_binaries(account, copies=copies)

    assert binaries.postgres.is_relative_to(copies)
    assert account.can_reach(binaries.postgres)
    again = find_binaries(account, copies=copies)
    assert again == binaries
    assert [path.name for path in copies.iterdir()] == [f"postgresql-{binaries.release}"]
    assert (
        os.spawnl(
            os.P_WAIT, sys.executable, sys.executable, "-c", RUN_AS, str(account.uid), str(binaries.initdb)
        )
        == 0
    )
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


RUN_AS = "import os, sys; os.setuid(int(sys.argv[1])); os.execv(sys.argv[2], [sys.argv[2], '--version'])"


@as_another_user
async def test_a_normal_user_runs_it_as_themselves_and_it_dies_with_them(
    start_parent: StartParent, new_directory: Path
) -> None:
    new_directory.mkdir(mode=0o700)
    os.chown(new_directory, NOBODY.uid, NOBODY.gid)
    for _ in range(2):
        parent = await start_parent(new_directory, uid=NOBODY.uid)
        family = parent.family()
        assert family[0].uids().effective == family[0].uids().real == NOBODY.uid
        await parent.kill()
        await until(partial(gone, family), 5)
        assert not list((new_directory / "run").iterdir())


@as_another_user
async def test_a_normal_users_ephemeral_server_leaves_nothing_behind(
    start_parent: StartParent, reachable_folder: Path
) -> None:
    reachable_folder.chmod(0o1777)
    parent = await start_parent(uid=NOBODY.uid, tmp=reachable_folder)
    family = parent.family()
    await asyncio.wait_for(parent.process.communicate(b""), DEADLINE_S)
    assert parent.process.returncode == 0
    assert gone(family)
    assert not parent.directory.exists()


@as_another_user
async def test_a_normal_user_is_refused_the_directory_of_another(spawn: Spawn, new_directory: Path) -> None:
    new_directory.mkdir(mode=0o755)
    process = await spawn(new_directory, uid=NOBODY.uid)
    _, error = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 3
    assert error.decode() == f"The data directory {new_directory} belongs to another user (uid 0).\n"
