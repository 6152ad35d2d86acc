"""Channels to all addresses of a service, opened anew when the certificate that they show has changed.

So is one that reaches nobody for long: gRPC asks ever more seldom for a name that nobody has, in the end
every two minutes. A call under way stays on the channel it began on.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc

from holdfast.kit.auth.tls import PLAIN, Stamp, Tls
from holdfast.kit.rpc.client import channel
from holdfast.kit.rpc.tls import channel_credentials, checked_stamp

PATIENCE: Final = 10.0
"""Seconds for which a channel may reach nobody."""

_LAST_CALLS_S: Final = 60.0


class Channels:
    """One channel for each address; `options` are those of `channel`."""

    def __init__(
        self,
        addresses: Sequence[str],
        tls: Tls = PLAIN,
        around: Callable[[grpc.aio.Channel], grpc.aio.Channel] | None = None,
        *,
        patience: float = PATIENCE,
        **options: Any,
    ) -> None:
        """Open them, and use what `around` makes of each; one reaches nobody for `patience` seconds at most.

        Raises `SettingsError` if the certificates cannot be read.
        """
        self._around = around
        self._addresses = addresses
        self._tls = tls
        self._options = options
        self._patience = patience
        self._reached = [time.monotonic()] * len(addresses)
        self._before: list[grpc.aio.Channel] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._stamp: Stamp = checked_stamp(tls) if tls.calls else ()
        self._open = self._opened(addresses)

    def __len__(self) -> int:
        return len(self._addresses)

    def __getitem__(self, at: int) -> grpc.aio.Channel:
        if self._tls.calls and self._has_changed():
            self._before += self._open
            self._open = self._opened(self._addresses)
        elif self._reaches_nobody(at):
            self._before.append(self._open[at])
            ending = asyncio.create_task(self._end(self._open[at]))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            (self._open[at],) = self._opened(self._addresses[at : at + 1])
        return self._open[at]

    async def close(self) -> None:
        """Close all, those from before as well."""
        for ending in self._ending:
            ending.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await asyncio.gather(*(each.close() for each in (*self._open, *self._before)))

    async def _end(self, old: grpc.aio.Channel) -> None:
        """Close a channel when the calls on it have ended."""
        await old.close(_LAST_CALLS_S)
        self._before.remove(old)

    def _opened(self, addresses: Sequence[str]) -> list[grpc.aio.Channel]:
        credentials = channel_credentials(self._tls)
        plain = [channel(each, credentials=credentials, **self._options) for each in addresses]
        return plain if self._around is None else [self._around(each) for each in plain]

    def _reaches_nobody(self, at: int) -> bool:
        now = time.monotonic()
        if self._open[at].get_state() is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            self._reached[at] = now
        if now - self._reached[at] < self._patience:
            return False
        self._reached[at] = now
        return True

    def _has_changed(self) -> bool:
        try:
            stamp = self._tls.stamp()
        except OSError:
            return False  # while a file is replaced it may be away
        changed = stamp != self._stamp
        self._stamp = stamp
        return changed
