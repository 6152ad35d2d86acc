"""A signal is durable first and pushed to its runner second; what a push misses is found within a second.

Pushed is over the runner's lease stream if that is here, else over the live link if the runner has one. The
lease stream remembers how far each run was told on it: the look of each second finds the runs that lack
something, and what was lost with an older stream is told again by the next.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from holdfast.invoker.board import Board
from holdfast.invoker.hints import Hints
from holdfast.invoker.live import Live
from holdfast.invoker.runner_session import RunnerSession
from holdfast.invoker.signal import Sent
from holdfast.kit.db import Database
from holdfast.kit.loops import Loop
from holdfast.ledger import mailbox, mailbox_view
from holdfast.ledger.mailbox_view import Mail, Signal

UNASKED_SECONDS: Final = 30.0


class Mailroom:
    """Takes signals in, and sees to it that runners get them."""

    def __init__(self, db: Database, board: Board, live: Live, hints: Hints) -> None:
        self._db = db
        self._hints = hints
        self._board = board
        self._live = live
        self.loop = Loop("mail", self.run_once, interval=UNASKED_SECONDS, max_backoff=1.0)

    async def signal(self, tenant: str, run_id: UUID, sent: Sent) -> str:
        """Put a signal in a run's mailbox and return its id; faults and repetition as `mailbox.signal`."""
        told = await mailbox.signal(
            self._db,
            tenant,
            run_id,
            key=sent.key,
            payload=sent.payload,
            signal_id=sent.signal_id,
            urgent=sent.urgent,
        )
        self._hints.queued(told.pools)
        holder = told.holder
        if holder is not None:
            session = self._board.get(holder.session_id)
            if session is not None:
                session.signal(told.signal, holder.epoch)
            elif holder.address:
                self._live.runner(holder.address).signal(told.signal)
        return told.signal.signal_id

    async def run_once(self) -> int:
        """Push what the runners connected here lack; return how much, if there is more."""
        sessions = {session.session_id: session for session in self._board.sessions()}
        if not sessions:
            return 0
        async with self._db.connection() as connection:
            found = await mailbox_view.mail(connection, list(sessions))
            behind = [(sessions[mail.session_id], mail) for mail in found]
            behind = [(session, mail) for session, mail in behind if session.lacks(mail)]
            if not behind:
                return 0
            after = [(mail.run_id, session.mail.told(mail.run_id)) for session, mail in behind]
            signals, more = await mailbox_view.waiting(connection, after)
        pushed = _push(behind, signals, more=more)
        return pushed if more else 0


def _push(behind: Sequence[tuple[RunnerSession, Mail]], signals: Sequence[Signal], *, more: bool) -> int:
    """Push signals in order; a run whose runner does not keep up is left for the next round."""
    holders = {mail.run_id: (session, mail) for session, mail in behind}
    pushed = 0
    for signal in signals:
        if signal.run_id in holders:
            session, mail = holders[signal.run_id]
            if session.signal(signal, mail.epoch, next_waiting=True):
                pushed += 1
            else:
                del holders[signal.run_id]
    if not more:
        for session, mail in holders.values():
            if session.lacks(mail):
                session.mail.caught_up(mail)
    return pushed
