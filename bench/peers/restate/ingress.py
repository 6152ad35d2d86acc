"""A keep-alive HTTP/1.1 client so small that the load it makes costs the measured system next to nothing."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Self
from urllib import request


class Lane:
    """One connection to the ingress, one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def call(self, handler: str, argument: object) -> bytes:
        """Invoke a handler and wait for its result."""
        body = json.dumps(argument)
        self._writer.write(
            f"POST /Bench/{handler} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        result = await self._reader.readexactly(length)
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise RuntimeError(f"Restate answered {head!r} {result!r}")
        return result


async def call_many(port: int, handler: str, runs: int, concurrency: int) -> list[float]:
    """Invoke a handler so many times, so many at once; return the milliseconds of each."""
    numbers: Iterator[int] = iter(range(runs))
    milliseconds: list[float] = []

    async def one_lane() -> None:
        async with Lane(port) as lane:
            for number in numbers:
                began = time.perf_counter()
                await lane.call(handler, number)
                milliseconds.append(1000 * (time.perf_counter() - began))

    await asyncio.gather(*(one_lane() for _ in range(concurrency)))
    return milliseconds


def register(admin_port: int, service_port: int) -> None:
    """Tell Restate where the service listens; raises OSError while either is not up."""
    body = json.dumps({"uri": f"http://127.0.0.1:{service_port}"}).encode()
    headers = {"content-type": "application/json"}
    asked = request.Request(f"http://127.0.0.1:{admin_port}/deployments", body, headers, method="POST")
    with request.urlopen(asked, timeout=5) as answered:
        answered.read()
