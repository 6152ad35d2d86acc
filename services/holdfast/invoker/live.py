"""The live side of runs: one stream to each runner, many followers over it, none of whom can slow it.

following ──events──▶ following
│ ──gone | behind | lost | slow──▶ ended (the ledger knows the rest; the follower starts again)

What a follower has not read yet is bounded for each, and for all of them together: beyond that the one that
holds most loses it. Nothing is lost to its client, who then gets it from the ledger or from the runner anew.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import Context
from typing import Final

import grpc

from holdfast.invoker.signal import attach_signal
from holdfast.kit.auth.credential import HEADER
from holdfast.kit.auth.tls import PLAIN, Tls
from holdfast.kit.rpc.client import channel, streaming
from holdfast.kit.rpc.tls import channel_credentials
from holdfast.kit.telemetry.logs import logger
from holdfast.ledger.mailbox_view import Signal
from holdfast.v1 import runner_service_pb2, runner_service_pb2_grpc

MAX_BUFFERED_EVENTS: Final = 2_000
MAX_BUFFERED_BYTES: Final = 1024 * 1024
MAX_BYTES_TOGETHER: Final = 64 * 1024 * 1024
IDLE_SECONDS: Final = 30.0
MAX_QUEUED: Final = 32
"""Requests that wait to be sent to one runner, beyond which no signal is added: each may take 1 MiB."""

_log = logger("invoker")

FindToken = Callable[[str], Awaitable[str]]
"""Finds what the runner at an address wants to hear of those who attach to it; empty: nothing."""

Attach = runner_service_pb2.AttachRequest


class Room:
    """What all feeds of this Invoker hold together, in bytes."""

    def __init__(self, most: int = MAX_BYTES_TOGETHER) -> None:
        self.held = 0
        self._most = most
        self._holding: dict[Feed, int] = {}

    def hold(self, feed: "Feed", size: int) -> None:
        """Note how much a feed holds now; who holds most gives way if that is too much for all."""
        self.held += size - self._holding.pop(feed, 0)
        if size:
            self._holding[feed] = size
        while self.held > self._most:
            max(self._holding, key=self._holding.__getitem__).drop()


class Feed:
    """What a runner says of one run, to one follower; a slow follower loses its place, not its run."""

    def __init__(self, run_id: str, room: Room, leave: Callable[["Feed"], None]) -> None:
        self.run_id = run_id
        self._room = room
        self._leave = leave
        self._messages: deque[tuple[runner_service_pb2.AttachResponse, int]] = deque()
        self._events = 0
        self._bytes = 0
        self._last = (0, 0)  # epoch and sequence of the last event taken
        self._changed = asyncio.Event()
        self._knocked = False
        self._ended = False

    def put(self, message: runner_service_pb2.AttachResponse, size: int) -> None:
        """Take a message of so many bytes for the follower, or end the feed if it is too far behind."""
        if self._ended:
            return
        events = message.events.events
        if events:
            last = (message.epoch, events[-1].sequence)
            if last[0] == self._last[0] and last[1] <= self._last[1]:
                return  # for another, who follows from further back
            self._last = last
        self._messages.append((message, size))
        self._events += len(events)
        self._bytes += size
        full = self._events > MAX_BUFFERED_EVENTS or self._bytes > MAX_BUFFERED_BYTES
        if full or not events:
            self.end()
        self._changed.set()
        self._room.hold(self, self._bytes)

    def drop(self) -> None:
        """Let go of what the follower has not read, and end."""
        self._messages.clear()
        self._events = self._bytes = 0
        self._room.hold(self, 0)
        self.end()

    def end(self) -> None:
        """Say no more after what is there. Repeatable."""
        self._ended = True
        self._changed.set()

    def knock(self) -> None:
        """Have who reads this look up: it is given a None."""
        self._knocked = True
        self._changed.set()

    def close(self) -> None:
        """Stop following. Repeatable."""
        self._leave(self)

    async def messages(self) -> AsyncIterator[runner_service_pb2.AttachResponse | None]:
        """Yield messages until the feed ends, and None after a knock."""
        while True:
            if self._knocked:
                self._knocked = False
                yield None
            while self._messages:
                message, size = self._messages.popleft()
                self._events -= len(message.events.events)
                self._bytes -= size
                self._room.hold(self, self._bytes)
                yield message
            if self._ended:
                return
            await self._changed.wait()
            self._changed.clear()


class RunnerLink:
    """One Attach stream to one runner, opened when someone follows, closed when long nobody does."""

    def __init__(
        self,
        address: str,
        room: Room,
        forget: Callable[["RunnerLink"], None],
        attach_token: "FindToken",
        tls: Tls,
    ) -> None:
        self._tls = tls
        self.address = address
        self._attach_token = attach_token
        self._room = room
        self._forget = forget
        self._feeds: dict[str, list[Feed]] = {}
        self._requests: asyncio.Queue[Attach] = asyncio.Queue()
        # In a context of its own: it outlives the call that needed it first, and serves others.
        self._task = asyncio.create_task(self._run(), name=f"attach-{address}", context=Context())

    def follow(self, run_id: str, after_sequence: int) -> Feed:
        """Follow a run from after a sequence."""
        feed = Feed(run_id, self._room, self._leave)
        self._feeds.setdefault(run_id, []).append(feed)
        subscribe = runner_service_pb2.AttachSubscribe(after_sequence=after_sequence, bundles=True)
        self._requests.put_nowait(Attach(run_id=run_id, subscribe=subscribe))
        return feed

    def cancel(self, run_id: str, reason: str) -> None:
        """Ask the runner to stop a run."""
        self._requests.put_nowait(
            Attach(run_id=run_id, cancel=runner_service_pb2.AttachCancel(reason=reason))
        )

    def signal(self, signal: Signal) -> None:
        """Push a signal; one too many for a runner that does not keep up is left to be found."""
        if self._requests.qsize() < MAX_QUEUED:
            self._requests.put_nowait(Attach(run_id=str(signal.run_id), signal=attach_signal(signal)))

    async def close(self) -> None:
        """End the stream and every feed on it."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _leave(self, feed: Feed) -> None:
        feed.drop()
        feeds = self._feeds.get(feed.run_id)
        if feeds is None or feed not in feeds:
            return
        feeds.remove(feed)
        if not feeds:
            del self._feeds[feed.run_id]
            unsubscribe = runner_service_pb2.AttachUnsubscribe()
            self._requests.put_nowait(Attach(run_id=feed.run_id, unsubscribe=unsubscribe))

    async def _run(self) -> None:
        try:
            credentials = channel_credentials(self._tls)
            async with channel(self.address, credentials=credentials, deadlines=False) as opened:
                stub = runner_service_pb2_grpc.RunnerServiceStub(opened)
                token = await self._attach_token(self.address)
                proof = ((HEADER, f"Bearer {token}"),) if token else ()
                async with streaming(stub.Attach(self._outgoing(), metadata=proof)) as responses:
                    async for message in responses:
                        for each in _taken_apart(message):
                            self._heard(each)
        except grpc.aio.AioRpcError as error:
            _log.info("runner link lost", address=self.address, code=error.code().name)
        except Exception as error:  # noqa: BLE001 - an address that is none, a message that cannot be read
            _log.warning("runner link broken", address=self.address, error=type(error).__name__)
        finally:
            self._forget(self)
            for feeds in self._feeds.values():
                for feed in feeds:
                    feed.end()

    def _heard(self, message: runner_service_pb2.AttachResponse) -> None:
        size = message.ByteSize()
        for feed in tuple(self._feeds.get(message.run_id, ())):
            feed.put(message, size)

    async def _outgoing(self) -> AsyncIterator[Attach]:
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    request = await self._requests.get()
            except TimeoutError:
                if self._feeds:
                    continue
                self._forget(self)  # who comes now opens another
                return
            yield request


