"""One stream to an Invoker is this runner's session: credit and heartbeats up, leases down.

connecting ──(opened)──▶ in session ──(broken)──▶ connecting ──(opened within the ttl)──▶ in session
                                                      └──(the ttl has passed, or the session is unknown)
                                                           ──▶ every run is stopped, a new session begins
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from holdfast.agent.error import LeaseLost
from holdfast.kit.ids import new_id
from holdfast.kit.rpc.client import streaming
from holdfast.kit.telemetry.logs import logger
from holdfast.runner.agents import Agents
from holdfast.runner.duplex import BROKEN, both, code_of
from holdfast.runner.holding import Holding
from holdfast.runner.way import OPEN, Way
from holdfast.v1.work_service_pb2 import (
    LeaseRef,
    LeaseRequest,
    LeaseResponse,
    RunnerCredit,
    RunnerHandBack,
    RunnerHeartbeat,
    RunnerHello,
    SessionOpened,
)
from holdfast.v1.work_service_pb2_grpc import WorkServiceStub

FIRST_PAUSE: Final = 0.05  # seconds
LONGEST_PAUSE: Final = 1.0
DEFAULT_TTL: Final = 10.0

_log: Final = logger("lease")


class LeaseStream:
    """Keeps a session with one of the Invokers, and tells it what becomes of the runs."""

    def __init__(
        self,
        addresses: Sequence[str],
        address: str,
        agents: Agents,
        holding: Holding,
        *,
        way: Way = OPEN,
        attach_token: str = "",
    ) -> None:
        """Keep a session with one of `addresses`; `attach_token` is what it shall say when it attaches."""
        self._proof = way.proof
        self._attach_token = attach_token
        self.runner_id = str(new_id())
        self.in_session = asyncio.Event()  # once there was a session
        self._channels = way.channels(addresses, deadlines=False)
        self._current = 0
        self._address = address
        self._agents = agents
        self._holding = holding
        self._credit = 0
        self._ended: list[str] = []
        self._hand_back: list[LeaseRef] = []
        self._wake = asyncio.Event()
        self._flushed = asyncio.Event()
        self._interval = 1.0
        self._ttl = DEFAULT_TTL
        self._expiry: asyncio.TimerHandle | None = None
        self._opened = False
        holding.freed = self._freed
        holding.ended = self._ended_here
        holding.handed_back = self._handed_back

    async def run(self) -> None:
        """Keep a session until cancelled."""
        failures = 0
        try:
            while True:
                self._opened = False
                await self._session()
                failures = 0 if self._opened else failures + 1
                self._current = (self._current + 1) % len(self._channels)
                ceiling = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, 8))
                await asyncio.sleep(ceiling * random.uniform(0.5, 1.0))  # noqa: S311 -- spreads load
        finally:
            if self._expiry is not None:
                self._expiry.cancel()
            await self._channels.close()

    async def told(self, patience: float) -> None:
        """Wait until the Invoker has been told everything, if it can be within `patience` seconds."""
        if self._credit or self._ended or self._hand_back:
            self._flushed.clear()
            try:
                await asyncio.wait_for(self._flushed.wait(), patience)
            except TimeoutError:
                _log.warning("the invoker was not told all", leases=len(self._hand_back))

    async def _session(self) -> None:
        """Hold one stream until it breaks."""
        try:
            stub = WorkServiceStub(self._channels[self._current])
            async with streaming(stub.Lease(metadata=self._proof.metadata())) as call:
                hello = RunnerHello(
                    runner_id=self.runner_id,
                    address=self._address,
                    intents=self._agents.intents(),
                    attach_token=self._attach_token,
                )
                await call.write(LeaseRequest(hello=hello))
                first: Any = await call.read()
                if first is grpc.aio.EOF or first.WhichOneof("message") != "opened":
                    _log.warning("the invoker opened no session")
                    return
                self._begin(first.opened)
                await both(self._read(call), self._write(call))
        except BROKEN as error:
            reason = _reason(error)
            _log.warning("lease stream broken", code=code_of(error), reason=reason)
            if reason == "SESSION_UNKNOWN":
                self._lost("the session is unknown to the invoker")
        finally:
            if self._opened:
                self._expiry = asyncio.get_running_loop().call_later(
                    self._ttl, self._lost, "the stream was broken for longer than leases last"
                )

    def _begin(self, opened: SessionOpened) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._opened = True
        self.in_session.set()
        self._interval = opened.heartbeat_interval.ToTimedelta().total_seconds() or self._interval
        self._ttl = opened.lease_ttl.ToTimedelta().total_seconds() or self._ttl
        # Credit is the stream's own: a new stream begins with what is free now.
        self._credit = self._holding.free
        self._wake.set()
        _log.info("in session", session_id=opened.session_id, held=len(self._holding))

    async def _read(self, call: Any) -> None:
        """Do what the Invoker says until it says no more."""
        while (response := await call.read()) is not grpc.aio.EOF:
            if self._take(response):
                return

    def _take(self, response: LeaseResponse) -> bool:
        """Do what one message says; true if another stream is to be opened."""
        kind = response.WhichOneof("message")
        if kind == "leased":
            self._holding.take(response.leased.assignments)
        elif kind == "revoked":
            self._holding.revoke(response.revoked.leases)
        elif kind == "cancel":
            self._holding.cancel(response.cancel.leases, response.cancel.reason)
        elif kind == "pause":
            self._holding.pause(response.pause.leases)
        elif kind == "signals":
            for arrived in response.signals.signals:
                self._holding.signal(arrived.lease, arrived.signal)
        elif kind == "renewed":
            self._holding.renew(response.renewed.capabilities)
        elif kind == "draining":
            _log.info("the invoker drains")
            return True
        return False

    async def _write(self, call: Any) -> None:
        """Say what there is to say, at the latest with the next heartbeat."""
        loop = asyncio.get_running_loop()
        beat = loop.time() + self._interval
        while True:
            left = beat - loop.time()
            if left > 0:
                await self._awake(left)
            self._wake.clear()
            await self._say(call)
            if loop.time() >= beat:
                held = len(self._holding)
                await call.write(LeaseRequest(heartbeat=RunnerHeartbeat(held=held)))
                beat = loop.time() + self._interval

    async def _say(self, call: Any) -> None:
        """Write credit, ends and returned leases; what is not written stays for the next stream."""
        while self._credit or self._ended or self._hand_back:
            if self._hand_back:
                leases, self._hand_back = self._hand_back[:256], self._hand_back[256:]
                try:
                    await call.write(LeaseRequest(hand_back=RunnerHandBack(leases=leases)))
                except BaseException:
                    self._hand_back = leases + self._hand_back
                    raise
            if self._credit or self._ended:
                slots, ended = self._credit, self._ended
                self._credit, self._ended = 0, []
                await call.write(LeaseRequest(credit=RunnerCredit(slots=slots, ended_run_ids=ended)))
        self._flushed.set()

    async def _awake(self, patience: float) -> None:
        if self._wake.is_set():
            return
        timer = asyncio.get_running_loop().call_later(patience, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    def _freed(self) -> None:
        if not self._holding.draining:
            self._credit += 1
            self._wake.set()

    def _ended_here(self, run_id: str) -> None:
        self._ended.append(run_id)
        self._wake.set()

    def _handed_back(self, lease: LeaseRef) -> None:
        self._hand_back.append(lease)
        self._wake.set()

    def _lost(self, cause: str) -> None:
        """Stop every run at once: others may have them already. Begin anew under another id."""
        self._expiry = None
        if len(self._holding):
            _log.warning("all leases lost", cause=cause, runs=len(self._holding))
        self.runner_id = str(new_id())
        self._hand_back.clear()
        self._holding.stop_all(LeaseLost(cause))


def _reason(error: Exception) -> str:
    status = rpc_status.from_call(error) if isinstance(error, grpc.aio.AioRpcError) else None
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return ""
