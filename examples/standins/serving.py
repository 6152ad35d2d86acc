"""Serves an ASGI app on loopback and can cut any of its connections, as a failing network would."""

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import struct
import sys
from collections.abc import Generator
from types import TracebackType
from typing import Any, Protocol, Self

import uvicorn
from starlette.types import ASGIApp, Receive
from uvicorn.protocols.http.h11_impl import H11Protocol

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close sends RST instead of FIN


class Connections:
    """The open connections of one server, by the address of their client."""

    def __init__(self) -> None:
        self._transports: dict[tuple[str, int], asyncio.Transport] = {}

    def add(self, transport: asyncio.Transport) -> None:
        """Remember a connection until it is removed."""
        self._transports[_address(transport)] = transport

    def remove(self, transport: asyncio.Transport) -> None:
        """Forget a connection that has ended."""
        self._transports.pop(_address(transport), None)

    def cut(self, client: tuple[str, int]) -> None:
        """Reset the connection of this client at once; harmless if it is already gone."""
        transport = self._transports.pop(client, None)
        if transport is None or transport.is_closing():
            return
        raw: socket.socket = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        transport.abort()

    def cut_all(self) -> None:
        """Reset every connection, those of hanging requests included."""
        for client in list(self._transports):
            self.cut(client)


def _address(transport: asyncio.Transport) -> tuple[str, int]:
    host, port = transport.get_extra_info("peername")[:2]
    return str(host), int(port)


def _tracked_protocol(connections: Connections) -> type[H11Protocol]:
    class TrackedProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            connections.add(transport)
            self.tracked = transport
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            connections.remove(self.tracked)
            super().connection_lost(exc)

    return TrackedProtocol


class _EventedServer(uvicorn.Server):
    """A uvicorn server that is ready and stops by events, at once, and leaves signals to its owner."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self._connections = connections
        self.ready = asyncio.Event()
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        self.ready.set()
        await self.stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        self._connections.cut_all()
        answering = list(self.server_state.tasks)
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class LoopbackServer:
    """One ASGI app on 127.0.0.1, in the running event loop, from `start` to `stop`."""

    def __init__(self, app: ASGIApp, connections: Connections, port: int = 0) -> None:
        self._listener = _listen(port)
        self.origin = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = _EventedServer(
            uvicorn.Config(
                app,
                http=_tracked_protocol(connections),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
            ),
            connections,
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return once connections are accepted."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait({self._serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            await self._serving  # it ended before it was ready: let its own exception say why

    async def stop(self) -> None:
        """Cut what is open and release the port. Harmless when repeated."""
        if self._serving is None:
            self._listener.close()
            return
        self._server.stopping.set()
        await self._serving


def _listen(port: int) -> socket.socket:
    # Named TCP, or asyncio leaves Nagle's algorithm on and each small answer waits 40 ms for an ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # Only lets a restarted stand-in take its port back at once; a port in use still refuses.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.close()
        raise
    return listener


async def client_left(receive: Receive) -> None:
    """Return when the client of this request has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


class StandIn(Protocol):
    """What both stand-ins are: an async context manager with the URL others are told."""

    url: str

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


async def serve_until_signalled(stand_in: StandIn) -> None:
    """Print one JSON line with the URL and serve until SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with stand_in:
        print(json.dumps({"url": stand_in.url}), flush=True)
        await stopped.wait()


def refuse_busy_port(parser: argparse.ArgumentParser, port: int, error: OSError) -> None:
    """End the process with one sentence that names the port."""
    print(f"{parser.prog}: cannot listen on 127.0.0.1:{port}: {error.strerror}", file=sys.stderr)
    sys.exit(1)


def json_object(value: Any) -> dict[str, Any]:
    """Return a JSON object, or raise ValueError when the value is any other JSON."""
    if not isinstance(value, dict):
        raise ValueError("a JSON object is expected")  # noqa: TRY004 -- bad data, not a programming error
    return value
