"""How the runner calls the other services: as whom, over which connections, and who can read what it says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from holdfast.kit.auth.proof import NOTHING, Proof
from holdfast.kit.auth.tls import PLAIN, Tls
from holdfast.kit.rpc.channels import Channels
from holdfast.payload import Sealing, sealed_channel


@dataclass(frozen=True, slots=True)
class Way:
    """What all its calls have in common; without a `sealing` the services can read payloads."""

    proof: Proof = NOTHING
    tls: Tls = PLAIN
    sealing: Sealing | None = None

    def channels(self, addresses: Sequence[str], *, seals: bool = True, **options: Any) -> Channels:
        """Open channels to a service, which seal unless what is sent comes sealed already.

        Raises `SettingsError` if the certificates cannot be read.
        """

        def around(channel: grpc.aio.Channel) -> grpc.aio.Channel:
            return sealed_channel(channel, self.sealing, seals=seals)

        return Channels(addresses, self.tls, around, **options)


OPEN: Final = Way()
"""Shows nothing, hides nothing."""
