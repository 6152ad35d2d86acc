"""One door for all runs: what waits goes in as one group, idle runners get theirs in the same transaction."""

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence

from holdfast.invoker.board import Board, Reservation
from holdfast.invoker.hints import Hints
from holdfast.invoker.intents import Intents
from holdfast.invoker.refusals import Refusals
from holdfast.kit.db import Access, Database
from holdfast.kit.errors import Fault, Internal, LedgerUnavailable, ShuttingDown
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger.admission import Answer, Placements, Server, admit
from holdfast.ledger.values import Admitted, Invocation, Refused, pool_of

MAX_GROUP = 256
MAX_GROUP_BYTES = 4 * 1024 * 1024
MAX_WAITING = 20_000
MAX_WAITING_BYTES = 128 * 1024 * 1024

_log = logger("invoker")

Waiting = tuple[Invocation, "asyncio.Future[Admitted]"]


class Door:
    """Admits invocations in groups: a lone one at once, those that arrive meanwhile together."""

    def __init__(
        self, db: Database, board: Board, hints: Hints, intents: Intents, refusals: Refusals
    ) -> None:
        self._db = db
        self._seat = db.seat()
        self._board = board
        self._hints = hints
        self._intents = intents
        self._refusals = refusals
        self._waiting: deque[Waiting] = deque()
        self._waiting_bytes = 0
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

    async def admit_together(self, invocations: Sequence[Invocation]) -> list[Admitted | BaseException]:
        """Admit a group in one transaction of its own, in order, with nothing of others between.

        Intents are the caller's to check. Each is answered by itself.
        """
        loop = asyncio.get_running_loop()
        group: list[Waiting] = [(invocation, loop.create_future()) for invocation in invocations]
        if group:
            await self._admit_group(group, self._db)
        return await asyncio.gather(*(future for _, future in group), return_exceptions=True)

    def _enter(self, invocation: Invocation) -> "asyncio.Future[Admitted]":
        if self._closed:
            raise ShuttingDown("This invoker is draining; call another.")
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES:
            raise LedgerUnavailable("The ledger does not keep up; come again.", retry_after=1.0)
        future: asyncio.Future[Admitted] = asyncio.get_running_loop().create_future()
        self._waiting.append((invocation, future))
        self._waiting_bytes += len(invocation.envelope)
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
                await self._admit_group(self._take())
        finally:
            self._closed = True
            ending.cancel()

    async def _end(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._closed = True
        self._arrived.set()

    def _take(self) -> list[Waiting]:
        """Take what waits, in order, up to a group's limits; at least one."""
        group: list[Waiting] = []
        size = 0
        while self._waiting and len(group) < MAX_GROUP:
            bytes_of = len(self._waiting[0][0].envelope)
            if group and size + bytes_of > MAX_GROUP_BYTES:
                break
            size += bytes_of
            group.append(self._waiting.popleft())
        self._waiting_bytes -= size
        return group

    async def _admit_group(self, group: list[Waiting], way: Access | None = None) -> None:
        """Admit a group and answer each; whatever goes wrong is its answer, not the end of the loop."""
        placements, reserved = self._placements([invocation for invocation, _ in group])
        try:
            answers = await admit(way or self._seat, [invocation for invocation, _ in group], placements)
            self._answer(group, answers, reserved)
        except BaseException as error:
            reserved.doubt()
            fault = _fault_of(error, len(group))
            for _, future in group:
                if not future.done():
                    future.set_exception(fault)
            if not isinstance(error, Exception):
                raise

    def _answer(self, group: list[Waiting], answers: Sequence[Answer], reserved: Reservation) -> None:
        queued: dict[str, None] = {}
        for (invocation, future), answer in zip(group, answers, strict=True):
            if isinstance(answer, Admitted) and answer.created:
                if answer.lease is not None:
                    reserved.spend(answer.lease)
                else:
                    queued[answer.pool] = None
            elif isinstance(answer, Refused):
                self._refusals.note(invocation.tenant, answer.fault)
            if future.done():
                continue  # its caller has gone
            if isinstance(answer, Refused):
                future.set_exception(answer.fault)
            else:
                future.set_result(answer)
        reserved.give_back()
        self._hints.queued(list(queued))

    def _placements(self, invocations: Sequence[Invocation]) -> tuple[Placements, Reservation]:
        """Reserve credit of the runners that could take these runs at once.

        What does not start while a breaker is open goes through a claim, which looks at the breaker.
        """
        wanted = {(each.intent, each.agent_version) for each in invocations}
        able = {pool_of(*want): (want[0], self._board.serving(pool_of(*want))) for want in wanted}
        runners = dict.fromkeys(session for _, sessions in able.values() for session in sessions)
        reserved = self._board.reserve(runners, len(invocations))
        servers = {
            pool: [
                Server(session.session_id, served.agent_version)
                for session in sessions
                if session in reserved.slots
                for served in session.intents
                if served.intent == intent and not (served.critical and pool == intent)
            ]
            for pool, (intent, sessions) in able.items()
        }
        credit = {session.session_id: slots for session, slots in reserved.slots.items()}
        return Placements(servers=servers, credit=credit), reserved


def _fault_of(error: BaseException, runs: int) -> Fault:
    if isinstance(error, Fault):
        return error
    if not isinstance(error, Exception):
        return ShuttingDown("This invoker is ending; call another.")
    error_id = secrets.token_hex(8)
    _log.error("admission failed", error=error, runs=runs, error_id=error_id)
    return Internal(f"Unexpected error {error_id}.", facts={"error_id": error_id})
