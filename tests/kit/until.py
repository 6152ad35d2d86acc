"""Waiting for what nobody announces."""

import asyncio
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], Awaitable[bool] | bool], *, deadline: float = 10.0) -> None:
    """Wait until the condition holds; `TimeoutError` after `deadline` seconds."""
    async with asyncio.timeout(deadline):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.005)
