"""API tokens: random, known to the ledger by their hash alone, remembered here for a few seconds.

A token found is taken without asking again for `life` seconds: a revoked one works for no longer than that.
One not found is asked for each time, so nobody waits for a new token to be known.
"""

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from holdfast.kit.auth.credential import PREFIX, refused
from holdfast.kit.auth.identity import Identity

MOST: Final = 10_000
"""Tokens remembered at one time."""

_BYTES: Final = 32


def new_secret() -> str:
    """Make a token's secret: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(_BYTES)


def hash_of(secret: str) -> bytes:
    """Return what is kept of a secret; it is random, so one plain hash is enough."""
    return hashlib.sha256(secret.encode()).digest()


Find = Callable[[bytes], Awaitable[Identity | None]]
"""Finds who has a token that holds now, by its hash."""


@dataclass(slots=True)
class _Known:
    identity: Identity
    until: float


class Tokens:
    """Knows who has an API token."""

    def __init__(self, find: Find, *, life: float = 10.0) -> None:
        self._find = find
        self._life = life
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Identity | None]] = {}

    async def identify(self, secret: str) -> Identity:
        """Return who has the token. Raises `Unauthenticated`; `LedgerUnavailable` if it cannot be asked."""
        hashed = hash_of(secret)
        known = self._known.get(hashed)
        if known is not None and known.until > time.monotonic() and not _over(known.identity):
            return known.identity
        self._known.pop(hashed, None)
        found = await self._ask(hashed)
        if found is None or _over(found):
            raise refused("no such token holds")
        self._known[hashed] = _Known(found, time.monotonic() + self._life)
        if len(self._known) > MOST:
            self._known.popitem(last=False)
        return found

    async def _ask(self, hashed: bytes) -> Identity | None:
        """Ask the ledger; those who come meanwhile with the same token share the answer."""
        asking = self._asking.get(hashed)
        if asking is None:

            async def ask() -> Identity | None:
                return await self._find(hashed)

            asking = self._asking[hashed] = asyncio.create_task(ask())
            asking.add_done_callback(lambda _: self._asking.pop(hashed, None))
        return await asyncio.shield(asking)


def _over(identity: Identity) -> bool:
    return identity.expires is not None and identity.expires <= time.time()
