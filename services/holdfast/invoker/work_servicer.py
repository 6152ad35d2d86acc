"""Runners take work: one stream is one session, and one heartbeat stands for all its leases."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from holdfast.invoker.hello import read_hello, read_leases, read_run_ids
from holdfast.invoker.parts import Parts
from holdfast.invoker.runner_session import RunnerSession
from holdfast.kit.errors import StreamProtocol
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger import session as ledger_session
from holdfast.v1 import work_service_pb2, work_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

MAX_CREDIT = 10_000

_log = logger("invoker")


class WorkServicer(work_service_pb2_grpc.WorkServiceServicer):
    """Serves `WorkService`: the stream comes and goes, the session and its leases are rows."""

    def __init__(self, parts: Parts) -> None:
        self._db = parts.db
        self._board = parts.board
        self._claimer = parts.claimer
        self._hints = parts.hints
        self._caretaker = parts.caretaker
        self._batches = parts.batches
        self._intents = parts.intents
        self._settings = parts.settings
        self._capabilities = parts.capabilities

    async def Lease(  # noqa: N802 - the contract's name
        self,
        request_iterator: AsyncIterator[work_service_pb2.LeaseRequest],
        _context: Context,
    ) -> AsyncIterator[work_service_pb2.LeaseResponse]:
        """Open the runner's session, push it work, and free its leases soon after the stream breaks."""
        self._board.refuse_if_draining()
        session = read_hello(await anext(aiter(request_iterator), None))
        session.capabilities.made_by = self._capabilities
        await self._open(session)
        reader = asyncio.create_task(self._read(session, request_iterator), name="lease-reader")
        try:
            yield self._opened(session)
            async for message in session.messages():
                yield message
            if reader.done():
                reader.result()  # raises what was wrong with the runner's messages
        finally:
            reader.cancel()
            if self._board.remove(session):
                leaving = asyncio.create_task(self._caretaker.stream_broken(session.session_id))
                await asyncio.shield(leaving)

    async def _open(self, session: RunnerSession) -> None:
        """Open the session on the ledger; tell the runner what it holds, for it may not have heard."""
        held = await ledger_session.open_session(
            self._db,
            ledger_session.RunnerSession(
                session.session_id,
                self._caretaker.invoker_id,
                session.address,
                session.intents,
                session.attach_token,
            ),
            ttl_s=self._settings.lease_ttl,
        )
        self._board.add(session)
        self._intents.add([served.intent for served in session.intents])
        for lease in held:
            session.lease(lease)
        _log.info(
            "runner connected",
            session_id=str(session.session_id),
            address=session.address,
            intents=len(session.intents),
            held=len(held),
        )

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
                if self._board.heard(session):
                    self._claimer.credited()  # what came meanwhile waits for it
                kind = request.WhichOneof("message")
                if kind == "credit":
                    self._credit(session, request.credit)
                elif kind == "hand_back":
                    await self._hand_back(session, request.hand_back)
                elif kind == "heartbeat":
                    session.renew()
                else:
                    raise StreamProtocol("after hello come credit, heartbeat and hand_back")
        finally:
            session.close()

    def _credit(self, session: RunnerSession, credit: work_service_pb2.RunnerCredit) -> None:
        if not 0 <= credit.slots <= MAX_CREDIT or session.credit + credit.slots > MAX_CREDIT:
            raise StreamProtocol(f"credit must be between 0 and {MAX_CREDIT:,}")
        session.credit += credit.slots
        if credit.ended_run_ids:
            ended = read_run_ids("credit.ended_run_ids", credit.ended_run_ids)
            session.left(ended)
            self._hints.left(ended)
            self._batches.ended(len(ended))
        if credit.slots:
            self._claimer.credited()

    async def _hand_back(self, session: RunnerSession, hand_back: work_service_pb2.RunnerHandBack) -> None:
        leases = read_leases(hand_back)
        session.left([lease.run_id for lease in leases])
        self._hints.moved(await ledger_session.hand_back(self._db, session.session_id, leases))
