"""The five limits of a run, what is spent of them, and what is promised to calls in flight."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum


class Dimension(IntEnum):
    """The limits, numbered as `holdfast.v1.BudgetDimension`."""

    DEADLINE = 1
    STEPS = 2
    TOOLS = 3
    TOKENS = 4
    CONTEXT = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a run may spend; `deadline` in seconds from acceptance. 0 says nothing of a limit."""

    deadline: float = 0
    steps: int = 0
    tools: int = 0
    tokens: int = 0
    context: int = 0

    def over(self, others: "Limits") -> "Limits":
        """Return these limits, with the others where they are 0."""
        return Limits(
            self.deadline or others.deadline,
            self.steps or others.steps,
            self.tools or others.tools,
            self.tokens or others.tokens,
            self.context or others.context,
        )


@dataclass(slots=True)
class Usage:
    """What was spent: recorded steps, tool calls, model tokens, the largest context of one call."""

    steps: int = 0
    tools: int = 0
    tokens: int = 0
    context: int = 0


class Budget:
    """What is left, as the agent may read it; a recorded step does not charge again in a replay.

    The numbers an agent sees in a replay are those of now, not of then: decide by them what to try, not what
    was done.
    """

    __slots__ = ("_began", "_clock", "_ends", "_lent", "_limits", "_reserved", "_spent")

    def __init__(
        self,
        limits: Limits,
        spent: Usage,
        remaining: float,
        clock: Callable[[], float] = time.monotonic,
        lent: Usage | None = None,
    ) -> None:
        self._lent = Usage() if lent is None else Usage(lent.steps, lent.tools, lent.tokens)
        self._limits = limits
        self._spent = spent
        self._reserved = Usage()
        self._clock = clock
        self._ends = clock() + remaining
        self._began = self._ends - limits.deadline

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self._limits

    @property
    def spent(self) -> Usage:
        """What is spent; a copy."""
        spent = self._spent
        return Usage(spent.steps, spent.tools, spent.tokens, spent.context)

    @property
    def lent(self) -> Usage:
        """What is set aside for children that have not ended, of steps, tools and tokens; a copy."""
        lent = self._lent
        return Usage(lent.steps, lent.tools, lent.tokens)

    @property
    def seconds(self) -> float:
        """Seconds to the deadline, not below 0."""
        return max(0.0, self._ends - self._clock())

    @property
    def steps(self) -> int:
        """Steps that may still start."""
        return max(0, self._limits.steps - self._spent.steps - self._reserved.steps - self._lent.steps)

    @property
    def tools(self) -> int:
        """Tool calls that may still start."""
        return max(0, self._limits.tools - self._spent.tools - self._reserved.tools - self._lent.tools)

    @property
    def tokens(self) -> int:
        """Model tokens not spent, not reserved by calls in flight, and not lent to children."""
        return max(0, self._limits.tokens - self._spent.tokens - self._reserved.tokens - self._lent.tokens)

    @property
    def context(self) -> int:
        """The most tokens one model call may read."""
        return self._limits.context

    @property
    def elapsed(self) -> float:
        """Seconds since the deadline's count began, by the ledger's clock as of the lease: since acceptance.

        After a retry or a handoff, in the leases that follow it, since that.
        """
        return max(0.0, self._clock() - self._began)


class Meter(Budget):
    """The same, with the right to spend: reserve before a step, settle after it."""

    __slots__ = ()

    @property
    def hardly_spent(self) -> bool:
        """Whether less than half of every limit is spent."""
        spent, limits = self._spent, self._limits
        return (
            2 * spent.steps < limits.steps
            and 2 * spent.tools < limits.tools
            and 2 * spent.tokens < limits.tokens
            and 2 * self.elapsed < limits.deadline
        )

    def lacking(self, *, tools: int = 0, context: int = 0) -> Dimension | None:
        """Name the limit that a step with these needs would pass, or None; tokens are the allotment's."""
        if self._ends <= self._clock():
            return Dimension.DEADLINE
        if self._spent.steps + self._reserved.steps + self._lent.steps >= self._limits.steps:
            return Dimension.STEPS
        if tools and tools > self.tools:
            return Dimension.TOOLS
        if context > self._limits.context:
            return Dimension.CONTEXT
        return None

    def reached(self) -> Dimension:
        """Name the limit that is reached, after the ledger has said that one is."""
        spent, limits, lent = self._spent, self._limits, self._lent
        if spent.steps + lent.steps > limits.steps:
            return Dimension.STEPS
        if spent.tools + lent.tools > limits.tools:
            return Dimension.TOOLS
        if spent.tokens + lent.tokens >= limits.tokens:
            return Dimension.TOKENS
        return Dimension.CONTEXT if spent.context >= limits.context else Dimension.STEPS

    def reserve(self, *, tools: int = 0) -> None:
        """Set a step's share aside until it is settled."""
        self._reserved.steps += 1
        self._reserved.tools += tools

    def release(self, *, tools: int = 0) -> None:
        """Give a step's share back."""
        self._reserved.steps -= 1
        self._reserved.tools -= tools

    def set_aside(self, tokens: int) -> None:
        """Set tokens aside; give them back with the negative number."""
        self._reserved.tokens += tokens

    def lend(self, usage: Usage) -> None:
        """Set steps, tools and tokens aside for a child; give them back with the negative numbers."""
        self._lent.steps += usage.steps
        self._lent.tools += usage.tools
        self._lent.tokens += usage.tokens

    def renew(self, limits: Limits, remaining: float) -> None:
        """Put other limits in force, with so many seconds to the deadline; what is spent stays spent."""
        self._limits = limits
        self._ends = self._clock() + remaining

    def charge(self, usage: Usage) -> None:
        """Spend for good."""
        spent = self._spent
        spent.steps += usage.steps
        spent.tools += usage.tools
        spent.tokens += usage.tokens
        spent.context = max(spent.context, usage.context)
