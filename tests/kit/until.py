"""Waiting for what nobody announces."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def until(condition: Callable[[], Awaitable[bool] | bool], *, deadline: float = 10.0) -> None:
    """Wait until the condition holds; `TimeoutError` after `deadline` seconds."""
    async with asyncio.timeout(deadline):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.005)


async def calls(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of calls once there is one: it may be written after the client's answer."""

    def logged() -> list[dict[str, Any]]:
        return [line for line in lines if line["event"] == "call"]

    await until(lambda: bool(logged()))
    return logged()
