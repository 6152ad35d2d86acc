"""A service process is ready when it says so, comes back when it dies, and never outlives its parent."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from holdfast.dev import ServiceProcess, SuiteError
from holdfast.dev.output import to_files
from holdfast.dev.watchdog import keep_running

DEADLINE_S = 30.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - a state of another process
            await asyncio.sleep(0.01)


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def is_serving(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=DEADLINE_S, wait_for_ready=True
        )
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@pytest.fixture
def told(database_url: str) -> dict[str, str]:
    """What the service is told by its environment."""
    return {**os.environ, "HOLDFAST_DATABASE_URL": database_url}


@pytest.fixture
async def service(tmp_path: Path, told: dict[str, str]) -> AsyncIterator[ServiceProcess]:
    one = ServiceProcess(
        "approval", "holdfast.approval", told, to_files(tmp_path), log=tmp_path / "approval.log"
    )
    yield one
    await one.stop()


async def test_a_started_service_serves_and_a_stopped_one_has_ended_in_order(service: ServiceProcess) -> None:
    await service.start()
    assert await is_serving(service.address)
    await service.stop()
    assert not service.running
    assert service.returncode == 0
    assert "stopped" in service.tail()


async def test_of_several_starts_at_once_one_starts_it(service: ServiceProcess) -> None:
    await service.start()
    life = service.starts
    await service.kill()
    await asyncio.gather(service.restart(), service.revive(life), service.start())
    assert service.starts == life + 1
    assert await is_serving(service.address)


async def test_a_start_that_nobody_wants_any_more_is_not_made(service: ServiceProcess) -> None:
    await service.start()
    await service.stop()
    await service.revive(service.starts)
    assert not service.running


async def test_a_service_started_again_listens_where_it_did(service: ServiceProcess) -> None:
    await service.start()
    address, pid = service.address, service.pid
    await service.restart()
    assert service.address == address
    assert service.pid != pid
    assert await is_serving(address)


async def test_a_watched_service_that_dies_comes_back_and_the_log_says_so(
    service: ServiceProcess, tmp_path: Path
) -> None:
    await service.start()
    watchdog = asyncio.create_task(keep_running(service, to_files(tmp_path)))
    await service.kill()
    await until(lambda: service.starts == 2 and service.running)
    assert await is_serving(service.address)
    watchdog.cancel()
    assert "died (signal 9)" in (tmp_path / "approval.log").read_text()


async def test_a_watched_service_that_was_stopped_stays_down(service: ServiceProcess, tmp_path: Path) -> None:
    await service.start()
    watchdog = asyncio.create_task(keep_running(service, to_files(tmp_path)))
    await service.stop()
    await service.start()
    await service.kill()
    await until(lambda: service.starts == 3)
    await service.stop()
    watchdog.cancel()
    await asyncio.gather(watchdog, return_exceptions=True)
    assert service.starts == 3
    assert not service.running


async def test_a_paused_service_can_be_stopped(service: ServiceProcess) -> None:
    await service.start()
    service.pause()
    await until(lambda: psutil.Process(service.pid).status() == psutil.STATUS_STOPPED)
    await service.stop()
    assert service.returncode == 0


async def test_a_service_that_cannot_start_says_why_and_is_gone(tmp_path: Path, told: dict[str, str]) -> None:
    broken = ServiceProcess(
        "approval", "holdfast.approval", told, to_files(tmp_path), address="192.0.2.1:7404"
    )
    with pytest.raises(SuiteError, match=r"ended while starting \(code 2\):\nWill not listen"):
        await broken.start()
    assert not broken.running


async def test_what_a_service_prints_is_passed_on(tmp_path: Path) -> None:
    lines: list[str] = []
    (tmp_path / "chatty.py").write_text(
        "import sys, time\n"
        "print('before', flush=True)\n"
        'print(\'{"ready": true, "service": "chatty", "address": "127.0.0.1:1"}\', flush=True)\n'
        "print('after', flush=True)\n"
        "sys.stderr.write('log' * 50_000 + '\\n')\n"
        "sys.stderr.flush()\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    chatty = ServiceProcess("chatty", "chatty", environment, lambda _, line: lines.append(line))
    await chatty.start()
    assert chatty.address == "127.0.0.1:1"
    await until(lambda: len(lines) == 3)
    await chatty.kill()
    assert set(lines) == {"before", "after", "log" * 50_000}


async def test_a_service_dies_with_a_killed_parent(told: dict[str, str]) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("parent.py")),
        stdout=asyncio.subprocess.PIPE,
        env=told,
    )
    assert parent.stdout is not None
    child = int(await asyncio.wait_for(parent.stdout.readline(), DEADLINE_S))
    assert lives(child)
    os.kill(parent.pid, signal.SIGKILL)
    await parent.wait()
    await until(lambda: not lives(child))
