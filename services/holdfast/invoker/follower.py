"""One stream that follows one run sees its transcript once, in order, whoever produces it and whoever dies.

    reading (ledger) ──▶ waiting (no runner) ──hint | poll──▶ reading
           │  ──────────▶ live (runner) ──gone | lost | behind | moved | too slow──▶ reading
           │  ──history dropped──▶ snapshot ──▶ reading after it
           └──ended──▶ done

What was seen live and never committed dies with its runner. The cursor therefore has an epoch: when the
run's lease has changed, the follower is rewound to the last committed event of its own epoch or before.
Where the ledger no longer has the events after the cursor, or those that would tell whether the cursor holds,
the follower is given a snapshot of the run in their place.

Whoever reads slowly holds at most one page of the ledger here and what a feed may hold, and no connection.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from itertools import takewhile
from typing import Final

from holdfast.invoker.live import Feed, Live
from holdfast.invoker.looks import Looks
from holdfast.invoker.view import row_events, run_message
from holdfast.kit.db import Database
from holdfast.kit.errors import RunNotFound, SequenceOutOfRange, ShuttingDown
from holdfast.ledger import inspect
from holdfast.ledger.domain.status import ENDED, LEASED
from holdfast.ledger.position import Position
from holdfast.v1 import transcript_pb2

PAGE_ROWS: Final = 32
FIRST_PAUSE: Final = 0.005
LONGEST_PAUSE: Final = 1.0

Update = transcript_pb2.Rewound | transcript_pb2.Snapshot | list[transcript_pb2.RunEvent]
"""What a follower is told: that events no longer hold, what stands in place of others, or the next ones.

