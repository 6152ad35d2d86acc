"""Connections of the dispatcher go to addresses that were checked for that connection, and nowhere else."""

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

from holdfast.dispatcher.address import AddressPolicy, Endpoint


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a host, checks every address, and connects to one of those it checked.

    Unix sockets and pauses between tries are not needed, and left to the base class, which refuses them. The
    host's name still goes into TLS (SNI, certificate) and into `Host`: both are made from the URL.
    """

    def __init__(self, policy: AddressPolicy, scheme: str) -> None:
        self._policy = policy
        self._scheme = scheme
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers. Raises `AddressRefusedError`, or as httpcore does."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._policy.addresses(Endpoint(self._scheme, host.lower(), port))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout from error
        refused: Exception | None = None
        for address in addresses:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                refused = error
        raise refused or httpcore.ConnectError


def guarded_pool(policy: AddressPolicy, scheme: str, *, most: int) -> httpcore.AsyncConnectionPool:
    """Return a pool of connections for URLs of one scheme: no redirects, cookies, proxies or credentials."""
    context: ssl.SSLContext = httpcore.default_ssl_context()
    context.load_default_certs()  # an operator's own authority is in the system's store
    return httpcore.AsyncConnectionPool(
        ssl_context=context,
        max_connections=most,
        max_keepalive_connections=min(most, 64),
        keepalive_expiry=15.0,
        network_backend=GuardedBackend(policy, scheme),
    )
