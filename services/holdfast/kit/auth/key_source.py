"""What an issuer publishes: its OpenID configuration, and its keys, in a file or where that says."""

import asyncio
import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from holdfast.kit.auth.key_set import Source

LONGEST: Final = 1024 * 1024
PATIENCE: Final = 5.0  # seconds for each request
_WELL_KNOWN: Final = "/.well-known/openid-configuration"


class SourceError(Exception):
    """The issuer does not answer as it must."""


def from_file(path: Path) -> Source:
    """Read a JWK set in a file, each time as it is then."""

    async def read() -> bytes:
        return await asyncio.to_thread(path.read_bytes)

    return read


def from_issuer(issuer: str) -> Source:
    """Read the JWK set that the issuer's OpenID configuration names; HTTPS only, but on loopback."""

    async def read() -> bytes:
        async with httpx.AsyncClient(timeout=PATIENCE, follow_redirects=False) as http:
            configuration = await configuration_of(http, issuer)
            return await _get(http, str(configuration["jwks_uri"]))

    return read


async def configuration_of(http: httpx.AsyncClient, issuer: str) -> dict[str, Any]:
    """Return an issuer's configuration (OpenID Connect Discovery 1.0, 4).

    Raises `SourceError`, and what HTTP and JSON raise.
    """
    found: Any = json.loads(await _get(http, issuer.rstrip("/") + _WELL_KNOWN))
    if not isinstance(found, dict) or found.get("issuer") != issuer:
        raise SourceError("the configuration is another issuer's")
    return found


def is_safe(url: str) -> bool:
    """Say whether keys may be read from a URL: HTTPS, or a process of this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (
        parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
    )


async def _get(http: httpx.AsyncClient, url: str) -> bytes:
    if not is_safe(url):
        raise SourceError("keys are read over HTTPS only")
    async with http.stream("GET", url, headers={"accept": "application/json"}) as response:
        if response.status_code != httpx.codes.OK:
            raise SourceError(f"HTTP {response.status_code}")
        body = b""
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > LONGEST:
                raise SourceError("the answer is too long")
    return body
