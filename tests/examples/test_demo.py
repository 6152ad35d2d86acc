import asyncio
import os
import sys
import uuid
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
MARK = "HOLDFAST_TEST_MARK"


async def test_the_demo_holds_what_it_says_and_leaves_nothing_running() -> None:
    mark = str(uuid.uuid4())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    demo = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "examples.demo",
        cwd=ROOT,
        env={**environment, MARK: mark},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(90):
            output, _ = await demo.communicate()
    finally:
        if demo.returncode is None:
            demo.kill()
            await demo.wait()
    told = output.decode()
    assert demo.returncode == 0, told
    assert "\x1b" not in told, "outside of a terminal there are no colours"
    assert "stand-in" in told
    assert told.count("✓") == 7
    assert "grpcurl -plaintext" in told
    assert [each.name() for each in psutil.process_iter() if _marked(each, mark)] == []


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
