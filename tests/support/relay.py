"""A way over TCP that a test can make fall silent."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class Relay:
    """Relays a port of its own to an address; `hang` lets nothing more through, and breaks nothing either."""

    def __init__(self, address: str, host: str = "127.0.0.1") -> None:
        far, _, port = address.rpartition(":")
        self._far = (far, int(port))
        self._host = host
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def address(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"{self._host}:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, self._host, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def hang(self) -> None:
        """Hold back everything from here on, as a network that has lost its far end."""
        self._flowing.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        task.add_done_callback(self._relays.discard)
        far: asyncio.StreamWriter | None = None
        flows: list[asyncio.Task[None]] = []
        try:
            far_reader, far = await asyncio.open_connection(*self._far)
            flows = [
                asyncio.create_task(self._flow(reader, far)),
                asyncio.create_task(self._flow(far_reader, writer)),
            ]
            await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass  # whoever came is cut off, as the far end is
        finally:
            for flow in flows:
                flow.cancel()
            await asyncio.gather(*flows, return_exceptions=True)
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    async def _flow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
