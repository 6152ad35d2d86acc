"""Hears what is sent on a channel of PostgreSQL's."""

import asyncio

from holdfast.kit.db import Database
from holdfast.ledger.notice import keys_of


class Ear:
    """Hears one channel."""

    def __init__(self, db: Database, channel: str) -> None:
        self.heard: list[str] = []
        self.listener = db.listen({channel: self._hear})
        self._news = asyncio.Event()

    def _hear(self, payload: str) -> None:
        if payload:
            self.heard.append(payload)
            self._news.set()

    async def until(self, last: str) -> list[str]:
        """Wait for a payload, and return those before it."""
        async with asyncio.timeout(10):
            while last not in self.heard:
                self._news.clear()
                await self._news.wait()
        return self.heard[: self.heard.index(last)]

    async def keys(self, n: int) -> list[str]:
        """Wait for so many keys."""
        async with asyncio.timeout(10):
            while len(found := [key for payload in self.heard for key in keys_of(payload)]) < n:
                self._news.clear()
                await self._news.wait()
        return found
