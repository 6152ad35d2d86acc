"""Connections of the dispatcher go to addresses that were checked for that connection, and nowhere else."""

import asyncio
import ssl
from typing import Final

import certifi

from holdfast.dispatcher.address import AddressPolicy, Endpoint
from holdfast.dispatcher.exchange import HttpConnection

_KEEP_S: Final = 15.0  # shorter than most servers keep an idle connection: they rarely close one in our hands


class UnreachableError(Exception):
    """No connection was made."""


class Connections:
    """Connections to destinations, without proxies, cookies or credentials; idle ones are used again."""

    def __init__(self, policy: AddressPolicy, *, most_idle: int) -> None:
        self._policy = policy
        self._tls = ssl.create_default_context(cafile=certifi.where())
        self._tls.load_default_certs()  # an operator's own authority is in the system's store
        self._tls.set_alpn_protocols(["http/1.1"])
        self._most_idle = most_idle
        self._open: dict[HttpConnection, Endpoint] = {}
        # Of each endpoint the one used last stands last.
        self._idle: dict[Endpoint, dict[HttpConnection, None]] = {}
        self._idle_count = 0

    async def take(self, endpoint: Endpoint) -> HttpConnection:
        """Return an idle connection, or a new one, for one exchange; afterwards it comes back by itself.

        Raises `AddressRefusedError` and `UnreachableError`.
        """
        return self._idle_one(endpoint) or await self._new(endpoint)

    def close(self) -> None:
        """Close all."""
        for connection in tuple(self._open):
            connection.close()

    def _idle_one(self, endpoint: Endpoint) -> HttpConnection | None:
        """Return the idle connection used last; if it was idle for too long, all were, and are closed."""
        idle = self._idle.get(endpoint, {})
        while idle:
            connection, _ = idle.popitem()
            self._idle_count -= 1
            if not connection.is_open:
                continue  # its end is about to be told
            if asyncio.get_running_loop().time() - connection.idle_since < _KEEP_S:
                return connection
            for stale in (connection, *idle):
                stale.close()
            break
        return None

    async def _new(self, endpoint: Endpoint) -> HttpConnection:
        """Resolve the host, check every address, and connect to the first of those checked that answers.

        The host's name still goes into TLS: what the certificate is for, and what is asked for by SNI.
        """
        loop = asyncio.get_running_loop()
        tls = self._tls if endpoint.scheme == "https" else None
        refused: Exception | None = None
        for address in await self._policy.addresses(endpoint):
            try:
                _, connection = await loop.create_connection(
                    lambda: HttpConnection(self._rest, self._gone),
                    address,
                    endpoint.port,
                    ssl=tls,
                    server_hostname=endpoint.host if tls else None,
                )
            except OSError as error:  # of TLS too
                refused = error
            else:
                self._open[connection] = endpoint
                return connection
        raise UnreachableError from refused

    def _rest(self, connection: HttpConnection) -> None:
        if self._idle_count >= self._most_idle:
            connection.close()
            return
        self._idle.setdefault(self._open[connection], {})[connection] = None
        self._idle_count += 1

    def _gone(self, connection: HttpConnection) -> None:
        endpoint = self._open.pop(connection, None)
        if endpoint is None:
            return
        idle = self._idle.get(endpoint, {})
        if connection in idle:
            del idle[connection]
            self._idle_count -= 1
        if not idle:
            self._idle.pop(endpoint, None)
