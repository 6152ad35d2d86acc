"""An Approval service of its real parts in the test's own process, and a run that asks."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from holdfast.approval.servicer import ApprovalServicer
from holdfast.approval.telling import Telling
from holdfast.kit.db import Database, as_fault
from holdfast.kit.rpc.server import Registration, Server
from holdfast.ledger.approval_request import Request, request
from holdfast.ledger.domain.approval import Policy, Quorum
from holdfast.ledger.notice import Notices
from holdfast.ledger.values import Leased
from holdfast.v1.approval_service_pb2_grpc import add_ApprovalServiceServicer_to_server
from tests.support.ledger import admitted, invocation, opened

NAME = "holdfast.v1.ApprovalService"


@asynccontextmanager
async def approval_service(db: Database, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Serve approvals; yields the address."""
    notices = Notices(db)
    telling = Telling(db, notices)
    servicer = ApprovalServicer(db, telling)
    bringing = asyncio.create_task(telling.loop.run())
    registration = Registration(add_ApprovalServiceServicer_to_server, servicer, NAME)
    server = Server([registration], address, translate=as_fault)
    await server.start()
    try:
        yield server.address
    finally:
        await servicer.drain()
        await server.stop(0)
        telling.loop.stop()
        await bringing
        await notices.close()


async def running(db: Database) -> Leased:
    """Return a run on a runner."""
    (run,) = await admitted(db, invocation(), on=(await opened(db)).idle())
    assert run.lease
    return run.lease


async def ask(db: Database, run: Leased, step: str, count: int = 1, **terms: Any) -> uuid.UUID:
    """Open a gate that so many writers must approve."""
    policy = Policy((Quorum(count, ("group:writers",)),), timeout=3600.0, **terms)
    return (await request(db, Request(run.run_id, run.epoch, step, step, b"{}", policy))).approval_id
