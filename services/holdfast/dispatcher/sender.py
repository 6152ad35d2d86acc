"""One call: signed, bounded in time and size, without redirects, and always ending in a `CallResult`."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import httpcore
import httpx

from holdfast.dispatcher.address import AddressPolicy
from holdfast.dispatcher.answer import CallResult, of_failure, of_inquiry, of_status
from holdfast.dispatcher.connection import Connections
from holdfast.dispatcher.grpc_call import GrpcCalls, is_grpc
from holdfast.dispatcher.nats_call import NatsCalls, is_nats
from holdfast.dispatcher.request import OutgoingRequest, inquiry, outgoing
from holdfast.dispatcher.secret import Secrets
from holdfast.kit.clock import Clock
from holdfast.ledger.domain.delivery import DeliveryMode
from holdfast.ledger.outbox_claim import Delivery

Make = Callable[[Delivery, Secrets, Callable[[], datetime]], OutgoingRequest]

_MOST_READ: Final = 65_536  # of an answer's body, which nobody needs: read only to keep the connection


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
        try:
            request = made(delivery, self._secrets, self._clock.now)
            self._policy.endpoint(request.url)
            async with asyncio.timeout(timeout) as limit:
                return await self._exchange(request, limit, timeout)
        except Exception as error:
            result = of_failure(error)
            if result is None:
                raise
            return result

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()
        await self._grpc.close()
        await self._nats.close()

    async def _exchange(
        self, outgoing: OutgoingRequest, limit: asyncio.Timeout, timeout: float
    ) -> CallResult:
        async with self._connections.exchange(_request(outgoing, timeout)) as response:
            limit.reschedule(None)  # the status is the answer; what follows cannot take it back
            result = of_status(response.status, _header(response.headers, b"retry-after"))
            await _drain(response)
            return result


def _request(outgoing: OutgoingRequest, timeout: float) -> httpcore.Request:
    parsed = httpx.URL(outgoing.url)  # parsed by what checked it: two parsers may see two hosts
    url = httpcore.URL(
        scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path
    )
    length = (b"content-length", str(len(outgoing.body)).encode())
    headers = [(b"host", parsed.netloc), length, *outgoing.headers]
    phases = dict.fromkeys(("connect", "read", "write"), timeout)
    return httpcore.Request(
        outgoing.method, url, headers=headers, content=outgoing.body, extensions={"timeout": phases}
    )


async def _drain(response: httpcore.Response) -> None:
    """Read a small body, so that the connection can be used again; the status has already said it all."""
    read = 0
    try:
        async with asyncio.timeout(1.0):
            async for chunk in response.aiter_stream():
                read += len(chunk)
                if read > _MOST_READ:
                    return
    except (TimeoutError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
        return  # the pool closes what was not read to its end


def _header(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in headers if key.lower() == name), None)
