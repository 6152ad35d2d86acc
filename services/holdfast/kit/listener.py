"""A listener hears the notifications of PostgreSQL channels, and heals its connection by itself."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Self

from holdfast.kit.telemetry.logs import logger

_log: Final = logger("listener")
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_PROBE_EVERY: Final = 30.0


class Listener:
    """Made by `Database.listen`; listens until `close`. `listening` is set while notifications arrive."""

    def __init__(
        self, connect: Callable[[], Awaitable[Any]], callbacks: Mapping[str, Callable[[str], None]]
    ) -> None:
        self.channels = " ".join(callbacks)
        self.listening = asyncio.Event()
        self._connect = connect
        self._callbacks = dict(callbacks)
        self._task = asyncio.create_task(self._run(), name=f"listen {self.channels}")

    async def close(self) -> None:
        """Stop listening; repeatable."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                connection = await self._connect()
                try:
                    await self._hear(connection)
                finally:
                    self.listening.clear()
                    connection.terminate()
                pause = _FIRST_PAUSE
            except Exception as error:  # noqa: BLE001 - whatever broke the connection, the answer is a new one
                _log.warning(
                    "cannot listen", channel=self.channels, error=type(error).__name__, pause_s=pause
                )
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, keeps no secret
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _hear(self, connection: Any) -> None:
        """Listen until the connection ends; a silent one is probed, for the network may have lost it."""
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())
        for channel in self._callbacks:
            await connection.add_listener(channel, self._heard)
        self.listening.set()
        for channel in self._callbacks:
            self._call(channel, "")
        while not ended.is_set():
            try:
                async with asyncio.timeout(_PROBE_EVERY):
                    await ended.wait()
            except TimeoutError:
                await connection.execute("SELECT 1", timeout=_LONGEST_PAUSE)

    def _heard(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        self._call(channel, str(payload))

    def _call(self, channel: str, payload: str) -> None:
        try:
            self._callbacks[channel](payload)
        except Exception as error:  # noqa: BLE001 - one bad callback must not end the listening
            _log.error("callback failed", error=error, channel=channel)
