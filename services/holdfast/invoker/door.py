"""One door for all runs: what waits goes in as one group, idle runners get theirs in the same transaction."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from holdfast.invoker.assignment import leased_assignment
from holdfast.invoker.board import Board
from holdfast.invoker.claimer import Claimer
from holdfast.invoker.intents import Intents
from holdfast.kit.db import Database
from holdfast.kit.errors import Fault, Internal, LedgerUnavailable, ShuttingDown
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger.admission import Answer, Placements, Server, admit
from holdfast.ledger.notice import READY, Notices
from holdfast.ledger.values import Admitted, Invocation, Refused, pool_of

MAX_GROUP = 256
MAX_WAITING = 20_000

_log = logger("invoker")

Waiting = tuple[Invocation, "asyncio.Future[Admitted]"]


class Door:
    """Admits invocations in groups: a lone one at once, those that arrive meanwhile together."""

    def __init__(
        self, db: Database, board: Board, claimer: Claimer, notices: Notices, intents: Intents
    ) -> None:
        self._db = db
        self._board = board
        self._claimer = claimer
        self._notices = notices
        self._intents = intents
        self._waiting: list[Waiting] = []
        self._arrived = asyncio.Event()
        self._closed = False

    async def admit(self, invocation: Invocation) -> Admitted:
        """Admit one run; raises the Fault that refuses it.

        If the caller goes away the run may still be admitted; its idempotency key finds it.
        """
        await self._intents.check(invocation.intent)
        return await self._enter(invocation)

    async def admit_all(self, invocations: Sequence[Invocation]) -> list[Admitted | BaseException]:
        """Admit many in order; each is answered by itself."""
        answers: list[Admitted | BaseException | None] = []
        entered: list[tuple[int, asyncio.Future[Admitted]]] = []
        for place, invocation in enumerate(invocations):
            answers.append(None)
            try:
                await self._intents.check(invocation.intent)
                entered.append((place, self._enter(invocation)))
            except Fault as fault:
                answers[place] = fault
        done = await asyncio.gather(*(future for _, future in entered), return_exceptions=True)
        for (place, _), answer in zip(entered, done, strict=True):
            answers[place] = answer
        return [answer for answer in answers if answer is not None]

    def queued(self, pools: Sequence[str]) -> None:
        """Say that runs wait in these pools: wake whoever serves them, here and elsewhere."""
        if any(self._board.serves(pool) for pool in pools):
            self._claimer.queued()
        self._notices.send(READY, pools)

    def _enter(self, invocation: Invocation) -> "asyncio.Future[Admitted]":
        if self._closed:
            raise ShuttingDown("This invoker is draining; call another.")
        if len(self._waiting) >= MAX_WAITING:
            raise LedgerUnavailable("The ledger does not keep up; come again.", retry_after=1.0)
        future: asyncio.Future[Admitted] = asyncio.get_running_loop().create_future()
        self._waiting.append((invocation, future))
        self._arrived.set()
        return future

    async def run(self, stop: asyncio.Event) -> None:
        """Admit what waits until told to stop; then refuse what comes, and finish what is there."""
        ending = asyncio.create_task(self._end(stop))
        try:
            while self._waiting or not self._closed:
                if not self._waiting:
                    self._arrived.clear()
                    await self._arrived.wait()
                    continue
                group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
                await self._admit_group(group)
        finally:
            self._closed = True
            ending.cancel()

    async def _end(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._closed = True
        self._arrived.set()

    async def _admit_group(self, group: list[Waiting]) -> None:
        invocations = [invocation for invocation, _ in group]
        placements, credit = self._placements(invocations)
        left = dict(credit)
        answers: list[Answer] = []
        try:
            answers = await admit(self._db, invocations, placements)
        except Exception as error:  # noqa: BLE001 - the group's callers get it, the loop goes on
            self._board.doubt(credit)
            if not isinstance(error, Fault):
                _log.error("admission failed", error=error, runs=len(group))
                error = Internal("Admission failed.")
            for _, future in group:
                _refuse(future, error)
        queued: dict[str, None] = {}
        for (_, future), answer in zip(group, answers, strict=False):
            if isinstance(answer, Refused):
                _refuse(future, answer.fault)
                continue
            if answer.created and answer.lease is not None:
                left[answer.lease.session_id] -= 1
                self._push(answer)
            elif answer.created:
                queued[answer.pool] = None
            if not future.done():
                future.set_result(answer)
        for session_id, slots in left.items():
            self._board.give_back(session_id, slots)
        self.queued(list(queued))

    def _placements(self, invocations: Sequence[Invocation]) -> tuple[Placements, dict[UUID, int]]:
        """Reserve credit of the runners that could take these runs at once."""
        wanted = {(each.intent, each.agent_version) for each in invocations}
        able = {pool_of(*want): (want[0], self._board.serving(pool_of(*want))) for want in wanted}
        runners = {session.session_id: session for _, sessions in able.values() for session in sessions}
        credit = self._board.reserve(runners.values(), len(invocations))
        servers = {
            pool: [
                Server(session.session_id, served.agent_version)
                for session in sessions
                if session.session_id in credit
                for served in session.intents
                if served.intent == intent
            ]
            for pool, (intent, sessions) in able.items()
        }
        return Placements(servers=servers, credit=credit), credit

    def _push(self, admitted: Admitted) -> None:
        assert admitted.lease is not None  # only placed runs are pushed
        session = self._board.get(admitted.lease.session_id)
        if session is not None:  # else its stream just broke: it gets the lease when it comes back
            session.lease(leased_assignment(admitted.lease))


def _refuse(future: "asyncio.Future[Admitted]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
