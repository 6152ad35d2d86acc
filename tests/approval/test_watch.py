"""An inbox over real gRPC: whoever goes on from a cursor misses nothing that changes what they see."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from holdfast.kit.db import Database
from holdfast.ledger.approval_vote import decide
from holdfast.ledger.domain.approval import Person, Verdict
from holdfast.v1 import approval_pb2
from holdfast.v1 import approval_service_pb2 as pb
from holdfast.v1.approval_service_pb2_grpc import ApprovalServiceStub
from tests.support.approval import approval_service, ask, running
from tests.support.ledger import open_ledger

ANN, BOB = (Person(name, frozenset({"writers"})) for name in ("ann", "bob"))
TENANT = (("holdfast-tenant", "acme"),)
AS_ANN = (*TENANT, ("holdfast-user", "ann"), ("holdfast-groups", "writers"))
PENDING = [approval_pb2.APPROVAL_STATUS_PENDING]


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with open_ledger(database_url) as db:
        yield db


@pytest.fixture
async def stub(db: Database) -> AsyncIterator[Any]:
    async with approval_service(db) as address, grpc.aio.insecure_channel(address) as channel:
        yield ApprovalServiceStub(channel)


async def read(call: Any, *, until_caught_up: bool = True, most: int = 99) -> list[pb.WatchApprovalsResponse]:
    """Read until the stream has caught up, or so many messages."""
    found: list[pb.WatchApprovalsResponse] = []
    while len(found) < most:
        found.append(await call.read())
        if until_caught_up and found[-1].caught_up:
            break
    return found


def steps(messages: list[pb.WatchApprovalsResponse]) -> list[tuple[str, int]]:
    return [(each.approval.step, each.approval.status) for each in messages if each.HasField("approval")]


@pytest.mark.parametrize("which", [pb.ApprovalFilter(statuses=PENDING), pb.ApprovalFilter(mine=True)])
async def test_what_was_decided_while_nobody_watched_leaves_the_inbox_on_return(
    db: Database, stub: Any, which: pb.ApprovalFilter
) -> None:
    run = await running(db)
    gate = await ask(db, run, "review")
    inbox = stub.WatchApprovals(pb.WatchApprovalsRequest(filter=which), metadata=AS_ANN, timeout=20)
    first = await read(inbox)
    assert steps(first) == [("review", 1)]
    inbox.cancel()
    await decide(db, "acme", gate, BOB, Verdict.DENY)
    back = pb.WatchApprovalsRequest(filter=which, cursor=first[-1].cursor)
    again = await read(stub.WatchApprovals(back, metadata=AS_ANN, timeout=20))
    assert steps(again) == [("review", 3)]


async def test_whoever_breaks_off_in_the_middle_of_what_is_pending_gets_the_rest(
    db: Database, stub: Any
) -> None:
    run = await running(db)
    for step in ("a", "b", "c"):
        await ask(db, run, step)
    inbox = stub.WatchApprovals(pb.WatchApprovalsRequest(), metadata=TENANT, timeout=20)
    (first,) = await read(inbox, most=1)
    inbox.cancel()
    back = pb.WatchApprovalsRequest(cursor=first.cursor)
    rest = await read(stub.WatchApprovals(back, metadata=TENANT, timeout=20))
    assert {"a", "b", "c"} - {first.approval.step} <= {step for step, _ in steps(rest)}


async def test_what_one_votes_on_leaves_ones_own_inbox_once(db: Database, stub: Any) -> None:
    run = await running(db)
    gate = await ask(db, run, "review", count=2)
    which = pb.ApprovalFilter(mine=True)
    inbox = stub.WatchApprovals(pb.WatchApprovalsRequest(filter=which), metadata=AS_ANN, timeout=20)
    await read(inbox)
    request = pb.DecideApprovalRequest(approval_id=str(gate), verdict=approval_pb2.APPROVAL_VERDICT_APPROVE)
    await stub.DecideApproval(request, metadata=AS_ANN)
    (voted,) = await read(inbox, most=1)
    assert [vote.user for vote in voted.approval.votes] == ["ann"]
    await decide(db, "acme", gate, BOB, Verdict.APPROVE)
    (ended,) = await read(inbox, most=1)
    assert ended.approval.status == approval_pb2.APPROVAL_STATUS_APPROVED


async def test_a_filter_for_what_was_denied_shows_no_approvals(db: Database, stub: Any) -> None:
    run = await running(db)
    which = pb.ApprovalFilter(statuses=[approval_pb2.APPROVAL_STATUS_DENIED])
    inbox = stub.WatchApprovals(pb.WatchApprovalsRequest(filter=which), metadata=TENANT, timeout=20)
    assert steps(await read(inbox)) == []
    yes, no = await ask(db, run, "yes"), await ask(db, run, "no")
    await decide(db, "acme", yes, ANN, Verdict.APPROVE)
    await decide(db, "acme", no, ANN, Verdict.DENY)
    (shown,) = await read(inbox, most=1)
    assert (shown.approval.step, shown.approval.status) == ("no", 3)


async def test_a_cursor_beyond_the_last_change_is_refused(db: Database, stub: Any) -> None:
    await ask(db, await running(db), "review")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.WatchApprovals(pb.WatchApprovalsRequest(cursor="999"), metadata=TENANT, timeout=20).read()
    assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE
