"""Connections of the dispatcher go to addresses that were checked for that connection, and nowhere else."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpcore

from holdfast.dispatcher.address import AddressPolicy, Endpoint

_KEEP_S: Final = 15.0  # shorter than most servers keep an idle connection: they rarely close one in our hands


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


_Origin = tuple[bytes, bytes, int | None]


class Connections:
    """Connections to destinations: no redirects, cookies, proxies or credentials; idle ones are used again.

    httpcore's own pool looks at all of its connections for each request; here a request looks at one.
    """

    def __init__(self, policy: AddressPolicy, *, most_idle: int) -> None:
        self._backends = {scheme: GuardedBackend(policy, scheme) for scheme in ("http", "https")}
        self._tls: ssl.SSLContext = httpcore.default_ssl_context()
        self._tls.load_default_certs()  # an operator's own authority is in the system's store
        self._most_idle = most_idle
        self._idle: dict[_Origin, list[httpcore.AsyncHTTPConnection]] = {}
        self._idle_count = 0

    @asynccontextmanager
    async def exchange(self, request: httpcore.Request) -> AsyncIterator[httpcore.Response]:
        """Send a request and give its response, whose body may be left unread."""
        origin: _Origin = (request.url.scheme, request.url.host, request.url.port)
        connection = await self._idle_one(origin) or self._new(request.url)
        try:
            response = await connection.handle_async_request(request)
            try:
                yield response
            finally:
                await response.aclose()
        finally:
            if connection.is_idle() and self._idle_count < self._most_idle:
                self._idle.setdefault(origin, []).append(connection)
                self._idle_count += 1
            else:
                await connection.aclose()

    async def close(self) -> None:
        """Close what is idle."""
        idle, self._idle, self._idle_count = self._idle, {}, 0
        for connections in idle.values():
            for connection in connections:
                await connection.aclose()

    async def _idle_one(self, origin: _Origin) -> httpcore.AsyncHTTPConnection | None:
        """Return the idle connection used last, closing those that have gone stale."""
        connections = self._idle.get(origin, [])
        while connections:
            connection = connections.pop()
            self._idle_count -= 1
            if not connections:
                del self._idle[origin]
            if not connection.has_expired():
                return connection
            await connection.aclose()
        return None

    def _new(self, url: httpcore.URL) -> httpcore.AsyncHTTPConnection:
        return httpcore.AsyncHTTPConnection(
            url.origin,
            ssl_context=self._tls,
            keepalive_expiry=_KEEP_S,
            network_backend=self._backends[url.scheme.decode()],
        )
