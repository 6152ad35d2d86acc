"""Whether a destination may be called, and how often at once: decided for all dispatchers alike.

    CLOSED ──(failures in a row reach the limit)──▶ OPEN ──(probe_time)──▶ HALF_OPEN
       ▲                                              ▲                       │
       └────────────────────(the probe succeeded)─────│───────────────────────┤
                                                      └──(the probe failed)───┘

Only the probe decides about a half-open breaker: calls that were under way when it opened say nothing new.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum


class BreakerState(IntEnum):
    """The numbers of `holdfast.v1.BreakerState`."""

    CLOSED = 1
    OPEN = 2
    HALF_OPEN = 3


@dataclass(frozen=True, slots=True)
class Breaker:
    """Where a breaker stands; `failures` in a row."""

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    open_time: datetime | None = None
    probe_time: datetime | None = None

    @property
    def is_calm(self) -> bool:
        """Say whether a success would change nothing."""
        return self.state is BreakerState.CLOSED and self.failures == 0


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """Failures in a row that open it, and how long it stays open before a probe."""

    failures: int = 5
    reset_after: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Load:
    """A destination as all dispatchers load it now, and what it bears.

    `max_per_second` 0 is no limit; `next_call_time` is when the rate allows the next call.
    """

    in_flight: int
    probing: bool
    max_concurrent: int
    max_per_second: float
    next_call_time: datetime


@dataclass(frozen=True, slots=True)
class Permission:
    """How many calls may be made now; `probe` if it is the one that decides.

    The rate spreads them: the first may start after `first_in`, each next `apart` later.
    """

    calls: int
    probe: bool = False
    first_in: timedelta = timedelta()
    apart: timedelta = timedelta()


NOTHING = Permission(0)

# How far ahead calls are leased under a rate: long enough that a look at the ledger a few times a second
# uses the rate up, short enough that a lease is not held for long before its call.
_AHEAD = timedelta(seconds=0.5)


def permit(breaker: Breaker, load: Load, *, wanted: int, now: datetime) -> Permission:
    """Decide how many of `wanted` calls may be made at `now`."""
    probe = breaker.state is not BreakerState.CLOSED
    if breaker.state is BreakerState.OPEN and breaker.probe_time is not None and now < breaker.probe_time:
        return NOTHING
    if breaker.state is BreakerState.HALF_OPEN and load.probing:
        return NOTHING
    calls = 1 if probe else load.max_concurrent - load.in_flight
    calls = min(calls, wanted)
    if calls <= 0:
        return NOTHING
    if load.max_per_second <= 0:
        return Permission(calls, probe)
    apart = timedelta(seconds=1 / load.max_per_second)
    first_in = max(load.next_call_time - now, timedelta())
    if first_in > _AHEAD:
        return NOTHING
    calls = min(calls, 1 + (_AHEAD - first_in) // apart)
    return Permission(calls, probe, first_in, apart)
