"""Program of the tests: start the Approval service as a child of ours, say its pid, and wait to be killed."""

import asyncio
import os
import sys

from holdfast.dev import ServiceProcess


async def _run() -> None:
    child = ServiceProcess("approval", "holdfast.approval", os.environ, lambda *_: None)
    await child.start()
    sys.stdout.write(f"{child.pid}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


asyncio.run(_run())
