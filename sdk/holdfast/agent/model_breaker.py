"""Whether a model may be asked now: after failures in a row it is left alone, then one call tries it.

    closed ──(failures in a row)──▶ open ──(after a while, one call)──▶ probing
       ▲                             ▲                                    │
       └──────(it answered)──────────│────────────────────────────────────┤
                                     └──────────(it failed again)─────────┘

A call that is cancelled says nothing about the model, and neither does one that ends after the breaker has
opened: only the probe decides then. For one event loop: other processes find out alone.
"""

import time
from collections.abc import Callable


class ModelBreaker:
    """Counts the failures of one model; seconds are of `clock`."""

    def __init__(
        self, failures: int = 5, reset_after: float = 15.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = failures
        self._reset_after = reset_after
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False
        self._era = 1

    def admit(self) -> int:
        """Return a call's pass, or 0 if none may be made.

        One of `answered`, `failed` and `unsaid` must follow it, with the pass.
        """
        if self._open_until is None:
            return self._era
        if self._probing or self._clock() < self._open_until:
            return 0
        self._probing = True
        self._era += 1
        return self._era

    @property
    def wait(self) -> float:
        """Seconds until it is worth asking again whether a call may be made; 0 if now."""
        if self._open_until is None:
            return 0.0
        return max(self._open_until - self._clock(), 0.05 if self._probing else 0.0)

    def answered(self, admitted: int) -> None:
        """Note that the model answered, if only with a refusal."""
        if admitted != self._era:
            return
        self._failures = 0
        self._open_until = None
        self._probing = False

    def failed(self, admitted: int, retry_after: float | None = None) -> None:
        """Note that the model could not answer, and how long it asks to be left alone."""
        if admitted != self._era:
            return
        self._failures += 1
        if self._probing or self._failures >= self._most:
            self._open_until = self._clock() + max(self._reset_after, retry_after or 0.0)
            self._probing = False
            self._era += 1

    def unsaid(self, admitted: int) -> None:
        """Note that the call was given up before anything was known."""
        if admitted == self._era:
            self._probing = False
