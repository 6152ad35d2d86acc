"""Makes leased runs and commits for tests of the commit path."""

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from holdfast.kit.db import Database
from holdfast.ledger import SESSION_SETTINGS
from holdfast.ledger.admission import admit
from holdfast.ledger.claim import Demand, claim
from holdfast.ledger.commit_value import CommitItem, Happened, Record
from holdfast.ledger.domain.commit import Charge
from holdfast.ledger.session import RunnerSession, open_session
from holdfast.ledger.values import Admitted, Invocation, Leased, LeaseRef, Limits, ServedIntent

SERVED = (ServedIntent("count", "1"),)


@asynccontextmanager
async def open_ledger(url: str, **more: Any) -> AsyncIterator[Database]:
    """Connect as a checkpoint service would."""
    async with await Database.connect(
        url, application_name="test", server_settings=SESSION_SETTINGS, **more
    ) as db:
        yield db


class Floor:
    """A runner's session on the ledger, which takes runs as they are asked for."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.session_id = uuid.uuid4()
        self.invoker_id = uuid.uuid4()

    async def open(self) -> "Floor":
        """Open the session for a minute."""
        session = RunnerSession(self.session_id, self.invoker_id, "127.0.0.1:9", SERVED)
        await open_session(self.db, session, ttl_s=60)
        return self

    async def admit(self, n: int = 1, **more: Any) -> list[uuid.UUID]:
        """Queue runs, without a lease."""
        made = [_invocation(**more) for _ in range(n)]
        answers = await admit(self.db, made)
        assert all(isinstance(answer, Admitted) for answer in answers), answers
        return [invocation.run_id for invocation in made]

    async def take(self, slots: int = 1) -> list[Leased]:
        """Lease what is queued."""
        return await claim(self.db, [Demand(self.session_id, SERVED, slots)])

    async def lease(self, n: int = 1, **more: Any) -> list[Leased]:
        """Queue runs and lease them, in the order they were admitted."""
        ids = await self.admit(n, **more)
        taken = {run.run_id: run for run in await self.take(n)}
        return [taken[run_id] for run_id in ids]

    async def row(self, run_id: uuid.UUID) -> Any:
        """Return where a run stands."""
        async with self.db.connection() as connection:
            return await connection.fetchrow("SELECT * FROM run_state WHERE run_id = $1", run_id)

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        """Read whatever a test must see."""
        async with self.db.connection() as connection:
            return list(await connection.fetch(query, *arguments))

    async def execute(self, query: str, *arguments: Any) -> None:
        """Change what no verb changes."""
        async with self.db.connection() as connection:
            await connection.execute(query, *arguments)


def _invocation(**more: Any) -> Invocation:
    run_id = more.pop("run_id", None) or uuid.uuid4()
    return Invocation(
        run_id=run_id,
        tenant=more.pop("tenant", "default"),
        intent="count",
        idempotency_key=str(run_id),
        fingerprint=b"",
        envelope=b"",
        limits=more.pop("limits", Limits(max_steps=10, max_tools=5, max_tokens=1000, max_context=500)),
        **more,
    )


def commit(run: Leased, number: int, *, keys: Sequence[str] = (), events: int = 0, **more: Any) -> CommitItem:
    """Return a commit of steps by key and of some events from `first` on, each step charged as one."""
    first = more.pop("first", run.last_sequence + 1)
    happened = Happened(first, first + events - 1, b"batch", more.pop("emitted", None)) if events else None
    return CommitItem(
        run_id=run.run_id,
        epoch=more.pop("epoch", run.epoch),
        number=number,
        records=[Record(key, f"record of {key}".encode()) for key in keys],
        charge=more.pop("charge", Charge(steps=len(keys))),
        happened=happened,
        **more,
    )


def lease_ref(run: Leased) -> LeaseRef:
    """Name a lease."""
    return LeaseRef(run.run_id, run.epoch)
