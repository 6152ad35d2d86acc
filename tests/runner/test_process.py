import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.runner.platform import Platform, StoredRun

AGENTS = """
import asyncio, os, subprocess, sys
from holdfast.agent import App, Run

app = App("noisy")
print("imported")

async def shout(text: str) -> str:
    print("a step prints", text)
    subprocess.run(["echo", "a child prints"])
    os.write(1, b"a library writes\\n")
    return text.upper()

@app.agent("shout")
async def agent(run: Run, payload: dict) -> str:
    first = await run.step(shout, payload["text"])
    return await run.step(shout, first + "!")

async def wait() -> None:
    await asyncio.sleep(60)

@app.agent("wait")
async def waits(run: Run) -> None:
    await run.step(wait)
"""


@asynccontextmanager
async def _process(folder: Path, platform: Platform, **variables: str) -> AsyncIterator[Process]:
    (folder / "noisy_agents.py").write_text(AGENTS)
    environment = {
        **os.environ,
        "HOLDFAST_AGENTS": "noisy_agents:app",
        "HOLDFAST_LISTEN": "127.0.0.1:0",
        "HOLDFAST_INVOKER_ADDRESS": platform.address,
        "HOLDFAST_CHECKPOINT_ADDRESS": platform.address,
        "HOLDFAST_SLOTS": "4",
        "HOLDFAST_DRAIN_GRACE": "0.1",
        "HOLDFAST_DIE_WITH_PARENT": "1",
        **variables,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "holdfast.runner", cwd=folder, env=environment, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _ended(platform: Platform, run: StoredRun) -> None:
    await platform.until(run.moved.is_set)


async def test_standard_output_is_the_readiness_line_alone(tmp_path: Path, platform: Platform) -> None:
    async with _process(tmp_path, platform) as process:
        assert process.stdout is not None
        ready = json.loads(await process.stdout.readline())
        assert (ready["ready"], ready["service"]) == (True, "runner")
        await platform.until(lambda: platform.credit == 4)
        assert platform.hello is not None
        assert platform.hello.address == ready["address"]
        run = platform.add("shout", text="hi")
        platform.lease(run)
        await _ended(platform, run)
        assert run.outcome.result.string_value == "HI!"
        process.terminate()
        out, err = await process.communicate()
    assert out == b""
    for printed in (b"imported", b"a step prints hi", b"a child prints", b"a library writes"):
        assert printed in err
    assert process.returncode == 0


async def _health(address: str, service: str) -> str:
    async with grpc.aio.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=20, wait_for_ready=True)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def test_it_is_alive_before_it_can_be_sent_work_and_ready_then(
    tmp_path: Path, platform: Platform
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:  # takes connections, and never answers
        nobody = f"127.0.0.1:{silent.getsockname()[1]}"
        own = f"unix:{tmp_path}/runner"
        async with _process(
            tmp_path, platform, HOLDFAST_LISTEN=own, HOLDFAST_INVOKER_ADDRESS=nobody
        ) as process:
            assert await _health(own, "") == "SERVING"
            assert await _health(own, "holdfast.v1.RunnerService") == "NOT_SERVING"
            process.terminate()
            assert await process.wait() == 0
    async with _process(tmp_path, platform) as process:
        assert process.stdout is not None
        own = json.loads(await process.stdout.readline())["address"]
        assert await _health(own, "holdfast.v1.RunnerService") == "SERVING"


async def test_sigterm_hands_running_work_back_and_ends_well(tmp_path: Path, platform: Platform) -> None:
    async with _process(tmp_path, platform) as process:
        await platform.until(lambda: platform.credit == 4)
        run = platform.add("wait")
        platform.lease(run)
        await platform.until(lambda: platform.credit == 3)
        process.terminate()
        await _ended(platform, run)
        assert run.commits[-1].requeue.blameless
        assert await process.wait() == 0


@pytest.mark.parametrize(
    ("point", "recorded"),
    [("before_step:2", 1), ("after_step:2", 1), ("after_ack", 1), ("after_ack:2", 2), ("before_end", 2)],
)
async def test_a_runner_killed_at_a_named_point_loses_nothing_that_was_acknowledged(
    tmp_path: Path, platform: Platform, point: str, recorded: int
) -> None:
    run = platform.add("shout", text="hi")
    async with _process(tmp_path, platform, HOLDFAST_CRASH_AT=f"runner.{point}") as process:
        await platform.until(lambda: platform.credit == 4)
        platform.lease(run)
        assert await process.wait() == -signal.SIGKILL
    assert run.keys == ["shout", "shout#2"][:recorded]
    async with _process(tmp_path, platform):
        await platform.until(lambda: platform.credit == 4)
        platform.lease(run)
        await _ended(platform, run)
    assert run.keys == ["shout", "shout#2"]
    assert run.outcome.result.string_value == "HI!"


@pytest.mark.parametrize(
    ("agents", "sentence"),
    [
        ("noisy_agents:nothing", "The module noisy_agents has no app nothing. It has app."),
        ("nowhere:app", "There is no module nowhere"),
        ("noisy_agents", "'noisy_agents' names no app: it must be module:name"),
        ("os:path", "os:path is a module, and must be a holdfast.agent.App."),
        ("", "HOLDFAST_AGENTS must be set"),
    ],
)
async def test_apps_that_cannot_be_run_are_refused_in_one_sentence(
    tmp_path: Path, platform: Platform, agents: str, sentence: str
) -> None:
    async with _process(tmp_path, platform, HOLDFAST_AGENTS=agents) as process:
        _, err = await process.communicate()
    assert process.returncode == 2
    assert sentence in err.decode()
    assert "Traceback" not in err.decode()
