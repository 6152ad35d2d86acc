"""The board of runners connected to this Invoker: who can take what."""

import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from uuid import UUID

from holdfast.invoker.runner_session import RunnerSession
from holdfast.kit.errors import ShuttingDown
from holdfast.ledger.values import Leased

ALONE_SECONDS = 3600.0
"""After which a tenant that alone has had runs is taken for the only one."""
NOTHING: Mapping[RunnerSession, int] = MappingProxyType({})


class Board:
    """All runners connected to this process, found by session and by pool.

    A runner that has been silent for `patience` seconds is given no work, though its leases still live.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._draining = False
        self._tenant = ""
        self._changed = float("-inf")
        self._sessions: dict[UUID, RunnerSession] = {}
        self._pools: dict[str, dict[UUID, RunnerSession]] = {}

    def add(self, session: RunnerSession) -> None:
        """Put a runner on the board; one that reconnects takes the place of its old stream."""
        self.refuse_if_draining()
        old = self._sessions.get(session.session_id)
        if old is not None:
            self.remove(old)
            old.close()
        self._sessions[session.session_id] = session
        for served in session.intents:
            for pool in served.pools:
                self._pools.setdefault(pool, {})[session.session_id] = session

    def remove(self, session: RunnerSession) -> bool:
        """Take a runner off the board; False if another stream of the same runner has its place."""
        if self._sessions.get(session.session_id) is not session:
            return False
        del self._sessions[session.session_id]
        for served in session.intents:
            for pool in served.pools:
                members = self._pools.get(pool)
                if members is not None:
                    members.pop(session.session_id, None)
                    if not members:
                        del self._pools[pool]
        return True

    def get(self, session_id: UUID) -> RunnerSession | None:
        """Return the runner of a session, if it is connected here."""
        return self._sessions.get(session_id)

    def heard(self, session: RunnerSession) -> bool:
        """Note that a runner says something; tell whether it was given no work for its silence until then."""
        now = time.monotonic()
        was_silent = session.heard <= now - self._patience
        session.heard = now
        return was_silent

    def sessions(self) -> list[RunnerSession]:
        """Return all connected runners."""
        return list(self._sessions.values())

    def credit(self) -> int:
        """Return how many runs the connected runners could take at once."""
        return sum(session.credit for session in self.sessions())

    def note(self, tenant: str) -> None:
        """Note whose run comes: among several tenants there may be light ones."""
        if tenant != self._tenant:
            self._changed = time.monotonic() if self._tenant else self._changed
            self._tenant = tenant

    def kept(self, session: RunnerSession) -> int:
        """Return how much of a runner's credit is kept for light tenants; none if there is but one tenant."""
        return session.kept if time.monotonic() - self._changed < ALONE_SECONDS else 0

    def serves(self, pool: str) -> bool:
        """Say whether a connected runner takes runs of a pool."""
        return pool in self._pools

    def wanting(self) -> list[str]:
        """Return the pools of runners that could take more."""
        able = (each for each in self._sessions.values() if each.credit > 0 and not each.closed)
        pools = {pool: None for each in able for served in each.intents for pool in served.pools}
        return [] if self._draining else list(pools)

    def serving(self, pool: str) -> Iterable[RunnerSession]:
        """Return the runners that take runs of a pool."""
        return self._pools.get(pool, {}).values()

    def reserve(
        self, sessions: Iterable[RunnerSession], most: int, *, kept_too: bool = False
    ) -> "Reservation":
        """Take up to `most` credit of these runners, spread over them, the idlest first.

        With `kept_too`, up to `most` beside it of what is kept for light tenants.
        """
        slots: dict[RunnerSession, int] = {}
        heard_since = time.monotonic() - self._patience
        able = [each for each in sessions if each.credit > 0 and each.heard > heard_since and not each.closed]
        if self._draining or not able or most <= 0:
            return Reservation(self, slots)
        if len(able) > 1:
            able.sort(key=lambda each: -each.credit)
        beside = {each: self.kept(each) for each in able}
        fair, wanted = -(-most // len(able)), most
        for share in (fair, most):
            for session in able:
                most -= _move(session, slots, min(session.credit - beside[session], share, most))
        kept: dict[RunnerSession, int] = {}
        for session in able if kept_too else ():
            kept[session] = _move(session, slots, min(beside[session], wanted))
            wanted -= kept[session]
        return Reservation(self, slots, kept)

    def refuse_if_draining(self) -> None:
        """Raise ShuttingDown once the board drains."""
        if self._draining:
            raise ShuttingDown("This invoker is draining; open a stream to another.")

    def drain(self, grace: float) -> None:
        """Tell every runner to open a stream elsewhere, and give them no more work."""
        self._draining = True
        for session in self._sessions.values():
            session.drain(grace)

    def close(self) -> None:
        """End all streams: the runners find another Invoker."""
        for session in self._sessions.values():
            session.close(ShuttingDown("This invoker is ending; open a stream to another."))


class Reservation:
    """Credit taken for one call that may lease runs; it goes to leases, or back, or into doubt.

    It belongs to the stream it was taken from: a runner that has opened another meanwhile has said anew what
    it can take.
    """

    def __init__(
        self, board: Board, slots: dict[RunnerSession, int], kept: Mapping[RunnerSession, int] = NOTHING
    ) -> None:
        self.slots = slots
        self.kept = kept
        """How much of each is kept for light tenants."""
        self._board = board

    @property
    def total(self) -> int:
        """How many runs it allows."""
        return sum(self.slots.values())

    def spend(self, lease: Leased) -> None:
        """Push a run that was leased. If its runner has no stream now, it is told when it comes back."""
        session = self._board.get(lease.session_id)
        if session is not None and session.lease(lease) and session in self.slots:
            self.slots[session] -= 1

    def give_back(self) -> None:
        """Return what was not used."""
        for session, slots in self.slots.items():
            session.credit += slots
        self.slots = {}

    def doubt(self) -> None:
        """Withhold it all: the call had no answer, and may have leased runs."""
        for session, slots in self.slots.items():
            session.withhold(slots)
        self.slots = {}


def _move(session: RunnerSession, slots: dict[RunnerSession, int], credit: int) -> int:
    """Take credit of a session, if that is any, and return how much."""
    if credit <= 0:
        return 0
    session.credit -= credit
    slots[session] = slots.get(session, 0) + credit
    return credit
