"""Every service reads its sockets with gRPC's older poller: nothing is handed from thread to thread."""

import os
import subprocess
import sys

import pytest

CALLS = 200
ECHO = """
import asyncio, sys
from pathlib import Path
import SERVICE
import SERVICE.__main__
import grpc

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(CALLS):
            code = await channel.unary_unary("/nobody/Home")(b"").code()
            assert code is grpc.StatusCode.UNIMPLEMENTED, code
        print(sum(switches(task) for task in Path("/proc/self/task").iterdir()))
    await server.stop(None)

def switches(task):
    status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
    return int(status["voluntary_ctxt_switches"]) if status["Name"].strip() == "event_engine" else 0

asyncio.run(main())
"""


def woken(service: str, **variables: str) -> int:
    """Return how often the newer poller's threads were woken by `CALLS` calls in such a process."""
    program = ECHO.replace("SERVICE", service).replace("CALLS", str(CALLS))
    environ = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"} | variables
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="threads are looked at in /proc, which is Linux's")
@pytest.mark.parametrize(
    "service", ["approval", "checkpoint", "console", "dispatcher", "edge", "invoker", "runner"]
)
def test_the_newer_pollers_threads_have_nothing_to_do(service: str) -> None:
    assert woken(f"holdfast.{service}") < CALLS


@pytest.mark.skipif(sys.platform != "linux", reason="threads are looked at in /proc, which is Linux's")
def test_who_sets_the_variable_has_the_say() -> None:
    assert woken("holdfast.invoker", GRPC_EXPERIMENTS="event_engine_poller_for_python") >= CALLS
