"""What a run may spend, what it has spent, and whether one more commit is within it."""

from enum import IntEnum
from typing import Final, NamedTuple


class Dimension(IntEnum):
    """The numbers of `holdfast.v1.BudgetDimension`."""

    NONE = 0
    DEADLINE = 1
    STEPS = 2
    TOOLS = 3
    TOKENS = 4
    CONTEXT = 5


class Limits(NamedTuple):
    """The five limits of a budget; 0 where it says nothing."""

    deadline_ms: int = 0
    max_steps: int = 0
    max_tools: int = 0
    max_tokens: int = 0
    max_context: int = 0

    def over(self, defaults: "Limits") -> "Limits":
        """Return these limits, with the defaults where they say nothing."""
        return Limits(*(limit or default for limit, default in zip(self, defaults, strict=True)))


class Usage(NamedTuple):
    """What was spent; `context` is the largest of one model call, never a sum."""

    steps: int = 0
    tools: int = 0
    tokens: int = 0
    context: int = 0

    def plus(self, charge: "Usage") -> "Usage":
        """Return what is spent after a charge."""
        return Usage(
            steps=self.steps + charge.steps,
            tools=self.tools + charge.tools,
            tokens=self.tokens + charge.tokens,
            context=max(self.context, charge.context),
        )


NO_LIMITS: Final = Limits()
NOTHING_SPENT: Final = Usage()


def exceeded(spent: Usage, charge: Usage, limits: Limits) -> Dimension:
    """Name the limit a commit's charge would break; NONE if it fits.

    Steps and tools never pass their limit. Tokens may pass theirs once, by the call that was in flight when
    it was reached: what a model call costs is known only after it, so a charge is refused when nothing was
    left before it.
    """
    after = spent.plus(charge)
    if after.steps > limits.max_steps:
        return Dimension.STEPS
    if after.tools > limits.max_tools:
        return Dimension.TOOLS
    if charge.tokens > 0 and spent.tokens >= limits.max_tokens:
        return Dimension.TOKENS
    if charge.context > limits.max_context:
        return Dimension.CONTEXT
    return Dimension.NONE


def leaves_room(dimension: Dimension, spent: Usage, limits: Limits) -> bool:
    """Say whether a run that ended at this limit could go on under these limits.

    The deadline always does: a retried run's counts from the retry.
    """
    room = {
        Dimension.STEPS: limits.max_steps - spent.steps,
        Dimension.TOOLS: limits.max_tools - spent.tools,
        Dimension.TOKENS: limits.max_tokens - spent.tokens,
        Dimension.CONTEXT: limits.max_context - spent.context,
    }
    return room.get(dimension, 1) > 0
