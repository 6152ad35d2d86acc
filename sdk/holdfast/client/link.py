"""What every call has in common: the channel, the tenant, the time it is given, and how often it is tried."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from holdfast.client.retry import Retries, RetryBudget, calling
from holdfast.client.trace import trace_metadata

R = TypeVar("R")

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Link:
    """How one client calls; `timeout` in seconds, for each attempt."""

    tenant: str  # empty: that of the token
    retries: Retries
    reconnects: Retries
    timeout: float
    token: str = field(default="", repr=False)
    budget: RetryBudget = field(default_factory=RetryBudget, repr=False, compare=False)

    @property
    def metadata(self) -> Metadata:
        """What names the tenant of a call, proves who calls, and in which trace."""
        named = (("holdfast-tenant", self.tenant),) if self.tenant else ()
        proven = (("authorization", f"Bearer {self.token}"),) if self.token else ()
        return (*named, *proven, *trace_metadata())

    async def call(
        self,
        method: Callable[..., Awaitable[R]],
        request: object,
        *,
        repeatable: bool = True,
        wait: float = 0.0,
        more: Metadata = (),
    ) -> R:
        """Call a unary method, again after failures that pass if it is `repeatable`.

        `wait` seconds are added to what the call is given, for a server that answers only then; `more` is
        said beside the tenant. Raises `HoldfastError`.
        """

        async def attempt() -> R:
            return await method(request, timeout=self.timeout + wait, metadata=(*self.metadata, *more))

        return await calling(attempt, self.retries if repeatable else None, self.budget)
