"""What every call has in common: the channel, the tenant, the time it is given, and how often it is tried."""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from holdfast.client.pace import Pace
from holdfast.client.retry import ONCE, Retries, calling
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
    paces: dict[type, Pace] = field(default_factory=lambda: defaultdict(Pace), repr=False, compare=False)
    """By the type of the request, of which each method has its own."""

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

        retries = self.retries if repeatable else ONCE
        return await calling(attempt, retries, self.paces[type(request)])
