"""An inbox without polling: what is pending first, then each change, in order, after any cursor."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final
from uuid import UUID

from holdfast.approval.telling import Telling
from holdfast.approval.view import approval_message
from holdfast.kit.db import Database
from holdfast.kit.errors import ShuttingDown
from holdfast.ledger import approval_view
from holdfast.ledger.approval_view import Filter, StoredGate
from holdfast.ledger.domain.approval import ApprovalStatus, Person
from holdfast.v1 import approval_service_pb2 as pb

PAGE: Final = 100
LOOK_SECONDS: Final = 5.0
"""What a lost hint costs at most."""


def may_decide(stored: StoredGate, person: Person) -> bool:
    """Tell whether a person may decide a gate now."""
    gate = stored.gate
    voted = any(vote.person.user == person.user and not vote.voided for vote in gate.votes)
    listed = any(person.is_one_of(quorum.approvers) for quorum in gate.required)
    return gate.status is ApprovalStatus.PENDING and listed and not voted


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
        self._shown: set[UUID] = set()

    async def updates(
        self, cursor: int | None, draining: asyncio.Event
    ) -> AsyncIterator[pb.WatchApprovalsResponse]:
        """Yield messages until the process drains, which raises `ShuttingDown`."""
        with self._telling.watching(self._tenant) as changed:
            at = cursor
            if at is None:
                async with self._db.connection() as connection:
                    at = await approval_view.last_change(connection, self._tenant)
                async for stored in self._pending():
                    self._shown.add(stored.approval_id)
                    yield pb.WatchApprovalsResponse(approval=approval_message(stored), cursor=str(at))
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

    def _shows(self, stored: StoredGate) -> bool:
        """Tell whether a change is shown; one that leaves the filter is shown once more."""
        wanted = self._wanted
        if wanted.run_id not in (None, stored.run_id) or wanted.intent not in ("", stored.intent):
            return False
        if any(stored.labels.get(key) != value for key, value in wanted.labels.items()):
            return False
        status = stored.gate.status
        matches = not wanted.statuses or status in wanted.statuses
        if matches and self._person is not None:
            matches = may_decide(stored, self._person)
        if matches:
            self._shown.add(stored.approval_id)
            return True
        if stored.approval_id in self._shown:
            self._shown.discard(stored.approval_id)
            return True
        return False


async def _either(changed: asyncio.Event, draining: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in (changed, draining)]
    try:
        await asyncio.wait(waiting, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
