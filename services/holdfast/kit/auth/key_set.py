"""The keys that JWTs are signed with, as their issuer publishes them: kept, and read anew as they change.

A key that is not known has the set read once more, though at most every few seconds whatever callers send.
While the source does not answer, what is known is used for a day.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import jwt

from holdfast.kit.auth.credential import refused
from holdfast.kit.errors import IdentityUnavailable
from holdfast.kit.telemetry.logs import logger

KINDS: Final = ("RSA", "EC", "OKP")
"""What a key may be; never a secret that signs as well as it verifies."""
LONGEST_STALE: Final = 24 * 3600.0

_log: Final = logger("auth")

Source = Callable[[], Awaitable[bytes]]
"""Reads a JWK set. Raises whatever its way of reading raises."""


class KeySet:
    """The keys of one issuer; `life` seconds after which they are read anew, `pause` the least between."""

    def __init__(self, source: Source, *, life: float = 300.0, pause: float = 5.0) -> None:
        self._source = source
        self._life = life
        self._pause = pause
        self._keys: list[dict[str, Any]] = []
        self._read_at = float("-inf")
        self._tried_at = float("-inf")
        self._lock = asyncio.Lock()

    async def find(self, kid: str | None, algorithm: str) -> Any:
        """Return the key for a token's header.

        Raises `Unauthenticated` if there is none, `IdentityUnavailable` if no keys could be read.
        """
        if time.monotonic() - self._read_at > self._life:
            await self._refresh()
        key = self._pick(kid, algorithm)
        if key is None:
            await self._refresh()
            key = self._pick(kid, algorithm)
        if time.monotonic() - self._read_at > LONGEST_STALE:
            raise IdentityUnavailable("The issuer's keys cannot be read.", retry_after=self._pause)
        if key is None:
            raise refused("it is signed with a key that the issuer does not have")
        return key

    async def _refresh(self) -> None:
        """Read the set, unless it was tried a moment ago; whoever comes meanwhile waits for the same."""
        async with self._lock:
            if time.monotonic() - self._tried_at < self._pause:
                return
            self._tried_at = time.monotonic()
            try:
                self._keys = _usable(await self._source())
            except Exception as error:  # noqa: BLE001 - a source may fail as it likes; what is known stays
                _log.warning("the issuer's keys cannot be read", error=type(error).__name__)
            else:
                self._read_at = time.monotonic()

    def _pick(self, kid: str | None, algorithm: str) -> Any:
        """Return the one key that fits: named by `kid`, or the only one where the token names none."""
        fitting = [key for key in self._keys if kid is None or key.get("kid") == kid]
        fitting = [key for key in fitting if key.get("alg") in (None, algorithm)]
        found = []
        for key in fitting:
            try:
                found.append(jwt.PyJWK(key, algorithm=algorithm).key)
            except jwt.PyJWTError:
                continue  # a key of another kind than the algorithm's
        return found[0] if len(found) == 1 else None


def _usable(document: bytes) -> list[dict[str, Any]]:
    keys = json.loads(document)["keys"]
    return [key for key in keys if key.get("kty") in KINDS and key.get("use", "sig") == "sig"]
