"""How much a server lets in at once, and what it shows of itself; the sizes are the contract's and fixed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

MOST_CALLS: Final = 20_000
MOST_CALLS_PER_TENANT: Final = 15_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of one server process. A stream is a call for as long as it is open; 0 is no bound."""

    calls: int = MOST_CALLS
    """In flight altogether."""
    calls_per_tenant: int = MOST_CALLS_PER_TENANT
    """Of one tenant, so that it leaves room for others."""
    by_method: Mapping[str, int] = field(default_factory=dict)
    """Of one tenant to a method, by the method's full name: `/holdfast.v1.InvokerService/Converse`."""
    streams_per_connection: int = MOST_CALLS_PER_TENANT
    """What a client opens beyond that waits, on its own side, for one to end. Of calls that no handler has
    taken yet gRPC keeps so many (`kit.rpc.server`) and cancels the rest, which are told nothing then."""
    reflection: bool = True


def by_method(entries: tuple[str, ...]) -> Mapping[str, int]:
    """Read `InvokerService.Converse=500` as bounds by full name. Raises ValueError in one sentence."""
    bounds = {}
    for entry in entries:
        name, _, most = entry.partition("=")
        service, _, method = name.strip().partition(".")
        if not service or not method or not most.strip().isascii() or not most.strip().isdigit():
            raise ValueError(
                f"HOLDFAST_MAX_CALLS_BY_METHOD holds {entry!r}, and an entry is Service.Method=number."
            )
        bounds[f"/holdfast.v1.{service}/{method}"] = int(most)
    return bounds
