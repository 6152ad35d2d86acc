"""Real processes: how they start, stop, and say so."""

import asyncio
import json
import os
import platform
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from tests.kit.until import until

SERVICE = """
import asyncio, os, resource, sys
from dataclasses import dataclass
from holdfast.kit.process import Refused, announce, run_service
from holdfast.kit.rpc.server import serve
from holdfast.kit.settings import load, setting
from holdfast.kit.telemetry import logs

@dataclass(frozen=True)
class Settings:
    key: str = setting("hunter2", help="a key", secret=True)
    mode: str = setting("serve", help="what to do")

def settings():
    return load(Settings, os.environ)

def take_and_leave():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        blocks = [bytes(1 << 16) for _ in range(128)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

async def main(stop):
    logs.configure("example")
    mode = settings().mode
    if mode == "refuse":
        raise Refused("Cannot listen on 127.0.0.1:1.")
    if mode == "fail":
        raise RuntimeError("broken")
    if mode == "take and leave":
        print(await asyncio.to_thread(take_and_leave))
        return
    if mode == "hang":
        announce("example", "nowhere")
        await stop.wait()
        print("draining", flush=True)
        await asyncio.Event().wait()
    await serve([], "127.0.0.1:0", stop, service="example", grace=1)

sys.exit(run_service(main, settings=settings))
"""


@asynccontextmanager
async def started(mode: str, *arguments: str, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environ = {**os.environ, "HOLDFAST_MODE": mode, **variables}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVICE, *arguments, env=environ, stdout=-1, stderr=-1
    )
    try:
        async with asyncio.timeout(30):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode()


async def test_it_announces_itself_and_stops_well_on_sigterm() -> None:
    async with started("serve") as process:
        ready = json.loads(await line_of(process))
        assert ready["ready"] is True
        assert ready["service"] == "example"
        assert ready["address"].startswith("127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
    assert process.returncode == 0
    events = [json.loads(line)["event"] for line in errors.decode().splitlines() if line.startswith("{")]
    assert events == ["serving", "stopping", "stopped"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
async def test_memory_that_was_freed_is_kept_for_the_next_call() -> None:
    async with started("take and leave") as process:
        faults = int(await line_of(process))
        await process.communicate()
    assert faults < 10_000  # of 100,000 pages that were taken, 2,000 at a time


async def test_a_second_signal_ends_it_at_once() -> None:
    async with started("hang") as process:
        await line_of(process)
        process.send_signal(signal.SIGTERM)
        assert await line_of(process) == "draining\n"
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130


async def test_a_refusal_is_one_sentence_and_a_failure_is_a_log_line() -> None:
    async with started("refuse") as process:
        _, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (2, "Cannot listen on 127.0.0.1:1.\n")
    async with started("fail") as process:
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert json.loads(errors.decode().splitlines()[-1])["error"] == "RuntimeError"


async def test_print_config_starts_nothing_and_shows_no_secret() -> None:
    async with started("fail", "--print-config") as process:
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(output) == {"HOLDFAST_KEY": "***", "HOLDFAST_MODE": "fail"}


async def test_it_dies_with_its_parent_when_asked_to() -> None:
    parent = """
import asyncio, os, sys
async def main():
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", os.environ["SERVICE"], stdout=-1)
    await child.stdout.readline()
    print(child.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    environ = {**os.environ, "SERVICE": SERVICE, "HOLDFAST_MODE": "serve", "HOLDFAST_DIE_WITH_PARENT": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", parent, env=environ, stdout=-1, stderr=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(30):
        child = psutil.Process(int(await line_of(process)))
        process.kill()
        await process.communicate()
        await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
