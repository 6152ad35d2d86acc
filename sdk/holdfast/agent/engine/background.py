"""Moves a run to the background, once: the same run goes on under the budget its caller allows for that.

in the foreground ──(would miss its deadline, and may)──▶ moving ──(committed)──▶ in the background
                                                             └──(refused)──▶ the run stops

While the move is under way the old deadline does not end the run here; the ledger's clock still does.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from holdfast.agent.budget import Limits, Meter
from holdfast.agent.engine.pipeline import Pipeline
from holdfast.agent.engine.scope import Scope
from holdfast.agent.engine.transcript import Transcript


class Deadline(Protocol):
    """The timer that ends the run at its deadline."""

    def hold(self) -> None:
        """Let nothing end the run until it is set again."""

    def set(self) -> None:
        """End the run when its budget's time is over, as the meter has it now."""


class Background:
    """Knows whether the run may move, and moves it. `allowed` is the budget there; limits of 0 stay."""

    __slots__ = (
        "_allowed",
        "_clock",
        "_deadline",
        "_durable",
        "_meter",
        "_moving",
        "_pipeline",
        "_transcript",
    )

    def __init__(
        self,
        allowed: Limits | None,
        *,
        pipeline: Pipeline,
        transcript: Transcript,
        meter: Meter,
        deadline: Deadline,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take None for a run that may not move, or has done so in an earlier attempt."""
        self._allowed = allowed
        self._pipeline = pipeline
        self._transcript = transcript
        self._meter = meter
        self._deadline = deadline
        self._clock = clock
        self._moving = False
        self._durable = asyncio.Event()

    @property
    def ahead(self) -> bool:
        """Whether the run may move from here on, or is moving."""
        return self._allowed is not None and not self._durable.is_set()

    def needed(self, seconds: float) -> bool:
        """Say whether to wait for a move: what takes so long would miss the deadline, or one is under way."""
        return self.ahead and (self._moving or seconds > self._meter.seconds)

    async def move(self, scope: Scope | None = None) -> bool:
        """Return when the move is durable, whoever began it; true if this call did.

        Given up by its caller, the move is made all the same. A replay finds in `scope` that it was asked.
        """
        begins = not self._moving
        if begins:
            self._begin(scope)
        elif scope is not None:
            self._transcript.expected(scope)
        await self._durable.wait()
        return begins

    def _begin(self, scope: Scope | None) -> None:
        assert self._allowed is not None  # it is possible
        limits = self._allowed.over(self._meter.limits)
        self._moving = True
        self._deadline.hold()
        began = self._clock()  # before the ledger's clock starts, so that this end comes before its
        future = self._pipeline.sent(self._transcript.handed_off(limits, scope))

        def moved(future: "asyncio.Future[None]") -> None:
            if future.cancelled():
                return  # refused, or the lease is lost: the run stops
            self._meter.renew(limits, limits.deadline - (self._clock() - began))
            self._deadline.set()
            self._durable.set()

        future.add_done_callback(moved)
