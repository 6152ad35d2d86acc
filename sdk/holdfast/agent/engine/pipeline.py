"""Commits of one run follow each other one by one; what gathers meanwhile goes with the next.

gathering ──(flush)──▶ under way ──(committed)──▶ durable
                           └──(refused)──▶ the run stops; only what was told goes with its end
"""

import asyncio
import contextvars
from collections.abc import Callable

from holdfast.agent.engine.journal import Answer, Journal, Refused
from holdfast.agent.wire.draft import Draft, Effect, Record, usage_of

FULL = 512 * 1024
"""Bytes from which a draft is sent and another begun: a commit and its stream stay well below 4 MiB."""


class Pipeline:
    """Numbers, sends and awaits the commits of one run.

    `refused` is told of a refusal, `cancelled` that someone asked to cancel the run.
    """

    __slots__ = (
        "_cancelled",
        "_drafts",
        "_epoch",
        "_flying",
        "_held",
        "_journal",
        "_loop",
        "_number",
        "_refused",
        "_run_id",
        "_scheduled",
        "_waiters",
        "ending",
        "stuck",
    )

    def __init__(
        self,
        run_id: str,
        epoch: int,
        last_commit: int,
        journal: Journal,
        *,
        refused: Callable[[Refused], None],
        cancelled: Callable[[], None],
    ) -> None:
        self._run_id = run_id
        self._epoch = epoch
        self._number = last_commit
        self._journal = journal
        self._refused = refused
        self._cancelled = cancelled
        self._loop = asyncio.get_running_loop()
        self._drafts = [Draft()]  # the last one grows
        self._flying: Draft | None = None
        self._held: list[Record] = []
        self._scheduled = False
        self.ending = False
        """The agent has returned: what has gathered waits for the run's last move, which goes with it."""
        self.stuck = False
        """A commit was refused: nothing is sent until the run is closed."""
        self._waiters: list[tuple[Draft, asyncio.Future[None]]] = []

    @property
    def draft(self) -> Draft:
        """The draft that grows now."""
        draft = self._drafts[-1]
        if draft.size < FULL:
            return draft
        self._drafts.append(Draft())
        self.flush_soon()
        return self._drafts[-1]

    @property
    def settled(self) -> bool:
        """Whether every record so far is durable."""
        return (
            self._flying is None
            and not self._held
            and not self._drafts[0].recorded
            and (len(self._drafts) == 1 or not any(draft.recorded for draft in self._drafts))
        )

    def record(self, record: Record, effects: list[Effect]) -> Draft:
        """Add a step's record and its effects, after the failures the agent has survived since the last."""
        draft = self.draft
        if self._held:
            self._keep_held(draft)
        draft.record(record)
        for effect in effects:
            draft.effect(effect)
        return draft

    def hold(self, record: Record) -> None:
        """Keep the record of a failure until it is known whether the agent goes on after it."""
        self._held.append(record)

    def flush_soon(self) -> None:
        """Send what has gathered when the agent next waits for something: until then more may gather."""
        if not self._scheduled and self._flying is None:
            self._scheduled = True
            self._loop.call_soon(self._flush_now, context=_EMPTY)

    def sent(self, draft: Draft) -> "asyncio.Future[None]":
        """Send what has gathered; the future is done when a draft is durable, cancelled if it never is."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((draft, future))
        self.flush()
        return future

    async def settle(self) -> None:
        """Wait until every record so far is durable, failures the agent has survived included."""
        if self._held:
            self._keep_held(self.draft)
        while not self.settled:
            recorded = [draft for draft in self._drafts if draft.recorded]
            last = recorded[-1] if recorded else self._flying
            assert last is not None  # or else it were settled
            await self.sent(last)

    async def close(self, finish: Callable[[Draft], None], *, survived: bool, bare: bool = False) -> None:
        """Commit everything with the run's last move, which `finish` writes; returns when it is durable.

        Failures that are still held are recorded only if the agent has `survived` them: a run that ends by
        them shall execute those steps again when it is retried. After a refusal only what was told goes with
        the move, and in a `bare` commit not even that.
        """
        if bare:
            self._drafts = [Draft()]
            self._held.clear()
            self.stuck = False
        elif self.stuck:
            self._keep_events_only()
        draft = self._drafts[-1]
        if survived:
            self._keep_held(draft)
        for unrecorded in self._held:
            draft.charge(usage_of(unrecorded))
        self._held.clear()
        finish(draft)
        draft.recorded = True
        self.ending = False
        await self.sent(draft)

    def abandon(self) -> None:
        """Commit nothing more; an answer that still comes changes nothing. Repeatable."""
        self.stuck = True
        self._flying = None
        self._give_up_waiting()

    def _keep_held(self, draft: Draft) -> None:
        for survived in self._held:
            draft.record(survived)
        self._held.clear()

    def _keep_events_only(self) -> None:
        first, *others = self._drafts
        first.forget_records()
        for later in others:
            first.absorb(later)
        self._drafts = [first]
        self.stuck = False

    def _flush_now(self) -> None:
        self._scheduled = False
        self.flush()

    def flush(self) -> None:
        """Send the oldest draft, unless one is under way."""
        if self._flying is not None or self.stuck or self.ending or self._drafts[0].empty:
            return
        draft = self._drafts.pop(0)
        if not self._drafts:
            self._drafts.append(Draft())
        self._flying = draft
        self._journal.commit(draft.sealed(self._run_id, self._epoch, self._number + 1), self._answered)

    def _answered(self, answer: Answer) -> None:
        draft, self._flying = self._flying, None
        if draft is None:
            return  # abandoned meanwhile
        if isinstance(answer, Refused):
            self.stuck = True
            self._drafts.insert(0, draft)
            self._give_up_waiting()
            self._refused(answer)
            return
        self._number += 1
        waiting = self._waiters
        self._waiters = []
        for awaited, future in waiting:
            if awaited is not draft:
                self._waiters.append((awaited, future))
            elif not future.done():
                future.set_result(None)
        if answer.cancel_requested:
            self._cancelled()
        if len(self._drafts) > 1 or self._drafts[0].recorded:
            self.flush()

    def _give_up_waiting(self) -> None:
        for _, future in self._waiters:
            future.cancel()
        self._waiters.clear()


_EMPTY = contextvars.Context()
