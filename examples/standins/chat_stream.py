"""Sends an answer token by token, breaks it off where a fault says so, and stops when its reader leaves."""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from examples.standins.chat_protocol import ChatRequest, Completion, error_body
from examples.standins.fault import Fault
from examples.standins.serving import Connections, client_left

_UNBROKEN = frozenset({"no_usage", "slow_start"})
"""Faults of a stream that comes to its end all the same."""


@dataclass
class ModelStats:
    """What the server has counted since it started."""

    requests: int = 0
    failed: int = 0
    streams: int = 0
    open_streams: int = 0
    clients_left: int = 0
    tokens_sent: int = 0
    tokens_sent_after_client_left: int = 0


@dataclass(frozen=True)
class Line:
    """What every answer of one server shares: its counters, its connections, its pace in seconds a token."""

    stats: ModelStats
    connections: Connections
    token_delay: float
    stops_when_client_leaves: bool
    departures: "asyncio.Queue[float]"

    def client_left(self) -> None:
        """Count a client that left before its answer was whole, and note when."""
        self.stats.clients_left += 1
        self.departures.put_nowait(time.monotonic())


class Unanswered(Response):
    """The end of a request without answer: its connection is cut, or hangs until the client leaves."""

    def __init__(self, line: Line, fault: Fault) -> None:
        super().__init__(status_code=503)
        self._line, self._fault = line, fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 -- sends nothing
        """Answer nothing."""
        if self._fault.kind == "reset":
            self._line.connections.cut(tuple(scope["client"]))
            return
        await client_left(receive)
        self._line.client_left()


class TokenStream(Response):
    """One answer as server-sent events, a token each, that ends when its client leaves."""

    def __init__(self, line: Line, chat: ChatRequest, completion: Completion, fault: Fault | None) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]  # the length of a stream is not known beforehand
        self._line, self._chat, self._completion, self._fault = line, chat, completion, fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream to its end, its fault, or the client's leaving."""
        stats = self._line.stats
        left = asyncio.create_task(self._left(receive))
        stats.streams += 1
        stats.open_streams += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _send_event(send, self._completion.chunk({"role": "assistant", "content": ""}))
            if await self._send_tokens(send, left):
                await self._send_end(send)
            elif not left.done():
                await self._break_off(scope, send)
        finally:
            stats.open_streams -= 1
            left.cancel()

    async def _left(self, receive: Receive) -> None:
        await client_left(receive)
        self._line.client_left()

    async def _send_tokens(self, send: Send, left: asyncio.Task[None]) -> bool:
        """Send the answer token by token; False when the client left or the fault's place was reached."""
        line, fault = self._line, self._fault
        breaks_after = None if fault is None or fault.kind in _UNBROKEN else fault.after_tokens
        if fault is not None and fault.kind == "slow_start":
            await asyncio.wait({left}, timeout=fault.delay)
            if left.done():
                return False
        for sent, delta in enumerate(self._completion.deltas()):
            if sent == breaks_after:
                return False
            if line.stops_when_client_leaves:
                # At least one turn of the event loop, or a stream without delay never sees its client leave.
                await asyncio.wait({left}, timeout=line.token_delay)
                if left.done():
                    return False
            else:
                await asyncio.sleep(line.token_delay)
            await _send_event(send, self._completion.chunk(delta))
            line.stats.tokens_sent += 1
            line.stats.tokens_sent_after_client_left += left.done()
        return breaks_after is None

    async def _break_off(self, scope: Scope, send: Send) -> None:
        assert self._fault is not None
        self._line.stats.failed += 1
        if self._fault.kind == "drop":
            self._line.connections.cut(tuple(scope["client"]))
            return
        if self._fault.kind == "garbage":
            await _send_data(send, "{this is no JSON")
        else:
            await _send_event(send, error_body(self._fault.message, "server_error", code=self._fault.code))
        await send({"type": "http.response.body", "body": b""})

    async def _send_end(self, send: Send) -> None:
        await _send_event(send, self._completion.chunk({}, self._completion.finish_reason))
        if self._chat.wants_usage and (self._fault is None or self._fault.kind != "no_usage"):
            await _send_event(send, self._completion.usage_chunk())
        await _send_data(send, "[DONE]")
        await send({"type": "http.response.body", "body": b""})


async def _send_event(send: Send, document: dict[str, Any]) -> None:
    await _send_data(send, json.dumps(document, ensure_ascii=False))


async def _send_data(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})
