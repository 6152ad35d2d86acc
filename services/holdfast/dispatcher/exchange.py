"""One HTTP/1.1 connection to a destination, one exchange on it at a time; llhttp (httptools) reads answers.

    idle ──send──▶ waiting ──head of the answer──▶ answered ──its body was read──▶ idle
     │                └──(broken | cancelled)──▶ closed    └──(too long | too late | last one)──▶ closed
     └──(the server closes it)──▶ closed

The status is the answer: whoever sent is told as soon as it is there. What follows of the answer is read only
so that the connection can be used again.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import httptools

MOST_BODY: Final = 65_536  # bytes of an answer's body, which nobody needs
MOST_HEAD: Final = 65_536  # bytes of an answer before its status and headers are known
BODY_SECONDS: Final = 1.0

_TOKEN: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_TARGET: Final = re.compile(rb"[\x21-\x7e]+")
_INFORMATIONAL: Final = range(100, 200)
_RETRY_AFTER: Final = b"retry-after"


class UnsendableError(Exception):
    """What was to be sent is no valid request."""


class BrokenError(Exception):
    """The connection ended, or what came over it is no answer, before there was one."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The head of an answer, as much of it as means something to us."""

    status: int
    retry_after: str | None


def written(method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    """Return a request as it goes over the wire. Raises `UnsendableError`."""
    if not _TARGET.fullmatch(target):
        raise UnsendableError
    lines = [b"%b %b HTTP/1.1\r\n" % (method.encode(), target)]
    for name, value in headers:
        if not (_TOKEN.fullmatch(name) and _VALUE.fullmatch(value)):
            raise UnsendableError
        lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(b"\r\n")
    lines.append(body)
    return b"".join(lines)


class HttpConnection(asyncio.Protocol):
    """Speaks over one transport; calls `idle` when another exchange may begin, `closed` when none will."""

    def __init__(
        self, idle: "Callable[[HttpConnection], None]", closed: "Callable[[HttpConnection], None]"
    ) -> None:
        self.idle_since = 0.0
        self._idle = idle
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: asyncio.Future[Answered] | None = None
        self._retry_after: str | None = None
        self._read = 0
        self._late: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether an exchange may begin here."""
        return self._transport is not None and not self._transport.is_closing()

    async def send(self, request: bytes) -> Answered:
        """Send a request and return the head of its answer. Raises `BrokenError`; cancelled, it closes."""
        if self._transport is None or not self.is_open:
            raise BrokenError
        self._parser = httptools.HttpResponseParser(self)
        self._retry_after = None
        self._read = 0
        self._answer = self._loop.create_future()
        self._transport.write(request)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        """Close it at once. Repeatable."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note what to speak over."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its class

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits, unless the status was there before."""
        del exc
        self._transport = None
        if self._late is not None:
            self._late.cancel()
        self._broken()
        self._closed(self)

    def data_received(self, data: bytes) -> None:
        """Read a piece of an answer."""
        if self._parser is None:
            self.close()  # nothing was asked
            return
        self._read += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._broken()
            self.close()
            return
        if self._read > (MOST_HEAD if self._waiting else MOST_BODY):
            self.close()

    def on_message_begin(self) -> None:
        """Refuse more than one answer (the parser calls this)."""
        if self._parser is None:
            raise BrokenError

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep what means something (the parser calls this)."""
        if name.lower() == _RETRY_AFTER:
            self._retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Tell the status to whoever waits for it (the parser calls this)."""
        assert self._parser is not None  # it calls
        status = self._parser.get_status_code()
        if status in _INFORMATIONAL or not self._waiting:
            self._retry_after = None  # it is not of the answer
            return
        assert self._answer is not None  # it is waiting
        self._answer.set_result(Answered(status, self._retry_after))
        self._read = 0
        self._late = self._loop.call_later(BODY_SECONDS, self.close)

    def on_message_complete(self) -> None:
        """Be there for the next exchange, if the server goes on (the parser calls this)."""
        assert self._parser is not None  # it calls
        if self._waiting:
            return  # that was an interim answer
        keep = self._parser.should_keep_alive()
        self._parser = None
        if self._late is not None:
            self._late.cancel()
            self._late = None
        if keep:
            self._loop.call_soon(self._rest)
        else:
            self.close()

    def _rest(self) -> None:
        """Become idle, now that all that came in one piece was read: what follows an answer ends it."""
        if self.is_open and self._parser is None:
            self.idle_since = self._loop.time()
            self._idle(self)

    @property
    def _waiting(self) -> bool:
        return self._answer is not None and not self._answer.done()

    def _broken(self) -> None:
        if self._waiting:
            assert self._answer is not None  # it is waiting
            self._answer.set_exception(BrokenError())
