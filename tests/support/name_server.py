"""Names of headless Services as a cluster's DNS has them: each stands for the addresses of its ready pods.

A host that is left out of a name's addresses is found no more, whatever still speaks to it.
"""

import asyncio
import random
import socket
import struct
from collections import defaultdict
from typing import Final

ZONE: Final = "svc.cluster.local"
_TTL: Final = 5  # as CoreDNS has it
_A: Final = 1
_NO_NAME: Final = 3


class NameServer(asyncio.DatagramProtocol):
    """Answers over UDP; `addresses` may change at any time. It knows nothing else, and asks nobody."""

    def __init__(self) -> None:
        self.addresses: dict[str, set[str]] = defaultdict(set)
        """By name, as `service.namespace`."""
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self, host: str, port: int = 53) -> int:
        """Listen at an address; return the port, which is any free one for 0."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(host, port))
        return int(self._transport.get_extra_info("sockname")[1])

    def stop(self) -> None:
        """Answer no more."""
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one question."""
        assert self._transport is not None
        name, kind, end = _question(data)
        service, _, zone = name.lower().partition(f".{ZONE}")
        known = not zone and service in self.addresses and name.endswith(ZONE)
        found = sorted(self.addresses[service]) if known and kind == _A else []
        random.shuffle(found)
        flags = 0x8580 | (0 if known else _NO_NAME)
        head = data[:2] + struct.pack(">HHHHH", flags, 1, len(found), 0, 0)
        answers = (struct.pack(">HHHIH", 0xC00C, _A, 1, _TTL, 4) + socket.inet_aton(each) for each in found)
        self._transport.sendto(head + data[12:end] + b"".join(answers), addr)


def _question(data: bytes) -> tuple[str, int, int]:
    """Return the name asked for, the kind of record, and where the question ends."""
    labels, at = [], 12
    while length := data[at]:
        labels.append(data[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels), struct.unpack(">H", data[at + 1 : at + 3])[0], at + 5
