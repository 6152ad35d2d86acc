"""Runs dispatchers for tests, in this process or as processes of their own."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.dispatcher.address import AddressPolicy, Resolve, system_resolve
from holdfast.dispatcher.dispatch import Dispatch
from holdfast.dispatcher.secret import Secrets
from holdfast.dispatcher.sender import Sender
from holdfast.kit.clock import SystemClock
from holdfast.kit.db import Database
from holdfast.ledger.destination import Destination
from holdfast.ledger.domain.delivery import RetryPolicy
from tests.support.outbox import make_destination

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
QUICK = RetryPolicy(max_attempts=12, initial_backoff_s=0.01, max_backoff_s=0.05)


class Dispatchers:
    """Dispatchers in this process, each with a sender of its own; all end with the block."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def start(self, *, resolve: Resolve = system_resolve, **options: Any) -> Dispatch:
        """Start one; `options` are those of `Dispatch`."""
        policy = AddressPolicy(allow_private=True, resolve=resolve)
        known = {"HOLDFAST_SECRET_RECEIVER": SECRET, "HOLDFAST_SECRET_BROKEN": "whsec_!"}
        secrets = Secrets(known | dict(options.pop("secrets", {})))
        sender = Sender(policy, secrets, SystemClock(), at_once=64)
        given = {"at_once": 64, "poll_interval": 0.2, **options}
        dispatch = Dispatch(self._db, sender, SystemClock(), **given)
        running = asyncio.create_task(dispatch.run())

        async def end() -> None:
            if running.done():
                running.result()  # a fault of the dispatching is the test's
            running.cancel()
            await asyncio.wait([running])
            await sender.close()

        self._stack.push_async_callback(end)
        return dispatch


async def to_receiver(
    db: Database, receiver: WebhookReceiver, name: str = "tickets", **more: Any
) -> Destination:
    """Put a destination that the receiver answers for, signed and with short pauses."""
    given = {"url": f"{receiver.url}/hook", "secret_name": "receiver", "retry": QUICK, **more}
    return await make_destination(db, name, **given)


async def until(condition: Callable[[], Awaitable[object]], *, deadline: float = 30.0) -> None:
    """Wait until a condition holds, by looking again and again; `TimeoutError` after the deadline."""
    async with asyncio.timeout(deadline):
        while not await condition():  # noqa: ASYNC110 - of another process: nothing to wait on
            await asyncio.sleep(0.01)


async def all_ended(db: Database, count: int, status: int = 3) -> None:
    """Wait until `count` effects have a status, by default DELIVERED."""

    async def have_ended() -> bool:
        async with db.connection() as connection:
            found = await connection.fetchval("SELECT count(*) FROM effect WHERE status = $1", status)
            return bool(found >= count)

    await until(have_ended)


class DispatcherProcess:
    """A real dispatcher process, killed at the end of its test if it still lives."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.process = process
        self.address = address

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end and return its exit code (minus the signal's number if one killed it)."""
        async with asyncio.timeout(30):
            return await self.process.wait()


@asynccontextmanager
async def dispatcher_process(database_url: str, **environ: str) -> AsyncIterator[DispatcherProcess]:
    """Start `python -m holdfast.dispatcher` with variables `HOLDFAST_…` and wait until it is ready."""
    variables = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_")},
        "HOLDFAST_DATABASE_URL": database_url,
        "HOLDFAST_LISTEN": "127.0.0.1:0",
        "HOLDFAST_ALLOW_PRIVATE_ADDRESSES": "1",
        "HOLDFAST_SECRET_RECEIVER": SECRET,
        "HOLDFAST_DIE_WITH_PARENT": "1",
        **{f"HOLDFAST_{name.upper()}": value for name, value in environ.items()},
    }
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "holdfast.dispatcher",
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=variables,
            cwd=Path(__file__).parents[2],
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(30):
                line = await process.stdout.readline()
            log.seek(0)
            assert line, log.read().decode()
            yield DispatcherProcess(process, json.loads(line)["address"])
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            # The pipe's transport is closed by the loop one step after the process has ended.
            await asyncio.sleep(0)
