"""What every stream of the client has in common: it is read over as many connections as that takes."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from holdfast.client.link import Link
from holdfast.client.retry import Lost, Repetition
from holdfast.client.wire_status import error_of

T = TypeVar("T")


class Stream(ABC, Generic[T]):
    """A context manager that yields items until it is over; leaving it ends the call on the server too."""

    def __init__(self, link: Link, lost: Lost | None) -> None:
        self._link = link
        self._call: Any = None
        self._repetition = Repetition(link.reconnects, lost)
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream; repeatable."""
        self._closed = True
        self._hang_up()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Return the next item. Raises `HoldfastError` when no server answers for long."""
        while not (self._closed or self._over):
            try:
                item = await self._read()
            except grpc.aio.AioRpcError as failure:
                self._hang_up()
                if self._complete:
                    break  # nothing was missing but the farewell
                await self._repetition.pause(error_of(failure))
                continue
            except BaseException:
                self._hang_up()
                raise
            if item is not None:
                return item
        self.close()
        raise StopAsyncIteration

    @property
    def _over(self) -> bool:
        """Whether nothing more is to be read."""
        return False

    @property
    def _complete(self) -> bool:
        """Whether a connection that breaks now has nothing more to bring."""
        return False

    @abstractmethod
    async def _read(self) -> T | None:
        """Read one message, over a new call if there is none; None if it says nothing."""

    def _hang_up(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
