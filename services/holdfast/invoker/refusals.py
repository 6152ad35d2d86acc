"""Refused calls are counted here and written down once a second: refusing must cost the ledger nothing."""

from collections import Counter
from contextlib import suppress
from typing import Final

from holdfast.kit.db import Database
from holdfast.kit.errors import Fault, QueueFull, RateLimited
from holdfast.kit.loops import Loop
from holdfast.ledger import tenant_queue

SECONDS: Final = 1.0
MANY: Final = 50
"""Refusals in a second or two by which a tenant is known to ask for much more than it may."""


class Refusals:
    """What this Invoker has refused and not yet written down; a crash forgets that."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._full: Counter[str] = Counter()
        self._fast: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        self.loop = Loop("refusals", self.flush, interval=SECONDS, eager=False)

    def note(self, tenant: str, fault: Fault) -> None:
        """Count a refusal, if it is one of a tenant's limits."""
        if isinstance(fault, QueueFull):
            self._full[tenant] += 1
        elif isinstance(fault, RateLimited):
            self._fast[tenant] += 1

    def presses(self, tenant: str) -> bool:
        """Say whether a tenant has been refused many times just now."""
        refused = self._full.get(tenant, 0) + self._fast.get(tenant, 0) + self._before.get(tenant, 0)
        return refused >= MANY

    async def flush(self) -> int:
        """Write down what was counted; return for how many tenants."""
        full, fast = self._full, self._fast
        self._before = full + fast
        self._full, self._fast = Counter(), Counter()
        refused = {tenant: (full[tenant], fast[tenant]) for tenant in {*full, *fast}}
        if refused:
            try:
                await tenant_queue.add_refused(self._db, refused)
            except BaseException:
                self._full.update(full)
                self._fast.update(fast)
                raise
        return len(refused)

    async def close(self) -> None:
        """Write down the last ones, if the ledger takes them."""
        with suppress(Fault):
            await self.flush()