def _taken_apart(message: runner_service_pb2.AttachResponse) -> list[runner_service_pb2.AttachResponse]:
    """Return what a message says of each run; none keeps the others in memory."""
    if not message.others:
        return [message]
    others = [_of_its_own(each) for each in message.others]
    del message.others[:]
    return [_of_its_own(message), *others]


def _of_its_own(message: runner_service_pb2.AttachResponse) -> runner_service_pb2.AttachResponse:
    own = runner_service_pb2.AttachResponse()
    own.CopyFrom(message)
    return own


async def _no_token(_address: str) -> str:
    return ""


class Live:
    """All links of this Invoker, by the runner's address."""

    def __init__(self, attach_token: FindToken = _no_token, tls: Tls = PLAIN) -> None:
        """Make it; `attach_token` finds what the runner at an address wants to hear of us."""
        self.room = Room()
        self._attach_token = attach_token
        self._tls = tls
        self._links: dict[str, RunnerLink] = {}

    def runner(self, address: str) -> RunnerLink:
        """Return the link to a runner."""
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = RunnerLink(
                address, self.room, self._forget, self._attach_token, self._tls
            )
        return link

    async def close(self) -> None:
        """Close every link."""
        for link in tuple(self._links.values()):
            await link.close()

    def _forget(self, link: RunnerLink) -> None:
        if self._links.get(link.address) is link:
            del self._links[link.address]
