"""Those who wait at the door stand in lines, one for each tenant, and go in by groups.

Where several tenants wait, each puts a few into a group: no run of one waits while hundreds of another do. A
line whose first has waited for long takes nobody more: it does not get shorter that way.
"""

import asyncio
from collections import deque

from holdfast.ledger.values import Admitted, Invocation

MAX_GROUP = 256
MAX_SHARE = 32
"""Of one tenant in a group while others wait."""
MAX_GROUP_BYTES = 4 * 1024 * 1024
MAX_WAIT = 1.0
"""Seconds; once the first in a line has waited for longer, nobody joins it."""
MAX_BYTES = 128 * 1024 * 1024
"""Of all lines together."""

Waiting = tuple[Invocation, "asyncio.Future[Admitted]"]


class Lines:
    """The lines of all tenants; of each, the order is that of arrival."""

    def __init__(self) -> None:
        self._gathered: list[tuple[float, Waiting]] = []
        self._gathering: set[str] = set()  # tenants
        self._lines: dict[str, deque[tuple[float, Waiting]]] = {}
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def is_closed(self, tenant: str, now: float) -> bool:
        """Say whether nobody more can join a tenant's line."""
        line = self._lines.get(tenant)
        return self._bytes >= MAX_BYTES or (line is not None and now - line[0][0] > MAX_WAIT)

    def join(self, at: float, waiting: Waiting, *, gather: bool = False) -> bool:
        """Stand at the end of a line, as of the time of arrival; say whether it is to be gathered.

        Who shall `gather` stands there after the next `gathered` only, and so does who comes behind.
        """
        invocation, _ = waiting
        self._bytes += len(invocation.envelope)
        if gather or invocation.tenant in self._gathering:
            self._gathered.append((at, waiting))
            self._gathering.add(invocation.tenant)
            return True
        self._lines.setdefault(invocation.tenant, deque()).append((at, waiting))
        return False

    def gathered(self) -> None:
        """Let those who were gathered stand in their lines."""
        for at, waiting in self._gathered:
            self._lines.setdefault(waiting[0].tenant, deque()).append((at, waiting))
        self._gathered.clear()
        self._gathering.clear()

    def take(self) -> list[Waiting]:
        """Take who is next of each tenant, up to a group's limits; at least one, if anybody waits."""
        group: list[Waiting] = []
        size, share = 0, MAX_GROUP if len(self._lines) == 1 else MAX_SHARE
        for tenant in tuple(self._lines):
            line = self._lines.pop(tenant)
            for _ in range(min(share, MAX_GROUP - len(group), len(line))):
                bytes_of = len(line[0][1][0].envelope)
                if group and size + bytes_of > MAX_GROUP_BYTES:
                    break
                size += bytes_of
                group.append(line.popleft()[1])
            if line:
                self._lines[tenant] = line  # behind those who have not had their turn
            if len(group) == MAX_GROUP:
                break
        self._bytes -= size
        return group
