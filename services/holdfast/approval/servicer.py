"""ApprovalService: gates opened by runs, decided by people or by time; a call sees its tenant's own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from prometheus_client import CollectorRegistry

from holdfast.approval.message import LONGEST_TEXT, json_of, policy_of
from holdfast.approval.metrics import ApprovalMetrics
from holdfast.approval.telling import Telling
from holdfast.approval.view import approval_message
from holdfast.approval.watch import Watch, may_decide
from holdfast.kit.auth.capability import demand_lease
from holdfast.kit.db import Database
from holdfast.kit.rpc.page import cursor_of, size_of, token_of
from holdfast.kit.rpc.person import caller
from holdfast.kit.rpc.tenant import agree, current_tenant
from holdfast.kit.rpc.violation import Violations
from holdfast.kit.telemetry.about import about_run
from holdfast.ledger import approval_request, approval_view, approval_vote
from holdfast.ledger.approval_change import key_of
from holdfast.ledger.domain.approval import ApprovalStatus, Person, Verdict
from holdfast.v1 import approval_pb2
from holdfast.v1 import approval_service_pb2 as pb
from holdfast.v1.approval_service_pb2_grpc import ApprovalServiceServicer as Contract

LONGEST_STEP: Final = 255
_MOST: Final = 2**63


class ApprovalServicer(Contract):
    """Serves `holdfast.v1.ApprovalService` on the ledger; `telling` passes on what has changed."""

    def __init__(self, db: Database, telling: Telling, metrics: ApprovalMetrics | None = None) -> None:
        self._db = db
        self._metrics = metrics or ApprovalMetrics(CollectorRegistry())
        self._telling = telling
        self._draining = asyncio.Event()

    async def RequestApproval(  # noqa: N802 - the contract's names
        self, request: pb.RequestApprovalRequest, context: Any
    ) -> pb.RequestApprovalResponse:
        """Open a gate for the runner that holds the run."""
        del context
        wrong = Violations()
        run_id = wrong.uuid("run_id", request.run_id)
        if request.epoch < 1:
            wrong.add("epoch", "must be at least 1")
        wrong.text("step", request.step, longest=LONGEST_STEP)
        wrong.text("title", request.title, required=False, longest=LONGEST_TEXT)
        payload = json_of(request.payload, "payload", wrong)
        policy = policy_of(request.policy, wrong)
        wrong.check()
        about_run(run_id)
        demand_lease(run_id, request.epoch)
        title = request.title or request.step
        asked = approval_request.Request(run_id, request.epoch, request.step, title, payload, policy)
        changed = await approval_request.request(self._db, asked)
        self._telling.changed([changed])
        if not changed.repeated:
            self._metrics.requested.inc()
        async with self._db.connection() as connection:
            stored = await approval_view.of_run(connection, run_id, changed.approval_id)
        return pb.RequestApprovalResponse(
            approval=approval_message(stored),
            mailbox_key=key_of(changed.approval_id),
            reattached=changed.repeated,
        )

    async def DecideApproval(  # noqa: N802
        self, request: pb.DecideApprovalRequest, context: Any
    ) -> pb.DecideApprovalResponse:
        """Take the vote of whoever calls."""
        tenant = agree(request.caller.tenant)
        who = caller(context, request.caller.user)
        wrong = Violations()
        approval_id = wrong.uuid("approval_id", request.approval_id)
        verdict = int(request.verdict)
        if verdict not in (Verdict.APPROVE, Verdict.DENY):
            wrong.add("verdict", "must be APPROVE or DENY")
        if len(request.reason.encode()) > LONGEST_TEXT or "\0" in request.reason:
            wrong.add("reason", f"must be at most {LONGEST_TEXT} bytes, without NUL")
        if request.payload_revision < 0:
            wrong.add("payload_revision", "must not be negative")
        edited = None
        if request.HasField("edited_payload"):
            edited = json_of(request.edited_payload, "edited_payload", wrong)
            if verdict == Verdict.DENY:
                wrong.add("edited_payload", "must be unset with DENY")
        wrong.check()
        changed = await approval_vote.decide(
            self._db,
            tenant,
            approval_id,
            Person(who.user, who.groups, who.roles),
            Verdict(verdict),
            reason=request.reason,
            edited=edited,
            revision=request.payload_revision,
        )
        self._telling.changed([changed])
        self._metrics.votes.labels(Verdict(verdict).name.lower()).inc()
        return pb.DecideApprovalResponse(approval=await self._read(approval_id))

    async def GetApproval(  # noqa: N802
        self, request: pb.GetApprovalRequest, context: Any
    ) -> pb.GetApprovalResponse:
        """Read a gate."""
        del context
        wrong = Violations()
        approval_id = wrong.uuid("approval_id", request.approval_id)
        wrong.check()
        return pb.GetApprovalResponse(approval=await self._read(approval_id, audit=request.include_audit))

    async def ListApprovals(  # noqa: N802
        self, request: pb.ListApprovalsRequest, context: Any
    ) -> pb.ListApprovalsResponse:
        """Read a page of gates; with `mine` a page may hold fewer than there is room for."""
        wrong = Violations()
        size = size_of(wrong, request.page_size)
        newest = request.order == pb.APPROVAL_ORDER_NEWEST
        kind = "newest" if newest else "deadline"
        after = _after(cursor_of(wrong, kind, request.page_token), wrong)
        wanted = _filter(request.filter, wrong)
        wrong.check()
        me = caller(context) if request.filter.mine else None
        async with self._db.connection() as connection:
            found = await approval_view.page(
                connection, current_tenant(), wanted, newest=newest, after=after, limit=size + 1
            )
            shown = found[:size]
            last = shown[-1] if len(found) > size else None
            if me is not None:
                person = Person(me.user, me.groups, me.roles)
                shown = [stored for stored in shown if may_decide(stored, person)]
            links = []
            if request.include_audit:
                links = await approval_view.audit(connection, [stored.approval_id for stored in shown])
        token = ""
        if last is not None:
            moment = last.create_time if newest else last.deadline_time
            token = token_of(kind, f"{moment.isoformat()} {last.approval_id}")
        return pb.ListApprovalsResponse(
            approvals=[
                approval_message(each, (link for link in links if link.approval_id == each.approval_id))
                for each in shown
            ],
            next_page_token=token,
        )

    async def WatchApprovals(  # noqa: N802
        self, request: pb.WatchApprovalsRequest, context: Any
    ) -> AsyncIterator[pb.WatchApprovalsResponse]:
        """Send what is pending, then each change, until the client leaves or this process drains."""
        wrong = Violations()
        wanted = _filter(request.filter, wrong)
        cursor = int(request.cursor) if request.cursor.isascii() and request.cursor.isdigit() else None
        if request.cursor and (cursor is None or cursor >= _MOST):
            wrong.add("cursor", "must be the cursor of a message of this stream")
        wrong.check()
        me = caller(context) if request.filter.mine else None
        person = None if me is None else Person(me.user, me.groups, me.roles)
        watch = Watch(self._db, self._telling, current_tenant(), wanted, person)
        async for update in watch.updates(cursor, self._draining):
            yield update

    async def drain(self) -> None:
        """End the streams: their clients find another process."""
        self._draining.set()

    async def _read(self, approval_id: UUID, *, audit: bool = False) -> approval_pb2.Approval:
        async with self._db.connection() as connection:
            stored = await approval_view.get(connection, current_tenant(), approval_id)
            links = await approval_view.audit(connection, [approval_id]) if audit else []
        return approval_message(stored, links)


def _filter(asked: pb.ApprovalFilter, wrong: Violations) -> approval_view.Filter:
    known = ApprovalStatus._value2member_map_
    if any(status not in known for status in asked.statuses):
        wrong.add("filter.statuses", "must each be a status of an approval")
    statuses: Sequence[ApprovalStatus] = [ApprovalStatus(each) for each in asked.statuses if each in known]
    if asked.mine and not statuses:
        statuses = [ApprovalStatus.PENDING]
    return approval_view.Filter(
        statuses=statuses,
        run_id=wrong.uuid("filter.run_id", asked.run_id) if asked.run_id else None,
        intent=wrong.text("filter.intent", asked.intent, required=False),
        labels=dict(asked.labels),
    )


def _after(cursor: str, wrong: Violations) -> tuple[datetime, UUID] | None:
    if not cursor:
        return None
    moment, _, approval_id = cursor.partition(" ")
    try:
        return datetime.fromisoformat(moment), UUID(approval_id)
    except ValueError:
        wrong.add("page_token", "must be the next_page_token of a page before")
        return None
