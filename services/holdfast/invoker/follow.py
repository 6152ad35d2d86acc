"""All streams that follow runs here; one query a second looks after the silent ones together."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Final

from holdfast.invoker.follower import Follower, Update
from holdfast.invoker.live import Live
from holdfast.invoker.looks import Looks
from holdfast.kit.db import Database
from holdfast.kit.loops import Loop
from holdfast.ledger.position import positions

POLL_SECONDS: Final = 1.0


class Followers:
    """Finds the followers of a run that has moved. `leaving` is set when this process ends."""

    def __init__(self, db: Database, live: Live) -> None:
        self._db = db
        self._live = live
        self._looks = Looks(db)
        self._following: dict[uuid.UUID, set[Follower]] = {}
        self.leaving = asyncio.Event()
        self.loop = Loop(
            "followers", self.run_once, interval=POLL_SECONDS, eager=False, max_backoff=POLL_SECONDS
        )

    def hint(self, run_ids: Iterable[uuid.UUID]) -> None:
        """Say that runs have moved."""
        for run_id in run_ids:
            for follower in self._following.get(run_id, ()):
                follower.wake()

    async def run_once(self) -> int:
        """Wake the followers of runs that have moved without their noticing."""
        if not self._following:
            return 0
        async with self._db.connection() as connection:
            found = await positions(connection, list(self._following))
        for run_id, position in found.items():
            for follower in self._following.get(run_id, ()):
                if follower.has_missed(position):
                    follower.wake()
        return 0

    def follower(self, tenant: str, run_id: uuid.UUID, sequence: int, epoch: int = 0) -> Follower:
        """Return who is to `follow` a run from a sequence on.

        `epoch` is that of the event at `sequence`, if the caller saw it live; 0 takes it as committed.
        """
        return Follower(
            self._db, self._live, self._looks, tenant=tenant, run_id=run_id, sequence=sequence, epoch=epoch
        )

    async def follow(self, follower: Follower) -> AsyncGenerator[Update, None]:
        """Yield what happens in a run after the follower's sequence, until it has ended.

        Events that are no longer kept come as one Snapshot in their place. Raises RunNotFound,
        SequenceOutOfRange for a cursor beyond the end, and ShuttingDown.
        """
        run_id = follower.run_id
        if self.leaving.is_set():
            follower.leave()
        self._following.setdefault(run_id, set()).add(follower)
        try:
            async with aclosing(follower.updates()) as updates:
                async for update in updates:
                    yield update
        finally:
            followers = self._following[run_id]
            followers.discard(follower)
            if not followers:
                del self._following[run_id]

    def close(self) -> None:
        """Let all who follow, and those who come, follow at another Invoker."""
        self.leaving.set()
        for followers in self._following.values():
            for follower in followers:
                follower.leave()
