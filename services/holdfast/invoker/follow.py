"""Followers of a run see its transcript once, in order, whoever produces it and whoever dies.

    reading (ledger) ──▶ waiting (no runner) ──hint | poll──▶ reading
           │  ──────────▶ live (runner) ──gone | lost | behind | silent──▶ reading
           └──ended──▶ done

What was seen live and never committed dies with its runner. The cursor therefore has an epoch: when the
run's lease has changed, the follower is rewound to the last committed event of its own epoch or before.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from holdfast.invoker.live import Live
from holdfast.invoker.view import row_events
from holdfast.kit.db import Database
from holdfast.kit.errors import RunNotFound, SequenceOutOfRange
from holdfast.kit.loops import Loop
from holdfast.ledger import inspect
from holdfast.ledger.domain.status import ENDED, LEASED
from holdfast.ledger.position import Position, positions
from holdfast.ledger.values import TranscriptRow
from holdfast.v1 import transcript_pb2

POLL_SECONDS: Final = 1.0
PAGE_ROWS: Final = 200
RETRY_SECONDS: Final = 0.1

Update = transcript_pb2.RunEvent | transcript_pb2.Rewound


@dataclass(slots=True, eq=False)
class _Follower:
    """One stream that follows one run: where it is, and what wakes it."""

    tenant: str
    run_id: uuid.UUID
    sequence: int
    epoch: int
    committed: int
    woken: asyncio.Event
    seen: Position | None = None
    ended: bool = False


class Followers:
    """All followers of this Invoker; one query a second looks after the silent ones together."""

    def __init__(self, db: Database, live: Live) -> None:
        self._db = db
        self._live = live
        self._following: dict[uuid.UUID, set[_Follower]] = {}
        self.loop = Loop("followers", self.run_once, interval=POLL_SECONDS, eager=False)

    def hint(self, run_id: uuid.UUID) -> None:
        """Say that a run has moved."""
        for follower in self._following.get(run_id, ()):
            follower.woken.set()

    async def run_once(self) -> int:
        """Wake the followers of runs that have moved without their noticing."""
        if not self._following:
            return 0
        async with self._db.connection() as connection:
            found = await positions(connection, list(self._following))
        for run_id, position in found.items():
            for follower in self._following.get(run_id, ()):
                if (position.epoch, position.status) != _place(
                    follower.seen
                ) or position.last_sequence > follower.sequence:
                    follower.woken.set()
        return 0

    async def follow(
        self, tenant: str, run_id: uuid.UUID, sequence: int, epoch: int = 0
    ) -> AsyncIterator[Update]:
        """Yield a run's events after a sequence, until it has ended.

        `epoch` is that of the event at `sequence`, if the caller saw it live; 0 takes it as committed.
        Raises RunNotFound, and SequenceOutOfRange for a cursor beyond the end.
        """
        follower = _Follower(tenant, run_id, sequence, epoch, 0 if epoch else sequence, asyncio.Event())
        self._following.setdefault(run_id, set()).add(follower)
        try:
            await self._check_cursor(follower)
            while True:
                follower.woken.clear()
                position = await self._position(follower)
                async for update in self._settle_and_read(follower, position):
                    yield update
                if follower.ended:
                    return
                if position.status in LEASED and position.address:
                    before = follower.sequence
                    async with aclosing(self._live_events(follower, position)) as updates:
                        async for event in updates:
                            yield event
                    if follower.sequence == before:  # the runner is out of reach, or on its way out
                        await _woken(follower, RETRY_SECONDS)
                    continue
                if position.last_sequence <= follower.sequence or position.status not in ENDED:
                    await follower.woken.wait()
        finally:
            followers = self._following[run_id]
            followers.discard(follower)
            if not followers:
                del self._following[run_id]

    async def _check_cursor(self, follower: _Follower) -> None:
        position = await self._position(follower)
        beyond = follower.sequence > position.last_sequence
        if beyond and follower.epoch == 0 and position.status not in LEASED:
            raise SequenceOutOfRange(
                f"the run's transcript ends at {position.last_sequence}",
                facts={"last_sequence": str(position.last_sequence)},
            )

    async def _position(self, follower: _Follower) -> Position:
        async with self._db.connection() as connection:
            position = (await positions(connection, [follower.run_id])).get(follower.run_id)
        if position is None or position.tenant != follower.tenant:
            raise RunNotFound("There is no such run.", facts={"run_id": str(follower.run_id)})
        follower.seen = position
        return position

    async def _settle_and_read(self, follower: _Follower, position: Position) -> AsyncIterator[Update]:
        """Rewind what died, then read what is committed."""
        alive = position.status in LEASED and position.epoch == follower.epoch
        if follower.sequence > follower.committed and not alive:
            kept = await self._kept(follower)
            if kept < follower.sequence:
                follower.sequence = kept
                yield transcript_pb2.Rewound(run_id=str(follower.run_id), to_sequence=kept)
            follower.committed = follower.sequence
        if position.last_sequence <= follower.sequence:
            follower.ended = follower.ended or (
                position.status in ENDED and position.last_sequence == follower.sequence
            )
            return
        while True:
            rows = await self._rows(follower, follower.sequence)
            for row in rows:
                for event in row_events(str(follower.run_id), row):
                    if event.sequence > follower.sequence:
                        self._advance(follower, event)
                        yield event
            follower.committed = max(follower.committed, follower.sequence)
            if len(rows) < PAGE_ROWS:
                return

    async def _kept(self, follower: _Follower) -> int:
        """Find the last committed event that the follower has seen as it was committed."""
        kept = follower.committed
        rows = await self._rows(follower, kept)
        while rows:
            for row in rows:
                for event in row_events(str(follower.run_id), row):
                    if event.sequence <= kept:
                        continue
                    if event.sequence > follower.sequence or event.epoch > follower.epoch:
                        return kept
                    kept = event.sequence
            if len(rows) < PAGE_ROWS:
                return kept
            rows = await self._rows(follower, kept)
        return kept

    async def _rows(self, follower: _Follower, after: int) -> list[TranscriptRow]:
        async with self._db.connection() as connection:
            return await inspect.transcript(
                connection, follower.tenant, follower.run_id, after_sequence=after, limit=PAGE_ROWS
            )

    async def _live_events(
        self, follower: _Follower, position: Position
    ) -> AsyncGenerator[transcript_pb2.RunEvent, None]:
        """Yield what the runner says, until it says no more or the run has moved."""
        feed = self._live.runner(position.address).follow(str(follower.run_id), follower.sequence)
        watch = asyncio.create_task(self._end_when_moved(follower, feed.end))
        try:
            async for message in feed.messages():
                if message.epoch != position.epoch:
                    return  # a runner that has lost its lease and does not know it yet
                for event in message.events.events:
                    if event.sequence <= follower.sequence:
                        continue
                    if event.sequence != follower.sequence + 1:
                        return  # a gap: the ledger has what is missing
                    if event.WhichOneof("event") == "ended":
                        return  # the ledger's word ends a run, not the runner's
                    self._advance(follower, event)
                    yield event
        finally:
            watch.cancel()
            feed.close()

    async def _end_when_moved(self, follower: _Follower, end: Callable[[], None]) -> None:
        await follower.woken.wait()
        end()

    def _advance(self, follower: _Follower, event: transcript_pb2.RunEvent) -> None:
        follower.sequence = event.sequence
        follower.epoch = event.epoch
        follower.ended = event.WhichOneof("event") == "ended"


async def _woken(follower: _Follower, within: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await follower.woken.wait()


def _place(position: Position | None) -> tuple[int, int] | None:
    return None if position is None else (position.epoch, position.status)
