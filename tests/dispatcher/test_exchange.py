"""The dispatcher's own HTTP connections: what counts as an answer, and when a connection is used again."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from holdfast.dispatcher.address import AddressPolicy, Endpoint
from holdfast.dispatcher.connection import Connections, UnreachableError
from holdfast.dispatcher.exchange import MOST_HEAD, Answered, BrokenError, UnsendableError, written
from tests.support.certificate import Authority

REQUEST = written("POST", b"/hook", [(b"host", b"sink"), (b"content-length", b"2")], b"{}")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
LET = AddressPolicy(allow_private=True)


class Sink:
    """Says what it was given to say, piece by piece, for each request; counts connections."""

    def __init__(self, *answers: list[bytes]) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until there is nothing left to say."""
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head + await reader.readexactly(2))
                for piece in self.answers.pop(0):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.005)
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def sink(
    *answers: list[bytes], tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[Sink, Endpoint]]:
    """Serve a sink on loopback."""
    served = Sink(*answers)
    async with await asyncio.start_server(served.serve, host, 0, ssl=tls) as server:
        yield served, Endpoint("https" if tls else "http", host, server.sockets[0].getsockname()[1])


async def call(connections: Connections, endpoint: Endpoint) -> Answered:
    """Make one call, and let its connection come to rest."""
    async with asyncio.timeout(5):
        connection = await connections.take(endpoint)
        answered = await connection.send(REQUEST)
        await asyncio.sleep(0.05)
        return answered


@pytest.mark.parametrize(
    "answer",
    [
        [OK],
        [OK[:9], OK[9:]],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", b"hel", b"lo"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n"],
        [b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + OK],
        [b"HTTP/1.1 100 Continue\r\n\r\n", OK],
        [b"HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n"],
    ],
)
async def test_an_answer_in_any_shape_leaves_a_connection_that_is_used_again(answer: list[bytes]) -> None:
    async with sink(answer, answer) as (served, endpoint):
        connections = Connections(LET, most_idle=4)
        assert [(await call(connections, endpoint)).status for _ in range(2)] == [200, 200]
        assert served.connections == 1
        assert served.requests == [REQUEST, REQUEST]
        connections.close()


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"],
        [b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n"],
        [OK + OK],  # nobody asked for the second
        [OK, OK],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", b"x" * 200_000],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"zz\r\n"],
    ],
)
async def test_after_an_answer_that_ends_badly_another_connection_is_made(answer: list[bytes]) -> None:
    async with sink(answer, [OK]) as (served, endpoint):
        connections = Connections(LET, most_idle=4)
        assert [(await call(connections, endpoint)).status for _ in range(2)] == [200, 200]
        assert served.connections == 2
        connections.close()


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [b"HTTP/1.1 2"],
        [b"SSH-2.0-OpenSSH_9.2\r\n"],
        [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * MOST_HEAD],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"],
    ],
)
async def test_what_is_no_answer_breaks_the_call(answer: list[bytes]) -> None:
    closing = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.writelines(answer)
        writer.close()
        closing.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        connections = Connections(LET, most_idle=4)
        endpoint = Endpoint("http", "127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(BrokenError):
            await call(connections, endpoint)
        assert closing.is_set()


async def test_a_status_says_when_to_come_again() -> None:
    answer = [b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\ncontent-length: 0\r\n\r\n"]
    hint = b"HTTP/1.1 103 Early Hints\r\nretry-after: 7\r\n\r\n"
    async with sink(answer, [OK], [hint + OK]) as (_, endpoint):
        connections = Connections(LET, most_idle=4)
        assert await call(connections, endpoint) == Answered(429, "7")
        assert await call(connections, endpoint) == Answered(200, None)
        assert await call(connections, endpoint) == Answered(200, None)
        connections.close()


async def test_a_call_that_is_given_up_closes_its_connection() -> None:
    async with sink([]) as (served, endpoint):
        served.answers.append([OK])  # for the second
        connections = Connections(LET, most_idle=4)
        connection = await connections.take(endpoint)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.send(REQUEST)
        assert (await call(connections, endpoint)).status == 200
        assert served.connections == 2
        connections.close()


async def test_no_more_connections_are_kept_than_asked_for() -> None:
    async with sink([OK], [OK], [OK], [OK]) as (served, endpoint):
        connections = Connections(LET, most_idle=1)
        both = await asyncio.gather(*(connections.take(endpoint) for _ in range(2)))
        await asyncio.gather(*(each.send(REQUEST) for each in both))
        await asyncio.sleep(0.05)
        both = await asyncio.gather(*(connections.take(endpoint) for _ in range(2)))
        await asyncio.gather(*(each.send(REQUEST) for each in both))
        assert served.connections == 3
        connections.close()


async def test_a_connection_that_was_idle_for_long_is_not_used_again() -> None:
    async with sink([OK], [OK]) as (served, endpoint):
        connections = Connections(LET, most_idle=1)
        connection = await connections.take(endpoint)
        await connection.send(REQUEST)
        await asyncio.sleep(0.05)
        connection.idle_since -= 60
        assert (await call(connections, endpoint)).status == 200
        assert served.connections == 2
        connections.close()


async def test_a_connection_that_is_being_closed_is_not_used_again() -> None:
    async with sink([OK], [OK]) as (served, endpoint):
        connections = Connections(LET, most_idle=1)
        connection = await connections.take(endpoint)
        await connection.send(REQUEST)
        await asyncio.sleep(0.05)
        connection.close()  # its end is told a moment later
        assert (await call(connections, endpoint)).status == 200
        assert served.connections == 2
        connections.close()


async def test_nobody_there_is_told_apart_from_a_call_that_broke() -> None:
    async with sink() as (_, endpoint):
        pass
    with pytest.raises(UnreachableError):
        await Connections(LET, most_idle=1).take(endpoint)


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (b"/a b", []),
        (b"/a\r\nx: y", []),
        (b"/", [(b"x y", b"z")]),
        (b"/", [(b"x", b"y\r\nhost: elsewhere")]),
        (b"/", [(b"x", b"\0")]),
        (b"", []),
    ],
)
def test_nothing_is_written_that_would_be_read_as_something_else(
    target: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    with pytest.raises(UnsendableError):
        written("POST", target, headers, b"")


@pytest.mark.parametrize("runs_on", [asyncio.run, uvloop.run])
def test_it_speaks_tls_to_the_host_that_the_certificate_names_and_to_no_other(
    runs_on: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setattr("certifi.where", lambda: str(authority.ca))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("sink"))

    async def story() -> None:
        async with sink([OK], tls=context) as (_, endpoint):
            connections = Connections(LET, most_idle=1)
            assert (await call(connections, endpoint)).status == 200
            connections.close()
        async with sink([OK], tls=context, host="127.0.0.2") as (_, endpoint):
            with pytest.raises(UnreachableError):
                await call(Connections(LET, most_idle=1), endpoint)

    runs_on(story())
