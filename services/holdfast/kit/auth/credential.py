"""A call proves who makes it by one bearer credential: an API token, or a JWT."""

from collections.abc import Iterable
from typing import Any, Final, Protocol

from holdfast.kit.auth.identity import Identity
from holdfast.kit.errors import Unauthenticated
from holdfast.kit.telemetry.logs import logger

HEADER: Final = "authorization"
PREFIX: Final = "hf_"
"""What every API token begins with, so that people and scanners know one when they see it."""
LONGEST: Final = 8 * 1024

_log: Final = logger("auth")


class Authenticator(Protocol):
    """Knows who has a credential."""

    async def identify(self, secret: str) -> Identity:
        """Return who it is. Raises `Unauthenticated`, `Unavailable` if that cannot be found out now."""
        ...


class Credentials:
    """Takes credentials to whoever knows their kind; a kind without one is refused."""

    def __init__(self, *, token: Authenticator | None = None, jwt: Authenticator | None = None) -> None:
        self._token = token
        self._jwt = jwt

    async def identify(self, secret: str) -> Identity:
        """Return who has the credential."""
        kind = self._token if secret.startswith(PREFIX) else self._jwt
        if kind is None:
            raise refused("credentials of its kind are not taken here")
        return await kind.identify(secret)


def bearer(metadata: Iterable[tuple[str, Any]] | None) -> str:
    """Return the credential of a call. Raises `Unauthenticated` unless there is exactly one."""
    found = [value for key, value in metadata or () if key == HEADER]
    if not found:
        raise Unauthenticated("The call has no credential: send `authorization: Bearer …`.")
    value = found[0] if len(found) == 1 and isinstance(found[0], str) else ""
    scheme, _, secret = value.partition(" ")
    if scheme.lower() != "bearer" or not secret or len(secret) > LONGEST or not secret.isascii():
        raise refused("the header is malformed")
    return secret.strip()


def refused(why: str) -> Unauthenticated:
    """Return what a caller is told, which is the same whatever is wrong; the log says `why`."""
    _log.info("credential refused", why=why)
    return Unauthenticated("The credential does not verify.")
