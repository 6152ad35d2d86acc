"""An inbox without polling: what is pending first, then each change, in order, after any cursor."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final
from uuid import UUID

from holdfast.approval.telling import Telling
from holdfast.approval.view import approval_message
from holdfast.kit.db import Database
from holdfast.kit.errors import SequenceOutOfRange, ShuttingDown
from holdfast.ledger import approval_view
from holdfast.ledger.approval_view import Filter, StoredGate
from holdfast.ledger.domain.approval import ApprovalStatus, Person
from holdfast.v1 import approval_service_pb2 as pb

PAGE: Final = 100
START: Final = ""
"""The cursor of those who have not seen all that is pending: they begin again."""


def may_decide(stored: StoredGate, person: Person) -> bool:
    """Tell whether a person may decide a gate now."""
    gate = stored.gate
    voted = any(vote.person.user == person.user and not vote.voided for vote in gate.votes)
    listed = any(person.is_one_of(quorum.approvers) for quorum in gate.required)
    return gate.status is ApprovalStatus.PENDING and listed and not voted


def was_asked(stored: StoredGate, person: Person) -> bool:
    """Tell whether a person is asked, or was before the gate was escalated."""
    gate = stored.gate
    steps = gate.policy.escalation[: gate.level]
    quorums = [*gate.policy.required, *(quorum for step in steps for quorum in step.required)]
    return any(person.is_one_of(quorum.approvers) for quorum in quorums)


class Watch:
    """One stream of one tenant's approvals."""

    def __init__(
        self, db: Database, telling: Telling, tenant: str, wanted: Filter, person: Person | None
    ) -> None:
        self._db = db
        self._telling = telling
        self._tenant = tenant
        self._wanted = wanted
        self._person = person

    async def updates(
        self, cursor: int | None, draining: asyncio.Event
    ) -> AsyncIterator[pb.WatchApprovalsResponse]:
        """Yield messages until the process drains, which raises `ShuttingDown`.

        Raises `SequenceOutOfRange` for a cursor that is none of the tenant's.
        """
        with self._telling.watching(self._tenant) as changed:
            async with self._db.connection() as connection:
                last = await approval_view.last_change(connection, self._tenant)
            at = last if cursor is None else cursor
            if at > last:
                raise SequenceOutOfRange("The cursor is beyond the last change of an approval.")
            if cursor is None and self._wants_pending:
                async for stored in self._pending():
                    yield pb.WatchApprovalsResponse(approval=approval_message(stored), cursor=START)
            caught_up = False
            while not draining.is_set():
                changed.clear()
                async with self._db.connection() as connection:
                    found = await approval_view.changes(connection, self._tenant, at, PAGE)
                for stored in found:
                    at = stored.change
                    if self._shows(stored):
                        yield pb.WatchApprovalsResponse(
                            approval=approval_message(stored), cursor=str(at), caught_up=caught_up
                        )
                if len(found) == PAGE:
                    continue
                if not caught_up:
                    caught_up = True
                    yield pb.WatchApprovalsResponse(cursor=str(at), caught_up=True)
                await _either(changed, draining)
        raise ShuttingDown("This process is draining; open a stream to another.")

    async def _pending(self) -> AsyncIterator[StoredGate]:
        pending = Filter(
            [ApprovalStatus.PENDING], self._wanted.run_id, self._wanted.intent, self._wanted.labels
        )
        after: tuple[datetime, UUID] | None = None
        while True:
            async with self._db.connection() as connection:
                page = await approval_view.page(
                    connection, self._tenant, pending, newest=False, after=after, limit=PAGE
                )
            for stored in page:
                after = (stored.deadline_time, stored.approval_id)
                if self._person is None or may_decide(stored, self._person):
                    yield stored
            if len(page) < PAGE:
                return

    @property
    def _wants_pending(self) -> bool:
        return not self._wanted.statuses or ApprovalStatus.PENDING in self._wanted.statuses

    def _shows(self, stored: StoredGate) -> bool:
        """Tell whether a change is shown, also to one who has watched elsewhere before.

        What has left the filter, by being decided or because the person has voted, is shown as it is now.
        """
        wanted, person = self._wanted, self._person
        if wanted.run_id not in (None, stored.run_id) or wanted.intent not in ("", stored.intent):
            return False
        if any(stored.labels.get(key) != value for key, value in wanted.labels.items()):
            return False
        matches = not wanted.statuses or stored.gate.status in wanted.statuses
        if person is None:
            left = self._wants_pending and stored.gate.status is not ApprovalStatus.PENDING
            return matches or left
        return (matches and may_decide(stored, person)) or (self._wants_pending and was_asked(stored, person))


async def _either(changed: asyncio.Event, draining: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in (changed, draining)]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
