"""The parts of an Invoker and how they know each other; every service it serves is made of them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from prometheus_client import CollectorRegistry

from holdfast.invoker.batch_applier import BatchApplier
from holdfast.invoker.batch_driver import BatchDriver
from holdfast.invoker.board import Board
from holdfast.invoker.caretaker import Caretaker
from holdfast.invoker.claimer import Claimer
from holdfast.invoker.deciding import Deciding
from holdfast.invoker.door import Door
from holdfast.invoker.follow import Followers
from holdfast.invoker.hints import Hints
from holdfast.invoker.inbox import Inbox
from holdfast.invoker.intents import Intents
from holdfast.invoker.item_source import ItemSources, read_item_sources
from holdfast.invoker.live import Live
from holdfast.invoker.mailroom import Mailroom
from holdfast.invoker.metrics import InvokerMetrics
from holdfast.invoker.refusals import Refusals
from holdfast.invoker.scaling import Snapshot
from holdfast.invoker.schedule_action import Starting
from holdfast.invoker.scheduling import Scheduling
from holdfast.invoker.settings import InvokerSettings
from holdfast.invoker.source_reader import SourceReader
from holdfast.invoker.spawning import Spawning
from holdfast.invoker.stopping import Stopping
from holdfast.invoker.waiters import Waiters
from holdfast.kit.auth.capability import Capabilities
from holdfast.kit.db import Database
from holdfast.kit.loops import Loop
from holdfast.kit.secret import Secrets
from holdfast.kit.telemetry.metrics import GAUGE_SECONDS
from holdfast.ledger import session
from holdfast.ledger.notice import Notices

LEAVE_AFTER = 0.8
"""The share of the grace in which open calls may end by themselves, before they are sent elsewhere."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What an Invoker is made of.

    running ──drain──▶ nothing new comes in ──(most of the grace)──▶ waits and streams leave ──close──▶ over
    """

    settings: InvokerSettings
    db: Database
    board: Board
    live: Live
    notices: Notices
    claimer: Claimer
    intents: Intents
    refusals: Refusals
    door: Door
    waiters: Waiters
    followers: Followers
    inbox: Inbox
    caretaker: Caretaker
    stopping: Stopping
    deciding: Deciding
    mailroom: Mailroom
    spawning: Spawning
    scheduling: Scheduling
    starting: Starting
    hints: Hints
    scaling: Snapshot
    capabilities: Capabilities | None
    batches: BatchDriver
    applier: BatchApplier
    sources: ItemSources
    reader: SourceReader
    gauges: Loop

    @classmethod
    def make(
        cls,
        db: Database,
        settings: InvokerSettings,
        metrics: InvokerMetrics | None = None,
        *,
        secrets: Secrets | None = None,
    ) -> Self:
        """Put the parts together; nothing runs yet. Raises `SettingsError` for malformed declarations."""
        metrics = metrics or InvokerMetrics(CollectorRegistry())
        board, live, notices = (
            Board(settings.heartbeat_interval * 2),
            Live(_attach_tokens(db), settings.tls),
            Notices(db),
        )
        metrics.watch_board(lambda: len(board.sessions()), board.credit)
        claimer = Claimer(db, board, metrics)
        intents = Intents(db, queue_unknown=settings.queue_unknown_intents)
        waiters, followers = Waiters(db), Followers(db, live)
        hints = Hints(board, claimer, waiters, followers, notices)
        scaling = Snapshot(db)
        hints.also(scaling.queued)
        refusals = Refusals(db)
        stopping = Stopping(db, board, live, hints)
        door = Door(db, board, hints, intents, refusals, metrics=metrics)
        inbox = Inbox(db, door, intents, max_attempts=settings.max_attempts)
        batches = BatchDriver(db, board, hints, settings, metrics)
        applier = BatchApplier(db, hints, settings)
        sources = ItemSources(
            read_item_sources(settings.batch_sources_file), secrets or Secrets({}, settings.secrets_dir)
        )
        reader = SourceReader(db, sources, batches.loop.wake)
        starting = Starting(settings.max_attempts, sources)
        scheduling = Scheduling(
            db, hints, stopping, refusals, starting=starting, batches=(batches.loop, reader.loop)
        )
        mailroom = Mailroom(db, board, live, hints)
        others = {
            "staged": inbox.loop.wake,
            "batching": batches.loop.wake,
            "applying": applier.loop.wake,
            "sourced": reader.loop.wake,
            "ready": claimer.queued,
            "mail": mailroom.loop.wake,
        }
        caretaker = Caretaker(db, board, hints, settings, scheduling, others=others, metrics=metrics)
        return cls(
            settings=settings,
            db=db,
            board=board,
            live=live,
            notices=notices,
            claimer=claimer,
            intents=intents,
            refusals=refusals,
            door=door,
            waiters=waiters,
            followers=followers,
            inbox=inbox,
            caretaker=caretaker,
            stopping=stopping,
            deciding=Deciding(db, hints, notices),
            mailroom=mailroom,
            spawning=Spawning(db, intents, hints, refusals),
            scheduling=scheduling,
            starting=starting,
            hints=hints,
            scaling=scaling,
            capabilities=settings.capabilities(),
            applier=applier,
            batches=batches,
            sources=sources,
            reader=reader,
            gauges=Loop("gauges", lambda: metrics.queues.look(db), interval=GAUGE_SECONDS),
        )


def _attach_tokens(db: Database) -> Callable[[str], Awaitable[str]]:
    async def find(address: str) -> str:
        async with db.connection() as connection:
            return await session.attach_token(connection, address)

    return find


class Running:
    """The loops of an Invoker, from the block's begin to its end."""

    def __init__(self, parts: Parts, stop: asyncio.Event) -> None:
        self._parts = parts
        self._stop = stop
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        parts = self._parts
        self._listener = parts.hints.listen(parts.db, parts.mailroom.loop.wake, parts.inbox.loop.wake)
        self._admitting = self._task("door", parts.door.run(self._stop))
        # What brings new work ends when asked to; what serves the calls that are still open, after them.
        batches = (parts.batches.loop, parts.applier.loop, parts.reader.loop, parts.reader.holding)
        claims = (parts.claimer.loop, parts.claimer.waiting)
        for loop in (*claims, *batches, parts.inbox.loop, *parts.caretaker.loops):
            self._loop(loop, self._stop)
        serving = (parts.waiters.loop, parts.followers.loop, parts.mailroom.loop, parts.refusals.loop)
        for loop in (*serving, parts.caretaker.heartbeats):
            self._loop(loop, self._over)
        if parts.settings.metrics_listen:
            self._loop(parts.gauges, self._over)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.close()
        await self._parts.reader.close()
        await self._parts.refusals.close()
        await self._parts.live.close()
        await self._parts.notices.close()

    async def drain(self) -> None:
        """Send the runners elsewhere and answer what was let in; what is still open later leaves too."""
        parts = self._parts
        grace = parts.settings.drain_grace
        parts.board.drain(grace)
        self._task("leave", self._leave(grace * LEAVE_AFTER))
        await asyncio.wait([self._admitting], timeout=grace)

    async def _leave(self, after: float) -> None:
        await asyncio.sleep(after)
        self._parts.waiters.close()
        self._parts.followers.close()
        self._parts.scaling.close()
        self._parts.board.close()

    def _loop(self, loop: Loop, until: asyncio.Event) -> None:
        self._task(loop.name, loop.run(until))

    def _task(self, name: str, work: Awaitable[None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)  # work is a coroutine
        task.set_name(name)
        self._tasks.append(task)
        return task
