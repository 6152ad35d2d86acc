"""Many runs at once, asked for over a connection that costs next to nothing."""

import asyncio
from typing import Any, Final

from bench.http2 import Calls
from bench.ours.worker import PATIENCE
from holdfast.v1.invoker_service_pb2 import InvokeRequest

TICK: Final = 0.002
"""Seconds after which it is looked at again what was answered."""
_SUCCEEDED: Final = "SELECT count(*) FROM run_state WHERE status = 5"


def connect(at: str, intent: str, kind: type[Calls] = Calls) -> Calls:
    """Open a connection for calls that start a run and wait for it."""
    request = InvokeRequest(intent=intent)
    request.payload.update({"number": 1})
    request.wait.FromSeconds(round(PATIENCE))
    return kind(at, "/holdfast.v1.InvokerService/Invoke", request.SerializeToString())


async def succeeded(connection: Any) -> int:
    """Return how many runs have succeeded."""
    return int(await connection.fetchval(_SUCCEEDED))


async def load(calls: Calls, runs: int, concurrency: int) -> None:
    """Make so many runs, so many in flight, and see to it that each call is answered well."""
    answered = calls.told["0"]
    left = runs
    while left or calls.open:
        calls.turn(0)
        begin = min(left, concurrency - calls.open)
        left -= begin
        calls.turn(begin)
        await asyncio.sleep(TICK)
    if calls.told["0"] - answered != runs:
        raise RuntimeError(f"calls ended {dict(calls.told)}")
