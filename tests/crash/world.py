"""The world of a crash test: the suite as processes, the outside it reaches, and the record of deeds."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.standins.model_server import ModelServer
from examples.standins.webhook_receiver import WebhookReceiver
from holdfast.client import Client, Destination, Retries
from holdfast.dev import ServiceProcess, Suite
from holdfast.kit.db import Database
from tests.support.deeds import VARIABLE, Deed, deeds
from tests.support.ledger import open_ledger

AGENTS = "tests.crash.agents:app"
PATIENCE_S = 60.0
STUBBORN = Retries(attempts=1000, first_pause=0.05, longest_pause=0.5, patience=PATIENCE_S)

# Short enough for a test to outlive a lease, long enough for two busy processors.
QUICK = {
    "HOLDFAST_HEARTBEAT_INTERVAL": "0.5",
    "HOLDFAST_LEASE_TTL": "3",
    "HOLDFAST_BROKEN_STREAM_GRACE": "0.3",
    "HOLDFAST_MAX_ATTEMPTS": "100",  # what is killed again and again is not to blame
}


@dataclass(frozen=True)
class World:
    """Handles to everything."""

    suite: Suite
    receiver: WebhookReceiver
    clients: list[Client]
    """One for each Invoker."""
    file: Path

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        folder: Path,
        *,
        environments: Mapping[str, Mapping[str, str]] | None = None,
        destination: Mapping[str, Any] | None = None,
        quick: bool = True,
        **suite: Any,
    ) -> AsyncIterator["World"]:
        """Bring everything up; nobody starts again what dies, unless the test does."""
        told = {kind: dict(more) for kind, more in (environments or {}).items()}
        if quick:
            told["invoker"] = QUICK | told.get("invoker", {})
            told["dispatcher"] = {k: QUICK[k] for k in list(QUICK)[:2]} | told.get("dispatcher", {})
        file = folder / "deeds"
        async with AsyncExitStack() as stack:
            receiver = await stack.enter_async_context(WebhookReceiver())
            model = await stack.enter_async_context(ModelServer())
            everywhere = {
                VARIABLE: str(file),
                "HOLDFAST_ALLOW_PRIVATE_ADDRESSES": "1",
                "OPENAI_BASE_URL": model.url,
                "OPENAI_API_KEY": "stand-in",
                "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])),
            }
            shape: dict[str, Any] = {"runners": 2, "supervise": False, **suite}
            stands = Suite([AGENTS], environment=everywhere, environments=told, **shape)
            await stack.enter_async_context(stands)
            clients = [
                await stack.enter_async_context(client_of(stands, address))
                for address in stands.invoker_addresses
            ]
            world = cls(stands, receiver, clients, file)
            await world.destination("sink", **(destination or {}))
            await world.until(world._served, "the runners are known")
            try:
                yield world
            finally:
                assert stands.log_directory is not None
                shutil.copytree(stands.log_directory, folder / "log", dirs_exist_ok=True)

    @property
    def client(self) -> Client:
        """The client of the first Invoker."""
        return self.clients[0]

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[Database]:
        """Look into the ledger past all services."""
        async with open_ledger(self.suite.database_url, pool_size=2) as db:
            yield db

    async def destination(self, name: str, **more: Any) -> None:
        """Let effects go to the receiver."""
        quickly = {"initial_backoff": 0.05, "max_backoff": 0.5, "max_attempts": 50, "breaker_failures": 1000}
        await self.client.outbox.put_destination(
            Destination(name, f"{self.receiver.url}/{name}", **(quickly | more))
        )

    def deeds(self, run_id: str | None = None) -> list[Deed]:
        """What was done so far, by a run or by all."""
        return [deed for deed in deeds(self.file) if run_id in (None, deed.run_id)]

    async def happened(self, run_id: str, what: str, *, times: int = 1, **more: Any) -> Deed:
        """Wait until a run has done something that often; return the last of it."""

        def found() -> list[Deed]:
            return [
                deed
                for deed in self.deeds(run_id)
                if deed.what == what and all(getattr(deed, name) == value for name, value in more.items())
            ]

        await self.until(lambda: len(found()) >= times, f"{what} of {run_id}, {times} times")
        return found()[times - 1]

    async def until(
        self, condition: Callable[[], bool | Awaitable[bool]], what: str, patience: float = PATIENCE_S
    ) -> None:
        """Wait for a state of other processes; `TimeoutError` says what has not come."""
        try:
            async with asyncio.timeout(patience):
                while True:
                    answer = condition()
                    if answer if isinstance(answer, bool) else await answer:
                        return
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise TimeoutError(f"Not within {patience} s: {what}.") from None

    def runner_of(self, deed: Deed) -> ServiceProcess:
        """The process that did something."""
        return next(runner for runner in self.suite.runners if runner.pid == deed.pid)

    async def _served(self) -> bool:
        """Tell whether every runner is in session."""
        async with self.ledger() as db, db.connection() as connection:
            known = await connection.fetchval(
                "SELECT count(*) FROM runner_session WHERE expire_time > clock_timestamp()"
            )
        return bool(known >= len(self.suite.runners))


def client_of(suite: Suite, address: str) -> Client:
    """A client that does not give up soon."""
    return Client(
        address,
        dispatcher=suite.addresses["dispatcher"],
        checkpoint=suite.addresses["checkpoint"],
        approval=suite.addresses["approval"],
        retries=STUBBORN,
        reconnects=STUBBORN,
    )
