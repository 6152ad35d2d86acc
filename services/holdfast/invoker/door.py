"""One door for all runs: what waits goes in as one group, idle runners get theirs in the same transaction."""

import asyncio
import secrets
import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from holdfast.invoker.admission_trace import admission
from holdfast.invoker.board import Board, Reservation
from holdfast.invoker.hints import Hints
from holdfast.invoker.intents import Intents
from holdfast.invoker.lines import Lines, Waiting
from holdfast.invoker.metrics import InvokerMetrics
from holdfast.invoker.refusals import Refusals
from holdfast.invoker.seating import reserve
from holdfast.kit.db import Access, Database
from holdfast.kit.errors import Fault, Internal, ShuttingDown, TooManyCalls
from holdfast.kit.rest import Rest
from holdfast.kit.rpc.shedding import taken
from holdfast.kit.telemetry.logs import logger
from holdfast.kit.telemetry.metrics import timed
from holdfast.ledger.admission import Answer, admit
from holdfast.ledger.values import Admitted, Invocation, Leased, Refused

GATHER = 0.02
"""Seconds for which calls of a tenant that is refused much are gathered: a group costs more than its runs."""

_log = logger("invoker")


class Door:
    """Admits invocations in groups: a lone one at once, those that arrive meanwhile together."""

    def __init__(
        self,
        db: Database,
        board: Board,
        hints: Hints,
        intents: Intents,
        refusals: Refusals,
        *,
        metrics: InvokerMetrics | None = None,
    ) -> None:
        self._metrics = metrics or InvokerMetrics(CollectorRegistry())
        self._db = db
        self._seat = db.seat()
        self._board = board
        self._hints = hints
        self._intents = intents
        self._refusals = refusals
        self._lines = Lines()
        self._gathering: asyncio.TimerHandle | None = None
        self._arrived = asyncio.Event()
        self._rest = Rest()
        self._closed = False

    async def admit(self, invocation: Invocation) -> Admitted:
        """Admit one run; raises the Fault that refuses it.

        If the caller goes away the run may still be admitted; its idempotency key finds it.
        """
        began, seconds = time.perf_counter(), self._metrics.refused
        try:
            with admission(invocation):
                await self._intents.check(invocation.intent)
                admitted = await self._enter(invocation)
            taken()
            seconds = self._metrics.created if admitted.created else self._metrics.found
        except Fault as fault:
            self._metrics.refusals.labels(fault.reason).inc()
            raise
        finally:
            timed(seconds, time.perf_counter() - began)
        return admitted

    def shed(self, tenant: str, fault: Fault) -> None:
        """Count a call that was refused before it came here."""
        self._refusals.note(tenant, fault)
        self._metrics.refusals.labels(fault.reason).inc()

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
        now = time.monotonic()
        if self._lines.is_closed(invocation.tenant, now):
            raise TooManyCalls("More runs are asked for than are let in.", quota="waiting", retry_after=1.0)
        future: asyncio.Future[Admitted] = asyncio.get_running_loop().create_future()
        pressed = self._refusals.presses(invocation.tenant)
        if not self._lines.join(now, (invocation, future), gather=pressed):
            self._arrived.set()
        elif self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(GATHER, self._gathered)
        return future

    def _gathered(self) -> None:
        self._gathering = None
        self._lines.gathered()
        self._arrived.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Admit what waits until told to stop; then refuse what comes, and finish what is there."""
        ending = asyncio.create_task(self._end(stop))
        try:
            while self._lines or not self._closed:
                if not self._lines:
                    self._arrived.clear()
                    await self._arrived.wait()
                    continue
                await self._rest.end()
                group = self._lines.take()
                more = bool(self._lines)
                await self._admit_waiting(group)
                if not more:
                    self._rest.begin(len(group))
        finally:
            self._closed = True
            ending.cancel()

    async def _end(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._closed = True
        self._gathered()

    async def _admit_waiting(self, group: list[Waiting]) -> None:
        """Admit what came together by chance: what breaks a group is found by halving it, and fails alone."""
        fault = await self._try(group, self._seat)
        if isinstance(fault, Internal) and (middle := len(group) // 2):
            await self._admit_waiting(group[:middle])
            await self._admit_waiting(group[middle:])
        else:
            _refuse(group, fault)

    async def _admit_group(self, group: list[Waiting], way: Access) -> None:
        """Admit a group and answer each; whatever goes wrong is its answer, not the end of the loop."""
        _refuse(group, await self._try(group, way))

    async def _try(self, group: list[Waiting], way: Access) -> Fault | None:
        """Admit a group and answer each; return what kept it from that, and those not answered wait still."""
        placements, reserved = reserve(self._board, [invocation for invocation, _ in group])
        try:
            answers = await admit(way, [invocation for invocation, _ in group], placements)
            self._answer(group, answers, reserved)
        except BaseException as error:
            reserved.doubt()
            fault = _fault_of(error, len(group))
            if not isinstance(error, Exception):
                _refuse(group, fault)
                raise
            return fault
        return None

    def _answer(self, group: list[Waiting], answers: Sequence[Answer], reserved: Reservation) -> None:
        queued: dict[str, None] = {}
        placed: list[Leased] = []
        for (invocation, future), answer in zip(group, answers, strict=True):
            if isinstance(answer, Admitted) and answer.created:
                self._board.note(invocation.tenant)
                if answer.lease is not None:
                    reserved.spend(answer.lease)
                    placed.append(answer.lease)
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
        # Once the runners are being told: nobody waits for what is counted.
        asyncio.get_running_loop().call_soon(self._count, len(group), placed)

    def _count(self, runs: int, placed: list[Leased]) -> None:
        self._metrics.group_size.observe(runs)
        self._metrics.leased("placed", placed)


def _refuse(group: list[Waiting], fault: Fault | None) -> None:
    """Answer all that wait still with a fault, if there is one."""
    for _, future in group:
        if fault is not None and not future.done():
            future.set_exception(fault)


def _fault_of(error: BaseException, runs: int) -> Fault:
    if isinstance(error, Fault):
        return error
    if not isinstance(error, Exception):
        return ShuttingDown("This invoker is ending; call another.")
    error_id = secrets.token_hex(8)
    _log.error("admission failed", error=error, runs=runs, error_id=error_id)
    return Internal(f"Unexpected error {error_id}.", facts={"error_id": error_id})
