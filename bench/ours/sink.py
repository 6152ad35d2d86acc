"""A destination that answers at once, and costs as little as one in Python can."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import httptools

_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class _Answering(asyncio.Protocol):
    """Answers each request on one connection with 200."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        assert self._transport is not None  # it has sent
        self._transport.write(_OK)


@asynccontextmanager
async def sink() -> AsyncIterator[str]:
    """Serve it on loopback, and give its URL."""
    server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
