"""Runners take work: one stream is one session, and one heartbeat stands for all its leases."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc

from holdfast.invoker.assignment import leased_assignment
from holdfast.invoker.board import Board, RunnerSession
from holdfast.invoker.caretaker import Caretaker
from holdfast.invoker.claimer import Claimer
from holdfast.invoker.envelope import Violations
from holdfast.invoker.intents import Intents
from holdfast.invoker.settings import InvokerSettings
from holdfast.invoker.waiters import Waiters
from holdfast.kit.db import Database
from holdfast.kit.errors import StreamProtocol
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger import session as ledger_session
from holdfast.ledger.values import LeaseRef, ServedIntent
from holdfast.v1 import work_service_pb2, work_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

MAX_CREDIT = 10_000
MAX_INTENTS = 1_000

_log = logger("invoker")


class WorkServicer(work_service_pb2_grpc.WorkServiceServicer):
    """Serves `WorkService`: the stream comes and goes, the session and its leases are rows."""

    def __init__(
        self,
        *,
        db: Database,
        board: Board,
        claimer: Claimer,
        waiters: Waiters,
        caretaker: Caretaker,
        intents: Intents,
        settings: InvokerSettings,
    ) -> None:
        self._db = db
        self._board = board
        self._claimer = claimer
        self._waiters = waiters
        self._caretaker = caretaker
        self._intents = intents
        self._settings = settings

    async def Lease(  # noqa: N802 - the contract's name
        self,
        request_iterator: AsyncIterator[work_service_pb2.LeaseRequest],
        _context: Context,
    ) -> AsyncIterator[work_service_pb2.LeaseResponse]:
        """Open the runner's session, push it work, and free its leases soon after the stream breaks."""
        session = await self._open(request_iterator)
        reader = asyncio.create_task(self._read(session, request_iterator), name="lease-reader")
        try:
            yield self._opened(session)
            async for message in session.messages():
                yield message
            await reader
        finally:
            reader.cancel()
            if self._board.remove(session):
                leaving = asyncio.create_task(self._caretaker.stream_broken(session.session_id))
                await asyncio.shield(leaving)

    async def _open(self, requests: AsyncIterator[work_service_pb2.LeaseRequest]) -> RunnerSession:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("message") != "hello":
            raise StreamProtocol("the first message of a lease stream must be hello")
        hello = first.hello
        wrong = Violations("hello.")
        session_id = wrong.run_id("runner_id", hello.runner_id)
        wrong.text("address", hello.address)
        if not 1 <= len(hello.intents) <= MAX_INTENTS:
            wrong.add("intents", f"must be 1 to {MAX_INTENTS}")
        for served in hello.intents:
            if not served.intent or not served.agent_version:
                wrong.add("intents", "must each have an intent and an agent_version")
            wrong.text("intents", served.intent)
            wrong.text("intents", served.agent_version)
        wrong.settle()
        assert session_id is not None  # settle() raised otherwise
        session = RunnerSession(session_id, hello.address, tuple(_served(each) for each in hello.intents))
        held = await ledger_session.open_session(
            self._db,
            ledger_session.RunnerSession(
                session_id, self._caretaker.invoker_id, session.address, session.intents
            ),
            ttl_s=self._settings.lease_ttl,
        )
        self._intents.add([served.intent for served in session.intents])
        self._board.add(session)
        for (
            lease
        ) in held:  # what it already executes it knows; what was on its way when its stream broke it does not
            session.lease(leased_assignment(lease))
        _log.info(
            "runner connected",
            session_id=str(session_id),
            address=hello.address,
            intents=len(hello.intents),
            held=len(held),
        )
        return session

    def _opened(self, session: RunnerSession) -> work_service_pb2.LeaseResponse:
        opened = work_service_pb2.SessionOpened(session_id=str(session.session_id))
        opened.heartbeat_interval.FromMilliseconds(int(self._settings.heartbeat_interval * 1000))
        opened.lease_ttl.FromMilliseconds(int(self._settings.lease_ttl * 1000))
        return work_service_pb2.LeaseResponse(opened=opened)

    async def _read(
        self, session: RunnerSession, requests: AsyncIterator[work_service_pb2.LeaseRequest]
    ) -> None:
        """Take what the runner says until it closes its side."""
        try:
            async for request in requests:
                session.heard = time.monotonic()
                kind = request.WhichOneof("message")
                if kind == "credit":
                    self._credit(session, request.credit)
                elif kind == "hand_back":
                    await self._hand_back(session, request.hand_back)
                elif kind != "heartbeat":
                    raise StreamProtocol("after hello come credit, heartbeat and hand_back")
        finally:
            session.close()

    def _credit(self, session: RunnerSession, credit: work_service_pb2.RunnerCredit) -> None:
        if not 0 <= credit.slots <= MAX_CREDIT or session.credit + credit.slots > MAX_CREDIT:
            raise StreamProtocol(f"credit must be between 0 and {MAX_CREDIT:,}")
        session.credit += credit.slots
        if credit.ended_run_ids:
            self._waiters.hint(uuid.UUID(run_id) for run_id in credit.ended_run_ids)
        if credit.slots:
            self._claimer.credited()

    async def _hand_back(self, session: RunnerSession, hand_back: work_service_pb2.RunnerHandBack) -> None:
        refs = [LeaseRef(uuid.UUID(each.run_id), each.epoch) for each in hand_back.leases]
        self._caretaker.moved(await ledger_session.hand_back(self._db, session.session_id, refs))


def _served(intent: work_service_pb2.ServedIntent) -> ServedIntent:
    return ServedIntent(
        intent.intent, intent.agent_version, tuple(intent.compatible_versions), intent.max_concurrent
    )
