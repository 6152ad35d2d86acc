"""Whether churn slows the ledger: its verbs, on one that removes runs seconds after their end.

A thousand runs wait all the time; whatever is admitted is claimed, takes a step, ends, and is removed. Beside
every hundred a batch is made and cancelled, and sessions are saved, which are removed likewise.
Autovacuum works as it is set. What is looked at, once removal has begun, is what a claim costs in the first
and in the last twentieth, and what the tables that work passes through have grown to meanwhile. Milliseconds
are the machine's too, on which removal and autovacuum work beside; the pages a claim looks at are its own.
"""

import asyncio
import random
import statistics
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast.embedded import EmbeddedPostgres
from holdfast.kit.db import Database
from holdfast.kit.ids import new_id
from holdfast.ledger import batch, migrate, tenant
from holdfast.ledger.admission import Placements, admit
from holdfast.ledger.batch import NewBatch, NewItem
from holdfast.ledger.batch_advance import Active, advance
from holdfast.ledger.batch_removal import remove_batch_rows, remove_batches
from holdfast.ledger.claim import Demand, claim
from holdfast.ledger.commit import commit_group
from holdfast.ledger.commit_value import CommitItem, Happened, Record
from holdfast.ledger.domain.commit import Charge
from holdfast.ledger.domain.lane import lane_of
from holdfast.ledger.domain.status import RunStatus
from holdfast.ledger.release import lock_tenants
from holdfast.ledger.removal import remove
from holdfast.ledger.session import RunnerSession, open_session
from holdfast.ledger.session_removal import remove_sessions
from holdfast.ledger.session_settings import SESSION_SETTINGS
from holdfast.ledger.session_state import Saving, save
from holdfast.ledger.values import Invocation, Leased, Outcome, ServedIntent

TENANTS: Final = 20
WAITING: Final = 1_000
KEPT_SECONDS: Final = 5.0
YEAR_SECONDS: Final = 365 * 86_400
GROUP: Final = 100
SLOTS: Final = 10
SLICES: Final = 20
KILOBYTE: Final = bytes(1024)
TABLES: Final = (
    "tenant", "tenant_pool", "ready", "lease", "timer", "run_state", "run", "run_outcome", "idempotency",
    "checkpoint", "transcript", "session", "batch", "batch_input", "batch_item", "batch_count",
    "batch_remains",
)  # fmt: skip

# Of a table with partitions, all of them together.
_BLOAT: Final = """
SELECT t.name, count(*) AS parts, sum(s.n_live_tup)::bigint AS live, sum(s.n_dead_tup)::bigint AS dead,
       sum(pg_table_size(s.relid))::bigint AS bytes, sum(pg_indexes_size(s.relid))::bigint AS index_bytes,
       sum(s.autovacuum_count)::bigint AS vacuums
FROM unnest($1::text[]) AS t (name)
JOIN pg_stat_user_tables s
     ON s.schemaname = 'holdfast' AND s.relname ~ ('^' || t.name || '(_[0-9]{8}|_default)?$')
GROUP BY t.name
"""
_PID: Final = "SELECT pg_backend_pid(), pg_stat_force_next_flush()"
_PAGES: Final = "SELECT coalesce(sum(hits + reads), 0)::bigint FROM pg_stat_get_backend_io($1)"


Beside = Callable[[Database], Coroutine[Any, Any, None]]
"""What goes on until it is cancelled."""


@dataclass(slots=True)
class Slice:
    """A twentieth of the work: what its claims took, and how the tables stood at its end."""

    claims_ms: list[float] = field(default_factory=list)
    pages: float = 0.0
    tables: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def claim_ms(self) -> float:
        """The median of its claims."""
        return round(statistics.median(self.claims_ms), 3)


@dataclass(frozen=True, slots=True)
class Terms:
    """How long runs are kept after their end, what a hundred take at least, and how the ledger is reached."""

    kept_s: float = KEPT_SECONDS
    hundred_s: float = 0.0
    connect: Mapping[str, float] = field(default_factory=dict)


async def churn(
    runs: int, server: EmbeddedPostgres | None = None, terms: Terms = Terms(), *beside: Beside
) -> dict[str, object]:
    """Push runs through; return what claims and tables were like at the start, half-way and at the end.

    It is done on a server of its own, if none is given; what is `beside` goes on until the end.
    """
    async with server or EmbeddedPostgres(ephemeral=True) as standing:
        await standing.create_database("holdfast")
        url = standing.url("holdfast")
        await migrate(url)
        connect: dict[str, Any] = {
            "application_name": "bench",
            "server_settings": SESSION_SETTINGS,
            **terms.connect,
        }
        async with (
            await Database.connect(url, **connect) as db,
            await Database.connect(url, pool_size=1, **connect) as claims,
        ):
            for number in range(TENANTS):
                kept = {f"keep_{shape}_s": terms.kept_s for shape in ("worker", "batch", "service")}
                await tenant.change(db, f"t{number}", kept, make=True)
            async with asyncio.TaskGroup() as tasks:
                upkeep = [tasks.create_task(work(db)) for work in (_remove, *beside)]
                began = time.perf_counter()
                slices = await _work(db, claims, runs, terms)
                seconds = time.perf_counter() - began
                for task in upkeep:
                    task.cancel()
            return _told(slices, runs, seconds)


