"""An Invoker made of its real parts in the test's own process, and a Checkpoint service beside it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from holdfast.checkpoint.group import Line
from holdfast.checkpoint.servicer import CheckpointServicer
from holdfast.checkpoint.store import Storing
from holdfast.invoker.parts import Parts, Running
from holdfast.invoker.registrations import registrations
from holdfast.invoker.settings import InvokerSettings
from holdfast.kit.db import Database, as_fault
from holdfast.kit.loops import Loop
from holdfast.kit.rpc.client import channel
from holdfast.kit.rpc.server import Registration, Server
from holdfast.ledger import SESSION_SETTINGS
from holdfast.ledger.notice import Notices
from holdfast.v1 import (
    event_service_pb2_grpc,
    invoker_service_pb2,
    invoker_service_pb2_grpc,
    work_service_pb2_grpc,
)
from holdfast.v1.checkpoint_service_pb2_grpc import add_CheckpointServiceServicer_to_server

pb: Any = invoker_service_pb2  # messages made of dicts, which their types do not know
NAME = "holdfast.v1.CheckpointService"
QUICK: dict[str, Any] = {
    "heartbeat_interval": 0.1,
    "lease_ttl": 1.0,
    "broken_stream_grace": 0.3,
    "drain_grace": 0.5,
}


class Stubs:
    """The services of one Invoker, as a client has them."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        self.invoker: Any = invoker_service_pb2_grpc.InvokerServiceStub(opened)
        self.events: Any = event_service_pb2_grpc.EventServiceStub(opened)
        self.work: Any = work_service_pb2_grpc.WorkServiceStub(opened)

    async def invoke(self, intent: str = "count", **more: Any) -> Any:
        """Invoke, with the shortest envelope unless told more."""
        return await self.invoker.Invoke(pb.InvokeRequest(intent=intent, **more))

    async def run(self, run_id: str) -> Any:
        """Read a run."""
        return (await self.invoker.GetRun(pb.GetRunRequest(run_id=run_id))).run

    async def status(self, run_id: str) -> int:
        """Read where a run stands."""
        return int((await self.run(run_id)).status)


class Invoker(Stubs):
    """An Invoker in this process."""

    def __init__(self, address: str, opened: grpc.aio.Channel, parts: Parts) -> None:
        super().__init__(opened)
        self.address = address
        self.url = parts.settings.database_url
        self.parts = parts


@asynccontextmanager
async def invoker(url: str, *, keepalive: float = 30.0, **settings: Any) -> AsyncIterator[Invoker]:
    """Serve an Invoker with quick times."""
    told = InvokerSettings(database_url=url, listen="127.0.0.1:0", **QUICK | settings)
    async with await Database.connect(
        url, application_name="test-invoker", server_settings=SESSION_SETTINGS, pool_size=told.database_pool
    ) as db:
        parts = Parts.make(db, told)
        stop = asyncio.Event()
        async with Running(parts, stop) as running:
            server = Server(registrations(parts), told.listen, translate=as_fault, keepalive=keepalive)
            await server.start()
            try:
                async with channel(server.address) as opened:
                    yield Invoker(server.address, opened, parts)
            finally:
                stop.set()
                await running.drain()
                await server.stop(0)


@asynccontextmanager
async def checkpoint(url: str) -> AsyncIterator[str]:
    """Serve a Checkpoint service; yields its address."""
    async with await Database.connect(
        url, application_name="test-checkpoint", server_settings=SESSION_SETTINGS
    ) as db:
        notices = Notices(db)
        lines = [Line(Storing(db, notices)) for _ in range(2)]
        servicer = CheckpointServicer(
            db, notices, progress=lines[0], moves=lines[1], acknowledgement_timeout=30.0
        )
        running = [asyncio.create_task(line.run()) for line in lines]
        server = Server(
            [
                Registration(
                    add_CheckpointServiceServicer_to_server, servicer, "holdfast.v1.CheckpointService"
                )
            ],
            "127.0.0.1:0",
            translate=as_fault,
        )
        await server.start()
        try:
            yield server.address
        finally:
            await servicer.drain()
            await server.stop(0)
            for line in lines:
                line.close()
            await asyncio.gather(*running)
            await notices.close()


async def ended(*loops: Loop) -> None:
    """Stop loops of an Invoker, and wait for the rounds that they are in."""
    names = {loop.name for loop in loops}
    running = [task for task in asyncio.all_tasks() if task.get_name() in names]
    assert len(running) == len(names)
    for loop in loops:
        loop.stop()
    await asyncio.wait(running)


async def poison(door: Invoker) -> None:
    """Have the ledger break any group in which the key of a run ends with `poison`."""
    async with door.parts.db.connection() as connection:
        await connection.execute(
            "CREATE FUNCTION break_group() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF NEW.idempotency_key LIKE '%poison' THEN RAISE EXCEPTION 'poison'; END IF; RETURN NEW; END $$"
        )
        await connection.execute(
            "CREATE TRIGGER poison BEFORE INSERT ON run FOR EACH ROW EXECUTE FUNCTION break_group()"
        )


def of_tenant(name: str) -> list[tuple[str, str]]:
    """Return the metadata of a call of a tenant."""
    return [("holdfast-tenant", name)]


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the name of the error's reason."""
    return _detail(error, error_details_pb2.ErrorInfo()).reason  # type: ignore[no-any-return]


def facts_of(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """Return what the error says beside its reason."""
    return dict(_detail(error, error_details_pb2.ErrorInfo()).metadata)


def fields_of(error: grpc.aio.AioRpcError) -> list[str]:
    """Return the fields the error names."""
    bad = _detail(error, error_details_pb2.BadRequest())
    return [violation.field for violation in bad.field_violations]


def _detail(error: grpc.aio.AioRpcError, found: Any) -> Any:
    status = rpc_status.from_call(error)
    assert status is not None, error
    for detail in status.details:
        if detail.Unpack(found):
            break
    return found
