"""Processes that run as the chosen account and end when we do."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from holdfast.embedded.directory import DataDirectory

_LAUNCHER = Path(__file__).with_name("launch.py")


async def launch(
    command: list[str], directory: DataDirectory, *, death_signal: signal.Signals
) -> asyncio.subprocess.Process:
    """Start `command` as the directory's account; its output goes to the directory's log.

    It inherits the directory's lock, and gets `death_signal` when the calling *thread* ends, however that
    ends: call it from the main thread.
    """
    account = directory.account
    arguments = [os.getpid(), death_signal.value, account.uid, account.gid]
    with directory.open_log() as log:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(_LAUNCHER),
            *map(str, arguments),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=_environment(),
            pass_fds=(directory.lock,),
        )


async def end(process: asyncio.subprocess.Process, *signals: tuple[signal.Signals, float]) -> None:
    """Send each signal and wait its seconds, until the process has ended; SIGKILL is sent last.

    Repeatable. A cancelled call goes straight to SIGKILL: it never leaves the process behind.
    """
    try:
        for number, patience_s in signals:
            if await _ended_after(process, number, patience_s):
                return
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _ended_after(
    process: asyncio.subprocess.Process, number: signal.Signals, patience_s: float
) -> bool:
    with suppress(ProcessLookupError):
        process.send_signal(number)
    try:
        await asyncio.wait_for(process.wait(), patience_s)
    except TimeoutError:
        return False
    return True


def _environment() -> dict[str, str]:
    """Nothing of ours: PGDATA, PGOPTIONS or a locale must not change what the server does."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
