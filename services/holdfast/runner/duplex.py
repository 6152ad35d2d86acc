"""A stream in both directions is over when either side of it is."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import grpc

BROKEN = (grpc.aio.AioRpcError, asyncio.InvalidStateError)
"""What a stream raises that has ended under whoever reads or writes it."""


def code_of(error: Exception) -> str:
    """Name the status of a broken stream, for the log."""
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else "CANCELLED"


async def both(reader: Coroutine[Any, Any, None], writer: Coroutine[Any, Any, None]) -> None:
    """Read and write until one of the two ends, then end the other, and raise what either raised."""
    tasks = [asyncio.create_task(reader), asyncio.create_task(writer)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()
