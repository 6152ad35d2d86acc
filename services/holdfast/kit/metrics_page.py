"""`GET /metrics` at an address of its own: off unless it has one, and never in the way of the work.

A page is made on another thread; few are made at once, and who asks slowly is cut off.
"""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

from prometheus_client.exposition import choose_encoder

from holdfast.kit.process import Refused
from holdfast.kit.telemetry.metrics import Metrics

PATH: Final = "/metrics"
PATIENCE: Final = 5.0
"""Seconds that a reader has for its request, and again for its answer."""
MOST_READERS: Final = 8
LARGEST_REQUEST: Final = 8 * 1024
LOOK: Final = 1.0
"""Seconds between two looks at how late the loop is."""


@asynccontextmanager
async def shown(metrics: Metrics, address: str) -> AsyncIterator[str]:
    """Show the metrics at `host:port` (port 0: any free one) during the block, and yield where.

    Without an address do nothing, and yield an empty text. Raises `Refused` in one sentence.
    """
    if not address:
        yield ""
        return
    page = _Page(metrics)
    host, port = _parted(address)
    try:
        server = await asyncio.start_server(page.answer, host, port, limit=LARGEST_REQUEST)
    except OSError as error:
        raise Refused(
            f"Cannot show metrics on {address}: the address is in use or not this machine's."
        ) from error
    looking = asyncio.create_task(_look(metrics))
    try:
        at = server.sockets[0].getsockname()
        yield f"[{at[0]}]:{at[1]}" if ":" in at[0] else f"{at[0]}:{at[1]}"
    finally:
        looking.cancel()
        server.close()


class _Page:
    """Answers those who read."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = metrics.registry
        self._readers = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close."""
        self._readers += 1
        try:
            async with asyncio.timeout(PATIENCE):
                request = await reader.readuntil(b"\r\n\r\n")
            status, headers, body = await self._response(request)
            writer.write(_written(status, headers, b"" if request.startswith(b"HEAD ") else body, len(body)))
            async with asyncio.timeout(PATIENCE):
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()  # whoever it was did not ask as one asks
        finally:
            self._readers -= 1
            writer.close()

    async def _response(self, request: bytes) -> tuple[HTTPStatus, dict[str, str], bytes]:
        method, _, rest = request.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        if rest.partition(" ")[0].partition("?")[0] != PATH:
            return HTTPStatus.NOT_FOUND, {}, b""
        if method not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"}, b""
        if self._readers > MOST_READERS:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "1"}, b""
        encode, kind = choose_encoder(_accepted(request))
        return HTTPStatus.OK, {"Content-Type": kind}, await asyncio.to_thread(encode, self._registry)


async def _look(metrics: Metrics) -> None:
    """Look once a second how late the loop is."""
    loop = asyncio.get_running_loop()
    while True:
        wanted = loop.time() + LOOK
        await asyncio.sleep(LOOK)
        metrics.lag.observe(max(0.0, loop.time() - wanted))


def _accepted(request: bytes) -> str:
    for line in request.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.lower() == "accept":
            return value.strip()
    return ""


def _written(status: HTTPStatus, headers: Mapping[str, str], body: bytes, length: int) -> bytes:
    told = {**headers, "Content-Length": str(length), "Connection": "close"}
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        *(f"{name}: {value}" for name, value in told.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _parted(address: str) -> tuple[str, int]:
    """Return host and port. Raises `Refused` for what is none."""
    host, _, port = address.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    if not _is_address(host) or not (port.isascii() and port.isdigit() and int(port) <= 65535):  # noqa: PLR2004
        raise Refused(f"Cannot show metrics on {address!r}: an address is host:port, the host in numbers.")
    return host, int(port)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
