"""A runner takes calls only from those to whom it has told a secret: the Invokers it works for."""

import hmac

from holdfast.kit.auth.credential import refused
from holdfast.kit.auth.identity import EVERY, Identity
from holdfast.kit.auth.role import RUNNER


class AttachToken:
    """Knows the one secret that this runner has told."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    async def identify(self, secret: str) -> Identity:
        """Return who has the secret. Raises `Unauthenticated`."""
        if not hmac.compare_digest(secret.encode(), self._secret):
            raise refused("it is not what this runner told the Invokers")
        return Identity(EVERY, "invoker", roles=frozenset({RUNNER}), credential="attach")
