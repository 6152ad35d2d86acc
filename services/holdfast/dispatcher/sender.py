"""One call: signed, bounded in time and size, without redirects, and always ending in a `CallResult`."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from holdfast.dispatcher.address import AddressPolicy, Target
from holdfast.dispatcher.answer import CallResult, of_failure, of_inquiry, of_status
from holdfast.dispatcher.connection import Connections, UnreachableError
from holdfast.dispatcher.exchange import HttpConnection, written
from holdfast.dispatcher.grpc_call import GrpcCalls, is_grpc
from holdfast.dispatcher.nats_call import NatsCalls, is_nats
from holdfast.dispatcher.request import OutgoingRequest, inquiry, outgoing
from holdfast.dispatcher.secret import Secrets
from holdfast.kit.clock import Clock
from holdfast.ledger.domain.delivery import DeliveryMode
from holdfast.ledger.outbox_claim import Delivery

Make = Callable[[Delivery, Secrets, Callable[[], datetime]], OutgoingRequest]


class Sender:
    """Sends deliveries; `close` ends it."""

    def __init__(self, policy: AddressPolicy, secrets: Secrets, clock: Clock, *, at_once: int) -> None:
        self._policy = policy
        self._secrets = secrets
        self._clock = clock
        self._connections = Connections(policy, most_idle=at_once)
        self._grpc = GrpcCalls(policy)
        self._nats = NatsCalls(policy, secrets)

    async def send(self, delivery: Delivery) -> CallResult:
        """Make the call, and say what came of it; takes at most the destination's timeout.

        In the mode CONFIRM, a destination that may have it already is asked first, for as long at most.
        """
        if is_grpc(delivery.destination.url):
            return await self._grpc.send(delivery)
        if is_nats(delivery.destination.url):
            return await self._nats.send(delivery)
        if not (delivery.unsure and delivery.destination.mode is DeliveryMode.CONFIRM):
            return await self._call(delivery, outgoing)
        known = of_inquiry(await self._call(delivery, inquiry))
        return known or replace(await self._call(delivery, outgoing), cleared=True)

    async def _call(self, delivery: Delivery, made: Make) -> CallResult:
        timeout = delivery.destination.timeout_s
        connection: HttpConnection | None = None
        try:
            request = made(delivery, self._secrets, self._clock.now)
            target = self._policy.target(request.url)
            wire = written(
                request.method, target.path, [*_framing(target, request), *request.headers], request.body
            )
            async with asyncio.timeout(timeout):
                connection = await self._connections.take(target.endpoint)
                answered = await connection.send(wire)
        except Exception as error:
            result = of_failure(UnreachableError() if _too_late_to_send(error, connection) else error)
            if result is None:
                raise
            return result
        return of_status(answered.status, answered.retry_after)

    async def close(self) -> None:
        """Close all connections."""
        self._connections.close()
        await self._grpc.close()
        await self._nats.close()


def _framing(target: Target, request: OutgoingRequest) -> list[tuple[bytes, bytes]]:
    return [(b"host", target.host), (b"content-length", str(len(request.body)).encode())]


def _too_late_to_send(error: Exception, connection: HttpConnection | None) -> bool:
    return isinstance(error, TimeoutError) and connection is None