No events at all follow a knock.
"""


class Follower:
    """The walk of one stream along one run's transcript; `wake` it when the run has moved."""

    def __init__(
        self,
        db: Database,
        live: Live,
        looks: Looks,
        *,
        tenant: str,
        run_id: uuid.UUID,
        sequence: int,
        epoch: int,
    ) -> None:
        self.run_id = run_id
        self._db = db
        self._live = live
        self._looks = looks
        self._tenant = tenant
        self._sequence = sequence
        self._epoch = epoch
        # Up to here what was seen is known to be what was committed.
        self._committed = 0 if epoch else sequence
        self._ended = False
        self._seen: Position | None = None
        self._woken = asyncio.Event()
        self._knocked = False
        self._feed: Feed | None = None
        self._leaving = False

    def wake(self) -> None:
        """Say that the run may have moved."""
        self._woken.set()

    def knock(self) -> None:
        """Have whoever reads the updates look up from them soon: it is given no events."""
        self._knocked = True
        if self._feed is None:
            self._woken.set()
        else:
            self._feed.knock()

    def leave(self) -> None:
        """Say that this process ends: the client follows from another."""
        self._leaving = True
        self._woken.set()

    def has_missed(self, position: Position) -> bool:
        """Say whether the run has moved without the follower noticing."""
        seen = self._seen
        return (
            seen is None
            or (position.epoch, position.status) != (seen.epoch, seen.status)
            or position.last_sequence > self._sequence
        )

    async def updates(self) -> AsyncGenerator[Update, None]:
        """Yield what happens until the run has ended; for whom and what it raises, see `Followers.follow`."""
        position = await self._look()
        self._trust_cursor(position)
        misses = 0
        while True:
            corrected = await self._corrected(position)
            if corrected is not None:
                yield corrected
            async for update in self._read(position):
                yield update
            if self._ended or (position.status in ENDED and position.last_sequence == self._sequence):
                return
            if position.status in LEASED and position.address:
                before = self._sequence
                async with aclosing(self._watch(position)) as batches:
                    async for events in batches:
                        yield events
                # Without a word the runner is out of reach, or has shown all and its last commit is not in.
                misses = 0 if self._sequence > before else misses + 1
                if misses:
                    await self._rest(min(LONGEST_PAUSE, FIRST_PAUSE * 2**misses))
            else:
                await self._woken.wait()
            self._woken.clear()
            if self._knocked:
                self._knocked = False
                yield []
            position = await self._look()

    async def _look(self) -> Position:
        if self._leaving:
            raise ShuttingDown("This invoker is ending; follow the run at another.")
        position = await self._looks.position(self.run_id)
        if position is None or position.tenant != self._tenant:
            raise RunNotFound("There is no such run.", facts={"run_id": str(self.run_id)})
        self._seen = position
        return position

    def _trust_cursor(self, position: Position) -> None:
        """Take a cursor without an epoch as committed; one beyond what is, as of the lease that lives now.

        Only here it can be refused: later the cursor may be ahead of a position that was read before it.
        """
        if self._epoch or self._sequence <= position.last_sequence:
            return
        if position.status not in LEASED:
            raise SequenceOutOfRange(
                f"The run's transcript ends at {position.last_sequence}.",
                facts={"last_sequence": str(position.last_sequence)},
            )
        self._committed = position.last_sequence
        self._epoch = position.epoch

    async def _corrected(self, position: Position) -> transcript_pb2.Rewound | transcript_pb2.Snapshot | None:
        """Step back from what died with its runner, if anything did, or over what is no longer known."""
        alive = position.status in LEASED and position.epoch == self._epoch
        if self._sequence <= self._committed or alive:
            return None
        kept = await self._kept(position.last_sequence)
        if kept is None:
            return await self._snapshot(position.last_sequence)
        self._committed = kept
        if kept == self._sequence:
            return None
        self._sequence = kept
        return transcript_pb2.Rewound(run_id=str(self.run_id), to_sequence=kept)

    async def _kept(self, last_sequence: int) -> int | None:
        """Find the last committed event that was seen as it was committed; None if that is no longer known.

        `last_sequence` was committed before this is called.

        Epochs never fall along a transcript, and one epoch gives a sequence to one event: a committed event
        of the cursor's epoch or before is the one that was seen.
        """
        last = [
            event for event in await self._page(self._sequence - 1, 1) if event.sequence == self._sequence
        ]
        if last and last[0].epoch <= self._epoch:
            return self._sequence
        kept = self._committed
        events = await self._page(kept)
        if kept < last_sequence and (not events or events[0].sequence > kept + 1):
            return None
        while events:
            for event in events:
                if event.sequence > self._sequence or event.epoch > self._epoch:
                    return kept
                kept = event.sequence
            events = await self._page(kept)
        return kept

    async def _read(
        self, position: Position
    ) -> AsyncIterator[transcript_pb2.Snapshot | list[transcript_pb2.RunEvent]]:
        """Yield what is committed after the cursor."""
        while self._sequence < position.last_sequence:
            events = await self._page(self._sequence)
            if not events:  # it was committed, and it is not there
                yield await self._snapshot(position.last_sequence)
                return
            if events[0].sequence > self._sequence + 1:
                yield await self._snapshot(events[0].sequence - 1)
            self._advance(events[-1])
            self._committed = self._sequence
            yield events

    async def _snapshot(self, sequence: int) -> transcript_pb2.Snapshot:
        """Go on after a sequence, with the run itself in place of the events up to there."""
        async with self._db.connection() as connection:
            view = await inspect.get(connection, self._tenant, self.run_id)
        self._sequence = self._committed = sequence
        self._ended = False
        return transcript_pb2.Snapshot(run=run_message(view), sequence=sequence)

    async def _page(self, after: int, rows: int = PAGE_ROWS) -> list[transcript_pb2.RunEvent]:
        async with self._db.connection() as connection:
            found = await inspect.transcript(
                connection, self._tenant, self.run_id, after_sequence=after, limit=rows
            )
        run_id = str(self.run_id)
        return [event for row in found for event in row_events(run_id, row) if event.sequence > after]

    async def _watch(self, position: Position) -> AsyncGenerator[list[transcript_pb2.RunEvent], None]:
        """Yield what the runner says, until it says no more or the run has moved."""
        feed = self._feed = self._live.runner(position.address).follow(str(self.run_id), self._sequence)
        watch = asyncio.create_task(self._woken.wait())
        watch.add_done_callback(lambda _: feed.end())
        try:
            async for message in feed.messages():
                if message is None:
                    self._knocked = False
                    yield []
                    continue
                if message.epoch != position.epoch:
                    return  # a runner that has lost its lease and does not know it yet
                events = [event for event in message.events.events if event.sequence > self._sequence]
                # The ledger's word ends a run, or lets its clients go, not the runner's.
                shown = list(takewhile(_may_be_lost, events))
                if shown:
                    if not _follow_on(shown, self._sequence, position.epoch):
                        return  # a gap: the ledger has what is missing
                    self._advance(shown[-1])
                    yield shown
                if len(shown) < len(events):
                    return
        finally:
            self._feed = None
            watch.cancel()
            feed.close()

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    def _advance(self, event: transcript_pb2.RunEvent) -> None:
        self._sequence = event.sequence
        self._epoch = event.epoch
        self._ended = event.WhichOneof("event") == "ended"


def _may_be_lost(event: transcript_pb2.RunEvent) -> bool:
    return event.WhichOneof("event") not in {"ended", "handed_off"}


def _follow_on(events: list[transcript_pb2.RunEvent], after: int, epoch: int) -> bool:
    return all(event.sequence == n and event.epoch == epoch for n, event in enumerate(events, after + 1))
