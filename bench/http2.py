"""Many unary gRPC calls from few instructions: who asks must not take the processors of who answers.

A connection of HTTP/2 (RFC 9113) that sends one and the same call again and again: its header block and
its message are made once, and of what comes back only the trailers are looked at. HPACK's dynamic table is
declined and binary metadata asked for as it is, so a status is found in its bytes. Nothing wakes up for an
answer: what is there is read when the next calls are due.
"""

import socket
import struct
from collections import Counter
from typing import Final

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY, _WINDOW, _RESET = 0x0, 0x1, 0x4, 0x6, 0x7, 0x8, 0x3
_ACK = _END_STREAM = 0x1
_END_HEADERS: Final = 0x4
_WIDE: Final = 2**31 - 1
_USUAL_WINDOW: Final = 65_535
_TABLE_SIZE, _WINDOW_SIZE, _TRUE_BINARY = 0x1, 0x4, 0xFE03
_STATUS: Final = b"grpc-status"
_FRAME_HEAD: Final = 9
_MOST_READ: Final = 1 << 20
_RETRY_INFO: Final = b"google.rpc.RetryInfo"


class Calls:
    """One connection's calls; `told` counts how they ended."""

    def __init__(self, authority: str, path: str, message: bytes) -> None:
        """Connect to `host:port`; every call sends the message, serialised, to the path."""
        self.open = 0
        self.told: Counter[str] = Counter()
        self._head = b"\x83\x86" + _field(4, path) + _field(1, authority)
        self._head += _named("te", "trailers") + _named("content-type", "application/grpc")
        self._body = b"\x00" + struct.pack(">I", len(message)) + message
        self._stream = -1
        self._room = _USUAL_WINDOW
        self._asked = 0
        self._read = b""
        wishes = ((_TABLE_SIZE, 0), (_WINDOW_SIZE, _WIDE), (_TRUE_BINARY, 1))
        settings = b"".join(struct.pack(">HI", *wish) for wish in wishes)
        wide = struct.pack(">I", _WIDE - _USUAL_WINDOW)
        self._write = [_PREFACE, _frame(_SETTINGS, 0, 0, settings), _frame(_WINDOW, 0, 0, wide)]
        host, _, port = authority.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)

    def close(self) -> None:
        """Close the connection, and with it what is open."""
        self._socket.close()

    def turn(self, begin: int) -> None:
        """Begin so many calls, once the server takes what they send, and read what has been answered."""
        self._receive()
        self._asked += begin
        self.open += begin
        body = self._body
        while self._asked and self._room >= len(body):
            self._asked -= 1
            self._room -= len(body)
            self._stream += 2
            self._write.append(_frame(_HEADERS, _END_HEADERS, self._stream, self._head))
            self._write.append(_frame(_DATA, _END_STREAM, self._stream, body))
        self._send()

    def _send(self) -> None:
        if not self._write:
            return
        data = b"".join(self._write)
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        self._write = [data[sent:]] if sent < len(data) else []

    def _receive(self) -> None:
        """Read whole frames and keep what is left."""
        try:
            data = self._socket.recv(_MOST_READ)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionError(f"The server has hung up with {self.open} calls open.")
        read, at = self._read + data, 0
        while len(read) - at >= _FRAME_HEAD:
            end = at + _FRAME_HEAD + int.from_bytes(read[at : at + 3])
            if end > len(read):
                break
            stream = int.from_bytes(read[at + 5 : at + _FRAME_HEAD])
            self._take(read[at + 3], read[at + 4], stream, read[at + _FRAME_HEAD : end])
            at = end
        self._read = read[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS and flags & _END_STREAM:
            self._end(stream, _outcome(payload))
        elif kind == _RESET:
            self._end(stream, f"reset {int.from_bytes(payload)}")
        elif kind == _WINDOW and stream == 0:
            self._room += int.from_bytes(payload)
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._write.append(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _GOAWAY:
            raise ConnectionError(f"The server sends us away: {payload[8:].decode(errors='replace')}")

    def _end(self, _stream: int, outcome: str) -> None:
        self.told[outcome] += 1
        self.open -= 1


def _outcome(trailers: bytes) -> str:
    """Return the status of a call, and whether it says when to come again."""
    at = trailers.find(_STATUS)
    if at < 0:
        return "no status"
    at += len(_STATUS)
    code = trailers[at + 1 : at + 1 + trailers[at]].decode()
    return f"{code} come again" if _RETRY_INFO in trailers else code


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def _text(text: str) -> bytes:
    if len(text) >= 127:  # noqa: PLR2004 - longer ones take HPACK's long form
        raise ValueError(f"{text!r} is too long for a header here.")
    return bytes([len(text)]) + text.encode()


def _field(name: int, value: str) -> bytes:
    """Return a field of HPACK's static table with a value of its own."""
    return bytes([name]) + _text(value)


def _named(name: str, value: str) -> bytes:
    return b"\x00" + _text(name) + _text(value)