async def _work(db: Database, claims: Database, runs: int, terms: Terms) -> Sequence[Slice]:
    session = RunnerSession(uuid.uuid4(), new_id(), "127.0.0.1:1", (ServedIntent("w1", "1"),))
    await open_session(db, session, ttl_s=YEAR_SECONDS)
    demand = Demand(session_id=session.session_id, intents=session.intents, slots=SLOTS)
    for _ in range(WAITING // GROUP):
        await _admit(db)
    slices = []
    for _ in range(1 + SLICES):
        one = Slice(pages=-float(await _pages(db, claims)))
        for _ in range(runs // SLICES // GROUP):
            next_s = time.monotonic() + terms.hundred_s
            await _admit(db)
            leased: list[Leased] = []
            while len(leased) < GROUP:
                began = time.perf_counter()
                leased += await claim(claims, [demand])
                one.claims_ms.append(1000 * (time.perf_counter() - began))
            await _execute(db, leased)
            await _batch(db)
            await _converse(db)
            await asyncio.sleep(next_s - time.monotonic())
        one.pages = round((one.pages + await _pages(db, claims)) / len(one.claims_ms), 1)
        one.tables = await _bloat(db)
        slices.append(one)
    return slices[1:]


async def _admit(db: Database) -> None:
    made = []
    for number in range(GROUP):
        run_id = new_id()
        made.append(
            Invocation(
                run_id=run_id,
                tenant=f"t{number % TENANTS}",
                intent="w1",
                shape=2,
                idempotency_key=str(run_id),
                fingerprint=b"",
                envelope=KILOBYTE,
            )
        )
    await admit(db, made)


async def _execute(db: Database, leased: Sequence[Leased]) -> None:
    """Let each take a step and end."""
    steps = [
        CommitItem(
            run.run_id, run.epoch, 1, [Record("step", KILOBYTE)], Charge(steps=1), Happened(2, 3, KILOBYTE)
        )
        for run in leased
    ]
    ends = [CommitItem(run.run_id, run.epoch, 2, move=Outcome(RunStatus.SUCCEEDED, b"1")) for run in leased]
    await commit_group(db, steps)
    await commit_group(db, ends)


async def _batch(db: Database) -> None:
    """Make a batch that is cancelled, and let that be carried out."""
    batch_id, of = uuid.uuid4(), f"t{random.randrange(TENANTS)}"
    await batch.create(db, NewBatch(batch_id, of, "w1", str(batch_id), b"", b""))
    await batch.append(db, of, batch_id, 0, [NewItem("", KILOBYTE) for _ in range(GROUP)])
    await batch.cancel(db, of, batch_id, "")
    while not (await advance(db, Active(batch_id, of), lambda _: [], lambda _: Placements())).rests:
        pass


async def _converse(db: Database) -> None:
    """Save new sessions, as ends of runs do."""
    savings = [
        Saving(
            uuid.uuid4(), f"t{number % TENANTS}", lane_of("", str(new_id())), RunStatus.SUCCEEDED, KILOBYTE, 0
        )
        for number in range(GROUP)
    ]
    async with db.transaction() as connection:
        await lock_tenants(connection, sorted({one.tenant for one in savings}))
        await save(connection, savings)


async def _remove(db: Database) -> None:
    """Remove what is over, as an Invoker does but every second."""
    while True:
        done = [await remove(db), await remove_batches(db), await remove_sessions(db)]
        rows = await remove_batch_rows(db)
        if not rows + sum(one.removed + one.put_off for one in done):
            await asyncio.sleep(1)


async def _pages(db: Database, claims: Database) -> int:
    """Return how many pages the connection that claims has looked at so far."""
    async with claims.connection() as connection:
        pid = await connection.fetchval(_PID)
    async with db.connection() as connection:
        pages: int = await connection.fetchval(_PAGES, pid)
    return pages


async def _bloat(db: Database) -> dict[str, dict[str, int]]:
    async with db.connection() as connection:
        rows: Sequence[Any] = await connection.fetch(_BLOAT, list(TABLES))
    told = [dict(row) for row in rows]
    return {row.pop("name"): row for row in told}


def _told(slices: Sequence[Slice], runs: int, seconds: float) -> dict[str, object]:
    first, middle, last = slices[0], slices[len(slices) // 2], slices[-1]
    return {
        "claim_ratio": round(last.claim_ms / first.claim_ms, 3),
        "pages_ratio": round(last.pages / first.pages, 3),
        "claim_ms": [one.claim_ms for one in slices],
        "claim_pages": [one.pages for one in slices],
        "runs_per_s": round(runs * (1 + 1 / SLICES) / seconds, 1),
        "tables_at_first": first.tables,
        "tables_at_half": middle.tables,
        "tables_at_last": last.tables,
        "most_dead": {name: max(one.tables[name]["dead"] for one in slices) for name in TABLES},
    }
