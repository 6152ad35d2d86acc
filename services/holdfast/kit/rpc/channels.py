"""Channels to all addresses of a service, opened anew when the certificate that they show has changed.

A call under way stays on the channel it began on.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from holdfast.kit.auth.tls import PLAIN, Stamp, Tls
from holdfast.kit.rpc.client import channel
from holdfast.kit.rpc.tls import channel_credentials, checked_stamp


class Channels:
    """One channel for each address; `options` are those of `channel`."""

    def __init__(
        self,
        addresses: Sequence[str],
        tls: Tls = PLAIN,
        around: Callable[[grpc.aio.Channel], grpc.aio.Channel] | None = None,
        **options: Any,
    ) -> None:
        """Open them, and use what `around` makes of each.

        Raises `SettingsError` if the certificates cannot be read.
        """
        self._around = around
        self._addresses = addresses
        self._tls = tls
        self._options = options
        self._before: list[grpc.aio.Channel] = []
        self._stamp: Stamp = checked_stamp(tls) if tls.calls else ()
        self._open = self._opened()

    def __len__(self) -> int:
        return len(self._addresses)

    def __getitem__(self, at: int) -> grpc.aio.Channel:
        if self._tls.calls and self._has_changed():
            self._before += self._open
            self._open = self._opened()
        return self._open[at]

    async def close(self) -> None:
        """Close all, those from before as well."""
        await asyncio.gather(*(each.close() for each in (*self._open, *self._before)))

    def _opened(self) -> list[grpc.aio.Channel]:
        credentials = channel_credentials(self._tls)
        plain = [channel(each, credentials=credentials, **self._options) for each in self._addresses]
        return plain if self._around is None else [self._around(each) for each in plain]

    def _has_changed(self) -> bool:
        try:
            stamp = self._tls.stamp()
        except OSError:
            return False  # while a file is replaced it may be away
        changed = stamp != self._stamp
        self._stamp = stamp
        return changed
