"""Approvals: gates of runs at which people decide."""

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from holdfast.client.approval_value import NOBODY, Approval, AuditEntry, Person, approval_of
from holdfast.client.inbox import Inbox
from holdfast.client.link import Link
from holdfast.client.number import ApprovalStatus
from holdfast.client.retry import Lost
from holdfast.client.wire_value import value_of
from holdfast.v1 import approval_pb2, approval_service_pb2, approval_service_pb2_grpc

__all__ = ["NOBODY", "Approval", "Approvals", "AuditEntry", "Person"]


class Approvals:
    """The tenant's approvals: `client.approvals`; decided as `person`."""

    def __init__(
        self, stub: approval_service_pb2_grpc.ApprovalServiceStub, link: Link, person: Person
    ) -> None:
        self._stub = stub
        self._link = link
        self._person = person

    async def list(
        self,
        *,
        statuses: Iterable[ApprovalStatus] = (),
        run_id: str = "",
        intent: str = "",
        mine: bool = False,
        audit: bool = False,
        page_size: int = 100,
    ) -> AsyncIterator[Approval]:
        """Yield the approvals that match, the most urgent first; `mine` are those one may decide."""
        request = approval_service_pb2.ListApprovalsRequest(
            filter=_filter(statuses, run_id, intent, mine=mine), page_size=page_size, include_audit=audit
        )
        while True:
            page = await self._link.call(self._stub.ListApprovals, request, more=self._person.metadata)
            for message in page.approvals:
                yield approval_of(message)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch(
        self,
        *,
        statuses: Iterable[ApprovalStatus] = (),
        run_id: str = "",
        intent: str = "",
        mine: bool = False,
        labels: Mapping[str, str] | None = None,
        cursor: str = "",
        on_lost: Lost | None = None,
    ) -> Inbox:
        """Follow the approvals that match: those that wait first, or what has changed since a cursor."""
        wanted = _filter(statuses, run_id, intent, mine=mine)
        wanted.labels.update(labels or {})
        request = approval_service_pb2.WatchApprovalsRequest(filter=wanted, cursor=cursor)
        return Inbox(self._stub, self._link, request, self._person.metadata, on_lost)

    async def get(self, approval_id: str, *, audit: bool = False) -> Approval:
        """Return an approval."""
        request = approval_service_pb2.GetApprovalRequest(approval_id=approval_id, include_audit=audit)
        return approval_of((await self._link.call(self._stub.GetApproval, request)).approval)

    async def approve(
        self, approval_id: str, reason: str = "", *, edited: Any = None, revision: int = 0
    ) -> Approval:
        """Approve; with `edited` another payload than asked for. Repeatable.

        Raises `NotAnApprover`, and `ApprovalDecided` if someone has decided otherwise.
        """
        request = approval_service_pb2.DecideApprovalRequest(
            approval_id=approval_id,
            verdict=approval_pb2.APPROVAL_VERDICT_APPROVE,
            reason=reason,
            payload_revision=revision,
        )
        if edited is not None:
            request.edited_payload.CopyFrom(value_of(edited))
        return await self._decide(request)

    async def deny(self, approval_id: str, reason: str = "") -> Approval:
        """Deny: one who is listed denies for all. Repeatable; raises as `approve`."""
        return await self._decide(
            approval_service_pb2.DecideApprovalRequest(
                approval_id=approval_id, verdict=approval_pb2.APPROVAL_VERDICT_DENY, reason=reason
            )
        )

    async def _decide(self, request: approval_service_pb2.DecideApprovalRequest) -> Approval:
        answer = await self._link.call(self._stub.DecideApproval, request, more=self._person.metadata)
        return approval_of(answer.approval)


def _filter(
    statuses: Iterable[ApprovalStatus], run_id: str, intent: str, *, mine: bool
) -> approval_service_pb2.ApprovalFilter:
    return approval_service_pb2.ApprovalFilter(
        statuses=[approval_pb2.ApprovalStatus.ValueType(int(status)) for status in statuses],
        run_id=run_id,
        intent=intent,
        mine=mine,
    )
