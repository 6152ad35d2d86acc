"""The audit log is read page by page while it grows: that is no break, and a break is one."""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdfast.kit.rpc.server import Registration, Server
from holdfast.v1 import approval_pb2
from holdfast.v1 import approval_service_pb2 as pb
from holdfast.v1.approval_service_pb2_grpc import (
    ApprovalServiceServicer,
    add_ApprovalServiceServicer_to_server,
)
from tests.cli.conftest import Ended, finish, start


def log(length: int) -> list[approval_pb2.AuditEntry]:
    """Return a log that holds, an approval for each two entries."""
    entries: list[approval_pb2.AuditEntry] = []
    previous = bytes(32)
    for number in range(1, length + 1):
        content = b'{"sequence":%d}' % number
        link = hashlib.sha256(previous + content).digest()
        entries.append(
            approval_pb2.AuditEntry(
                sequence=number,
                approval_id=f"a{(number - 1) // 2}",
                content=content,
                previous_hash=previous,
                hash=link,
            )
        )
        previous = link
    return entries


class Listing(ApprovalServiceServicer):
    """Lists, at each reading, what the test says is found."""

    def __init__(self, *readings: Sequence[approval_pb2.AuditEntry]) -> None:
        self.readings = list(readings)

    async def ListApprovals(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:  # noqa: N802
        del request, context
        found = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        ids = sorted({entry.approval_id for entry in found})
        return pb.ListApprovalsResponse(
            approvals=[
                approval_pb2.Approval(approval_id=each, audit=[e for e in found if e.approval_id == each])
                for each in ids
            ]
        )


@pytest.fixture
async def verify(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    servers: list[Server] = []

    async def run(*readings: Sequence[approval_pb2.AuditEntry]) -> Ended:
        listing = Listing(*readings)  # type: ignore[abstract]  # the other calls are not served
        registration = Registration(
            add_ApprovalServiceServicer_to_server, listing, "holdfast.v1.ApprovalService"
        )
        servers.append(Server([registration], "127.0.0.1:0"))
        await servers[-1].start()
        where = ("--approval-address", servers[-1].address)
        return await finish(await start("approvals", "verify", *where, folder=tmp_path))

    yield run
    for server in servers:
        await server.stop(0)


async def test_a_log_that_holds_is_said_to_and_an_empty_one_too(verify: Any) -> None:
    assert "5 entries hold" in (await verify(log(5))).out
    assert "0 entries hold" in (await verify([])).out


async def test_a_log_that_grows_while_it_is_read_is_not_broken(verify: Any) -> None:
    whole = log(8)
    torn = [entry for entry in whole if entry.sequence not in (5, 6)]
    told = await verify(torn, whole)
    assert (told.code, "8 entries hold" in told.out) == (0, True), told.err
    still_growing = [entry for entry in log(12) if entry.sequence != 10]
    assert (await verify(torn, still_growing)).code == 0


async def test_the_first_entry_that_is_missing_or_changed_is_named(verify: Any) -> None:
    missing = await verify([entry for entry in log(6) if entry.sequence != 3])
    assert (missing.code, "breaks at entry 3, of approval a1" in missing.err) == (1, True), missing.err
    changed = log(6)
    changed[4].content = b"{}"
    told = await verify(changed)
    assert (told.code, "breaks at entry 5" in told.err) == (1, True)
