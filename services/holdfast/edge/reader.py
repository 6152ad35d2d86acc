"""What readers of servers share: open, read until that fails, close, and try again a little later."""

import asyncio
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, Protocol, TypeVar

from holdfast.client.errors import InvalidField
from holdfast.edge.fault import NotNow
from holdfast.edge.intake import Broken, Fate, Intake, Letter
from holdfast.edge.patience import Patience
from holdfast.edge.source import Mapped
from holdfast.kit.loops import Loop
from holdfast.kit.telemetry.logs import Logger


class Closable(Protocol):
    """What is held open between two readings."""

    async def close(self) -> None:
        """Let go of the server."""
        ...


C = TypeVar("C", bound=Closable)


class Reader(ABC, Generic[C]):
    """Reads one source until told to stop; its server may be away for any time."""

    passing: ClassVar[tuple[type[Exception], ...]]
    """What passes, or is the operator's to mend: the server, what is read there, or a secret is not there."""

    def __init__(self, kind: str, of: Mapped, intake: Intake, max_deliver: int, log: Logger) -> None:
        self._of = of
        self._intake = intake
        self._max_deliver = max_deliver
        self._held: C | None = None
        self._patience = Patience(of.name, log)
        self.loop = Loop(f"{kind} {of.name}", self.run_once, interval=0.01)

    @abstractmethod
    async def _open(self) -> C:
        """Begin to read, as the secrets are now."""

    @abstractmethod
    async def _read(self, held: C) -> int:
        """Take what there is, waiting a moment for the first of it; return how many were done with."""

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop`."""
        try:
            await self.loop.run(stop)
        finally:
            await self._close()

    async def run_once(self) -> int:
        """Read once, if it is time; return how many were done with."""
        if await self._patience.waited():
            return 0
        try:
            if self._held is None:
                self._held = await self._open()
                self._patience.opened()
            return await self._read(self._held)
        except self.passing as error:
            await self._close()
            self._patience.failed(error)
            return 0
        except BaseException:
            await self._close()
            raise

    async def _after(self, letter: Letter, fate: Fate, tries: int) -> float | None:
        """Return after how many seconds a message is to come again; None if it is done with.

        One at which the Invoker has failed in `max_deliver` tries is set aside.
        """
        if isinstance(fate, Broken) and tries >= self._max_deliver:
            why = InvalidField(f"The Invoker failed at it {tries} times.")
            (fate,) = await self._intake.set_aside(self._of, [Letter(letter.invocation, letter.body, why)])
        return fate.after if isinstance(fate, NotNow) else None

    async def _close(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            await held.close()
