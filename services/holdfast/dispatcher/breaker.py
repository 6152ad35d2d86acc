"""pybreaker decides where a breaker stands; its state lives in the ledger and its clock is the database's.

pybreaker's own ways to guard a call do not fit: its decorator never trips on `async def`, `calling()` lets
every probe through and takes a cancelled call for a failed one. So calls are made outside of it, and each
outcome is told to a pybreaker that is loaded with the shared state for that moment. Who may call, and that
there is one probe, is decided in `ledger.domain.breaker`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import pybreaker

from holdfast.ledger.domain.breaker import Breaker, BreakerPolicy, BreakerState
from holdfast.ledger.domain.delivery import BreakerVote

_NAMES: Final = {
    BreakerState.CLOSED: pybreaker.STATE_CLOSED,
    BreakerState.OPEN: pybreaker.STATE_OPEN,
    BreakerState.HALF_OPEN: pybreaker.STATE_HALF_OPEN,
}
_STATES: Final = {name: state for state, name in _NAMES.items()}


class _CallFailedError(Exception):
    """Stands for a call that failed; its cause is recorded with the effect, not here."""


class _Shared(pybreaker.CircuitBreakerStorage):
    """The state read from the ledger, as pybreaker wants to see and change it."""

    def __init__(self, breaker: Breaker, now: datetime) -> None:
        super().__init__("ledger")
        self._state = _NAMES[breaker.state]
        self._failures = breaker.failures
        self._open_time = breaker.open_time
        self._successes = 0
        self._now = now

    @property
    def state(self) -> str:
        """Where it stands, by pybreaker's name."""
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        self._state = state

    @property
    def counter(self) -> int:
        """Failures in a row."""
        return self._failures

    def increment_counter(self) -> None:
        """Count one failure more."""
        self._failures += 1

    def reset_counter(self) -> None:
        """Forget the failures."""
        self._failures = 0

    @property
    def success_counter(self) -> int:
        """Successes of a half-open breaker."""
        return self._successes

    def increment_success_counter(self) -> None:
        """Count one success more."""
        self._successes += 1

    def reset_success_counter(self) -> None:
        """Forget the successes."""
        self._successes = 0

    @property
    def opened_at(self) -> datetime | None:
        """When it opened."""
        return self._open_time

    @opened_at.setter
    def opened_at(self, _process_time: datetime) -> None:
        self._open_time = self._now  # the database's clock: processes may disagree about the time


def judge(before: Breaker, policy: BreakerPolicy, votes: Sequence[BreakerVote], now: datetime) -> Breaker:
    """Say where a breaker stands after calls that ended in this order at `now`.

    Once it is open, calls that were under way say nothing more.
    """
    storage = _Shared(before, now)
    breaker = pybreaker.CircuitBreaker(
        fail_max=policy.failures,
        reset_timeout=policy.reset_after.total_seconds(),
        state_storage=storage,
        throw_new_error_on_trip=False,
    )
    for vote in votes:
        if vote is BreakerVote.ABSTAINS or storage.state == pybreaker.STATE_OPEN:
            continue
        try:
            breaker.call(_outcome, vote)
        except _CallFailedError:
            continue  # counted: pybreaker raises what it was told
    state = _STATES[storage.state]
    if state is BreakerState.CLOSED:
        return Breaker(state, storage.counter)
    probe_time = before.probe_time
    if state is BreakerState.OPEN and storage.opened_at is not None:
        probe_time = storage.opened_at + policy.reset_after
    return Breaker(state, storage.counter, storage.opened_at, probe_time)


def _outcome(vote: BreakerVote) -> None:
    if vote is BreakerVote.FAILS:
        raise _CallFailedError
