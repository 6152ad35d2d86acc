"""A service that dies comes back, later each time, and the log says so."""

import asyncio
from typing import Final

from holdfast.dev.error import SuiteError
from holdfast.dev.output import Sink
from holdfast.dev.process import ServiceProcess

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
STEADY_S: Final = 10.0
"""Who lives this long has recovered: the next death is a first one again."""


async def keep_running(process: ServiceProcess, sink: Sink) -> None:
    """Start `process` whenever it ended without being asked to; until cancelled."""
    loop = asyncio.get_running_loop()
    pause = FIRST_PAUSE_S
    while True:
        born = loop.time()
        life = process.starts
        code = await process.exited()
        if not process.wanted or process.starts != life or process.starting:
            await _wanted_again(process)
            continue
        pause = FIRST_PAUSE_S if loop.time() - born > STEADY_S else pause
        sink(process.name, f"{process.name} died ({_ending(code)}) and is started again in {pause:.1f} s")
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_S)
        try:
            await process.revive(life)
        except SuiteError as error:
            sink(process.name, str(error))


async def _wanted_again(process: ServiceProcess) -> None:
    """Wait until somebody has started it on purpose."""
    while not (process.wanted and process.running):  # noqa: ASYNC110 - a person's pace
        await asyncio.sleep(0.05)


def _ending(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"code {code}"
